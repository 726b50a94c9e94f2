"""Images in the style of other cameras: names, the authors' folder, stores, and the data sets of both."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import torchreid_genext as genext
from torchreid_genext import compat
from torchreid_genext.data.filenames import parse
from torchreid_genext.data.store import ImageStore
from torchreid_genext.data.store.camstyle_folder import (
    FOLDER,
    export_fakes,
    fake_name,
    import_fakes,
    parse_fake,
    style_camera,
    style_files,
    style_pose,
)
from torchreid_genext.data.torchreid_training.datasets import GeneratedImage, augmenting, generated_folder

# two people under three cameras; torchreid counts people from 0
NAMES = ["0002_c1s1_000451_03.jpg", "0002_c3s1_000500_01.jpg", "0007_c2s1_000001_00.jpg"]
PIDS = {2: 0, 7: 1}


def shade(number: int) -> Image.Image:
    return Image.new("RGB", (8, 16), (number % 256, 10, 20))


def cameras(names: list[str] = NAMES) -> dict[str, int]:
    return {name: parse(name).camid for name in names}


def write_fakes(root: Path, names: list[str] = NAMES, count: int = 3) -> Path:
    """Every image in the style of every other camera, as the authors have it; its shade tells both."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        own = parse(name).camid
        for style in (style for style in range(count) if style != own):
            shade(10 * number + style).save(folder / fake_name(name, own, style), quality=100, subsampling=0)
    return folder


@pytest.fixture
def market(tmp_path: Path) -> Any:
    """`market`, a data set of the three images, registered with its `market_camstyle`."""
    for name in NAMES:
        shade(0).save(tmp_path / name)

    class Market(compat.ImageDataset):
        _junk_pids = [-1]

        def __init__(self, root: str = "", **options: Any) -> None:
            train = [(str(tmp_path / name), PIDS[parse(name).pid], parse(name).camid) for name in NAMES]
            super().__init__(train, train[:1], train[1:], **options)

    compat.register_image_dataset("market", Market)
    genext.register()
    yield tmp_path
    genext.unregister()
    compat.unregister_image_dataset("market", Market)


def opened(root: Path, place: str | None = None, **options: Any) -> list[tuple[Any, ...]]:
    """The fakes among the training items; they lie in the root of data if no place is said."""
    with augmenting(**{"root": str(root) if place is None else place, "ratio": 2.0, **options}):
        dataset = compat.init_image_dataset("market_camstyle", root=str(root), verbose=False)
    return [item for item in dataset.train if isinstance(item[0], GeneratedImage)]


def test_name_tells_both_cameras_and_comes_back() -> None:
    fake = parse_fake("somewhere/0002_c1s1_000451_03_fake_1to2.jpg")
    assert fake == ("0002_c1s1_000451_03.jpg", 2, 0, 1)
    assert fake_name(fake.real, fake.camid, fake.style) == "0002_c1s1_000451_03_fake_1to2.jpg"
    assert parse_fake("-1_c6s1_000451_03_fake_6to12.png") == ("-1_c6s1_000451_03.png", -1, 5, 11)
    assert parse_fake("0005_c2_f0046985_fake_2to8.jpg", "dukemtmcreid") == ("0005_c2_f0046985.jpg", 5, 1, 7)
    assert [style_camera(style_pose(camera)) for camera in (0, 1, 14)] == [0, 1, 14]


