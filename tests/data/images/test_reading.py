"""Images of phones, thermal cameras and cut-outs look as they should, and linked folders are followed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from torchreid_genext.data.images import open_as_torchreid, open_image
from torchreid_genext.data.images.reading import (
    FORMATS,
    SUFFIXES,
    fault_of,
    image_files,
    image_size,
    is_image,
    readable_images,
)
from torchreid_genext.data.store import pose2id_folders

ORIENTATION = 0x0112


def speckled(mode: str = "RGB") -> Image.Image:
    channels = {"RGB": 3, "RGBA": 4, "LA": 2, "L": 1}[mode]
    levels = np.random.default_rng(0).integers(0, 256, (128, 64, channels), dtype=np.uint8)
    return Image.fromarray(levels.squeeze(), mode)


def file_of(image: Image.Image, kind: str = "PNG", **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return io.BytesIO(file.getvalue())


def turned(orientation: int, kind: str, image: Image.Image | None = None) -> io.BytesIO:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return file_of(image or speckled(), kind, exif=exif)


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.mode == other.mode == "RGB" and one.size == other.size and one.tobytes() == other.tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_phone_pictures_stand_upright_and_are_measured_as_torchreid_does(
    kind: str, orientation: int
) -> None:
    with Image.open(turned(orientation, kind)) as image:
        lying, upright = image.convert("RGB"), ImageOps.exif_transpose(image).convert("RGB")
    assert lying.size == (64, 128) and (upright.size == (128, 64)) == (orientation >= 5)
    assert same(open_image(turned(orientation, kind)), upright)
    assert image_size(turned(orientation, kind)) == upright.size[::-1]
    assert same(open_as_torchreid(turned(orientation, kind)), lying)


def test_cut_outs_of_phones_stand_upright_too() -> None:
    assert open_image(turned(6, "PNG", speckled("RGBA"))).size == (128, 64)
    assert open_image(turned(6, "PNG", Image.new("I;16", (64, 128)))).size == (128, 64)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"x", b"Exif\0\0"])
def test_damaged_exif_is_passed_over(exif: bytes) -> None:
    assert open_image(file_of(speckled(), "JPEG", exif=exif)).size == (64, 128)
    assert image_size(file_of(speckled(), "JPEG", exif=exif)) == (128, 64)


@pytest.mark.parametrize("kind", FORMATS)
def test_opaque_pictures_are_read_as_torchreid_does(kind: str) -> None:
    with Image.open(file_of(speckled(), kind)) as image:
        expected = image.convert("RGB")
    assert same(open_image(file_of(speckled(), kind)), expected)
    assert same(open_as_torchreid(file_of(speckled(), kind)), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_lies_below_transparency_does_not_matter(mode: str) -> None:
    one, other = np.array(speckled(mode)), np.array(speckled(mode))
    one[..., -1] = other[..., -1] = np.where(one[..., -1] < 128, 0, one[..., -1])
    other[one[..., -1] == 0, 0] ^= 255
    pictures = [open_image(file_of(Image.fromarray(each, mode))) for each in (one, other)]
    assert same(*pictures)
    share = one[..., -1:].astype(float) / 255
    expected = share * one[..., :-1] + (1 - share) * 255
    np.testing.assert_allclose(np.array(pictures[0]), np.broadcast_to(expected, (128, 64, 3)), atol=1)


def test_a_transparent_colour_of_a_palette_shows_white() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    assert open_image(file_of(image, transparency=1)).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(file_of(image)).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("read", [open_image, open_as_torchreid])
def test_grey_levels_of_16_bits_keep_their_upper_eight(read) -> None:
    levels = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    found = np.array(read(file_of(Image.fromarray(levels))))
    assert (found == (levels // 256)[..., None]).all()


def test_faults_are_collected_and_the_others_read() -> None:
    faults: dict[int, str] = {}
    files = [file_of(speckled()), io.BytesIO(b"no picture"), io.BytesIO(), file_of(speckled())]
    assert [position for position, _ in readable_images(files, faults)] == [0, 3]
    assert [*faults] == [1, 2] and all(
        "cannot identify" in fault and "0x" not in fault for fault in faults.values()
    )
    assert fault_of(file_of(speckled())) == "" and "No such file" in fault_of("nowhere.jpg")


def test_a_cut_off_picture_is_a_fault_whatever_its_exif() -> None:
    for orientation in (1, 6):
        content = turned(orientation, "JPEG").getvalue()
        assert "truncated" in fault_of(io.BytesIO(content[: len(content) // 2]))


def test_images_are_told_by_their_suffix_but_for_hidden_files() -> None:
    assert all(is_image(f"a/b{suffix.upper()}") for suffix in SUFFIXES)
    assert not any(map(is_image, ("a.txt", "jpg", ".jpg", "a/._b.jpg")))
    assert tuple(pose2id_folders.FORMATS) == SUFFIXES
    assert {kind for kind, _ in pose2id_folders.FORMATS.values()} == set(FORMATS)


def test_linked_folders_are_followed_each_once(tmp_path: Path) -> None:
    real, images = tmp_path / "real", tmp_path / "images"
    for folder in (real / "deep", images / "own"):
        folder.mkdir(parents=True)
        (folder / "a.jpg").touch()
    (images / "link").symlink_to(real)
    (images / "again").symlink_to(images / "own")
    (real / "deep" / "round").symlink_to(images)
    (images / "alone.PNG").symlink_to(real / "deep" / "a.jpg")
    (images / "broken").symlink_to(tmp_path / "nowhere")
    found = [str(Path(path).relative_to(images)) for path in image_files(images)]
    assert found == ["alone.PNG", "link/deep/a.jpg", "own/a.jpg"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="expected images in .*nowhere, got no such folder"):
        image_files(tmp_path / "nowhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.jpg").touch()
    assert image_files("~") == [str(tmp_path / "a.jpg")]
