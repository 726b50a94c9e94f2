"""Pose2ID's folders: written from a store and read into one."""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchreid_genext.data.store import ImageStore
from torchreid_genext.data.store.judgements import Mark
from torchreid_genext.data.store.lookup import find_generated
from torchreid_genext.data.store.pose2id_folders import export, import_layout

NAMES = ["0002_c1s1_000451_03.jpg", "0007_c3s3_077419_03.png", "0009_c2s1_000001_00.bmp", "0011.webp"]


def picture(number: int) -> Image.Image:
    """A smooth picture with an edge, as photographs are."""
    y, x = np.mgrid[:32, :16]
    pixels = np.stack([x * 12 + number, y * 7, np.where(x > 8, 200, 40)], -1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    """Four references in poses 1 and 10, as queries and galleries, and one for training."""
    store = ImageStore.create(tmp_path / "store")
    for number, name in enumerate(NAMES):
        for split in ("query", "gallery"):
            for pose in ("1", "10"):
                image = picture(number + 10 * int(pose))
                store.add(image, split=split, reference=name, pose=pose, provenance={"seed": number})
    store.add(picture(0), split="train", reference="0002.jpg", pose="1", provenance={})
    return store


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_files_are_called_as_the_real_images_and_are_what_they_are_called(
    store: ImageStore, tmp_path: Path
) -> None:
    assert export(store, tmp_path / "out", progress=False) == 16
    folders = [
        "bounding_box_test_gen/pose1",
        "bounding_box_test_gen/pose10",
        "query_gen/pose1",
        "query_gen/pose10",
    ]
    found = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert [str(path.relative_to(tmp_path / "out")) for path in found] == [
        f"{folder}/{name}" for folder in folders for name in NAMES
    ]
    for path, kind in zip(found, ["JPEG", "PNG", "BMP", "WEBP"] * 4):
        with Image.open(path) as image:
            assert (image.format, image.size) == (kind, (16, 32))


def test_round_trip_keeps_pixels_exactly_or_within_the_error_of_jpeg(
    store: ImageStore, tmp_path: Path
) -> None:
    export(store, tmp_path / "out", progress=False)
    other = ImageStore.create(tmp_path / "other")
    assert import_layout(tmp_path / "out", other, {"source": "export"}, progress=False) == 16
    for split in ("query", "gallery"):
        first, second = store.files(split), other.files(split)
        assert {pose: list(files) for pose, files in second.items()}.keys() == first.keys()
        for pose, files in first.items():
            for name, path in files.items():
                error = np.abs(pixels(path) - pixels(second[pose][name]))
                assert (
                    error.max() == 0 if not name.endswith(".jpg") else 0 < error.max() < 16 > 8 * error.mean()
                )
    assert list(other.entries("train")) == []
    assert {entry.provenance["source"] for entry in other.entries()} == {"export"}


def test_what_is_read_again_is_there_and_other_content_is_another_picture(
    store: ImageStore, tmp_path: Path
) -> None:
    export(store, tmp_path / "out", progress=False)
    other = ImageStore.create(tmp_path / "other")
    for _ in range(2):
        import_layout(tmp_path / "out", other, {}, progress=False)
        assert len(list(other.entries())) == 16
    picture(99).save(tmp_path / "out/query_gen/pose1" / NAMES[1])
    import_layout(tmp_path / "out", other, {}, progress=False)
    assert len(list(other.entries())) == 17


def test_evaluation_finds_the_same_pictures_in_the_folders_as_in_the_store(
    store: ImageStore, tmp_path: Path
) -> None:
    export(store, tmp_path / "out", progress=False)
    for split in ("query", "gallery"):
        paths = [f"data/{name}" for name in NAMES]
        found = (find_generated(root, paths, split).paths for root in (store.root, tmp_path / "out"))
        for ours, theirs in zip(*found):
            assert [np.abs(pixels(a) - pixels(b)).mean() < 2 for a, b in zip(ours, theirs)] == [True, True]


def test_dropped_pictures_are_left_out(store: ImageStore, tmp_path: Path) -> None:
    dropped = next(entry for entry in store.entries("query") if entry.pose == "10")
    store.mark(dropped, Mark(("blank",)))
    assert export(store, tmp_path / "out", progress=False) == 15
    assert not (tmp_path / "out/query_gen/pose10" / dropped.reference).exists()


def test_poses_of_other_names_are_numbered_in_their_order_in_both_splits_alike(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ImageStore.create(tmp_path / "store")
    for split, poses in (("query", ["side", "2"]), ("gallery", ["back", "side"])):
        for pose in poses:
            store.add(picture(0), split=split, reference="a.png", pose=pose, provenance={})
    with caplog.at_level(logging.INFO):
        export(store, tmp_path / "out", progress=False)
    assert "poses are numbered: 2 is 1, back is 2, side is 3" in caplog.text
    found = sorted(
        str(path.parent.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("a.png")
    )
    assert found == [f"bounding_box_test_gen/pose{n}" for n in (2, 3)] + [
        f"query_gen/pose{n}" for n in (1, 3)
    ]


def test_a_name_that_tells_no_format_is_refused_before_anything_is_written(
    store: ImageStore, tmp_path: Path
) -> None:
    store.add(picture(0), split="query", reference="a.xcf", pose="1", provenance={})
    with pytest.raises(ValueError, match="expected names of real images with .jpg, .*, got a.xcf"):
        export(store, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_whole_files(
    store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(range(5))

    def flush_until_full(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, "fsync", flush_until_full)
        export(store, tmp_path / "out", progress=False)
    assert len([pixels(path) for path in (tmp_path / "out").rglob("*") if path.is_file()]) == 5


def test_files_that_cannot_be_read_are_left_out_and_others_are_nobodys_business(
    store: ImageStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export(store, tmp_path / "out", progress=False)
    folder = tmp_path / "out/query_gen"
    (folder / "pose1" / NAMES[0]).write_bytes(b"no picture")
    for name in ("pose1/Thumbs.db", "pose1/.hidden.jpg", "note.txt"):
        (folder / name).write_text("")
    other = ImageStore.create(tmp_path / "other")
    assert import_layout(tmp_path / "out", other, {}, progress=False) == 15
    assert f"left out, since it cannot be read: {folder / 'pose1' / NAMES[0]}" in caplog.text


def test_places_without_pictures_are_refused(tmp_path: Path) -> None:
    empty = ImageStore.create(tmp_path / "store")
    with pytest.raises(ValueError, match="expected a store with pictures of query or gallery, got '.*store'"):
        export(empty, tmp_path / "out")
    (tmp_path / "lost/query_gen/pose1").mkdir(parents=True)
    for folder in ("lost", "nowhere"):
        with pytest.raises(ValueError, match=f"expected generated images as .* got none in '.*{folder}'"):
            import_layout(tmp_path / folder, empty, {})