@pytest.mark.parametrize("name", ["0002_c1s1_000451_03.jpg", "0002_c1s1_000451_03_fake_0to2.jpg", "fake.jpg"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"a name such as .*_fake_1to2.jpg, got '{name}'"):
        parse_fake(name)


def test_cameras_that_contradict_each_other_are_refused(market: Path) -> None:
    name = "0002_c1s1_000451_03_fake_3to2.jpg"
    with pytest.raises(ValueError, match=f"a fake of camera 1, as the real image's name tells, got '{name}'"):
        parse_fake(name)
    shade(0).save(write_fakes(market) / name)
    with pytest.raises(ValueError, match=f"a fake of camera 1, where the real image is from, got '{name}'"):
        opened(market)
    for pose in ("1", "camera", "camera0", "camera01"):
        with pytest.raises(ValueError, match=f"such as camera2, got pose '{pose}'"):
            style_camera(pose)


def test_fakes_have_the_label_of_their_real_image_though_somebody_is_missing(market: Path) -> None:
    folder = write_fakes(market, NAMES[2:])  # officially 0007 would be numbered 0 now
    items = opened(market, ratio=9.0)
    assert {item[1] for item in items} == {1} and {item[2] for item in items} == {1}
    assert sorted(item[0] for item in items) == sorted(str(path) for path in folder.iterdir())


@pytest.mark.parametrize(
    ("camera", "found"),
    [
        ("same", {0: 2, 2: 2, 1: 2}), ("new", {3: 6}), ("style", {0: 2, 1: 2, 2: 2}),
        ("per_pose", {3: 2, 4: 2, 5: 2}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["folder", "store"])
def test_camera_of_a_fake_is_by_policy(market: Path, kind: str, camera: str, found: dict[int, int]) -> None:
    folder, root = write_fakes(market), market
    if kind == "store":
        root = market / "store"
        import_fakes(folder, ImageStore.create(root), {})
    items = opened(root, camera=camera)
    assert {
        number: sum(item[2] == number for item in items) for number in {item[2] for item in items}
    } == found
    if camera == "style":
        for path, _, style, *_ in items:
            with Image.open(path) as image:
                assert image.getpixel((0, 0))[0] % 10 == style


def test_default_places_are_beside_the_data_and_the_folder_itself_will_do(market: Path) -> None:
    assert generated_folder("market1501", "data", "camstyle") == Path("data/market1501_generated/camstyle")
    folder = write_fakes(generated_folder("market", market, "camstyle"))
    assert len(opened(market, "")) == len(opened(market, str(folder))) == 6


def test_fakes_of_unknown_people_are_named(market: Path) -> None:
    write_fakes(market, [*NAMES, "0009_c1s1_000001_00.jpg", "0000_c2s1_000001_00.jpg"])
    with pytest.raises(
        ValueError,
        match="people in the training images of market, got 2 others: 0000, 0009; such as .*0000_c2",
    ):
        opened(market)


def test_junk_is_left_out_and_other_images_of_known_people_are_said(
    market: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_fakes(market, [*NAMES, "-1_c2s1_000001_00.jpg", "0007_c1s1_000009_00.jpg"])
    assert len(opened(market, ratio=9.0)) == 6
    assert "of no training image of market: 2 generated images, such as " in caplog.text
    assert "0007_c1s1_000009_00_fake_1to" in caplog.text and "-1_c2" not in caplog.text


def test_half_written_folder_is_reported_and_what_is_whole_is_used(
    market: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_fakes(market)
    opened(market)
    assert "half-written" not in caplog.text
    (folder / "0002_c1s1_000451_03_fake_1to3.jpg").unlink()
    cut = folder / "0007_c2s1_000001_00_fake_2to1.jpg"
    cut.write_bytes(cut.read_bytes()[:200])
    (folder / ".1234-0007_c2s1_000001_00_fake_2to3.jpg").write_bytes(b"begun")
    (folder / "Thumbs.db").write_bytes(b"")
    assert len(opened(market)) == 4
    assert (
        "market: half-written: 1 of 6 images in the style of other cameras are missing, such as camera3 of "
        in (caplog.text)
    )
    assert f"left out, since it cannot be read: {cut}: " in caplog.text


def test_places_without_fakes_are_refused(market: Path) -> None:
    rule = (
        f"in the style of other cameras in genext.augmented.root, .*{FOLDER}/<name>_fake_1to2.jpg, got none"
    )
    with pytest.raises(ValueError, match=rule):
        opened(market)
    (market / FOLDER).mkdir()
    with pytest.raises(ValueError, match=rule):
        style_files(market, "market", {})
    with pytest.raises(ValueError, match=f"expected fakes as {FOLDER}/.*, got none in "):
        import_fakes(market, ImageStore.create(market / "store"), {})


def test_pictures_in_poses_have_no_style(market: Path) -> None:
    store = ImageStore.create(market / "poses")
    store.add(shade(1), split="train", reference=NAMES[0], pose="1", provenance={})
    with pytest.raises(ValueError, match="in the style of a camera, such as camera2, got pose '1'"):
        opened(market / "poses")
    with (
        augmenting(root=str(market / "poses"), camera="style"),
        pytest.raises(ValueError, match="got pose '1'"),
    ):
        compat.init_image_dataset("market_ipg", root=str(market), verbose=False)


def pixels(path: Path | str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_store_and_folder_hold_the_same_pictures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, again = ImageStore.create(tmp_path / "store"), ImageStore.create(tmp_path / "again")
    folder = write_fakes(tmp_path / "first")
    assert import_fakes(tmp_path / "first", store, {"source": "authors"}) == 6
    assert export_fakes(store, tmp_path / "second", cameras()) == 6
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for path in (tmp_path / "second" / FOLDER).iterdir()
    )
    for path in folder.iterdir():
        assert np.abs(pixels(path) - pixels(tmp_path / "second" / FOLDER / path.name)).max() < 4
    (folder / "0002_c1s1_000451_03_fake_1to2.jpg").write_bytes(b"no picture")
    with caplog.at_level(logging.WARNING):
        assert import_fakes(folder, again, {}) == 5
    assert "left out, since it cannot be read" in caplog.text
    assert store.poses("train") == ["camera1", "camera2", "camera3"]
    assert {entry.provenance["source"] for entry in store.entries()} == {"authors"}


def test_stores_that_cannot_be_written_as_a_folder_are_refused(tmp_path: Path) -> None:
    store = ImageStore.create(tmp_path / "store")
    with pytest.raises(ValueError, match="expected a store with pictures of train, got '.*store' without"):
        export_fakes(store, tmp_path, cameras())
    store.add(shade(1), split="train", reference="x.jpg", pose="camera2", provenance={})
    with pytest.raises(ValueError, match="pictures of the real images that are given, got one of x.jpg"):
        export_fakes(store, tmp_path, cameras())
    with pytest.raises(ValueError, match="names of real images with .jpg, .*, got x_fake_1to2.gif"):
        other = ImageStore.create(tmp_path / "other")
        other.add(shade(1), split="train", reference="x.gif", pose="camera2", provenance={})
        export_fakes(other, tmp_path, {"x.gif": 0})
    assert not (tmp_path / FOLDER).exists()
