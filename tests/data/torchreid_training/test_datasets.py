"""Data sets with generated images: what joins the training split, how it is chosen, and what is said."""

from __future__ import annotations

import copy
import logging
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import torchreid_genext as genext
from torchreid_genext import compat
from torchreid_genext.data.store import ImageStore
from torchreid_genext.data.torchreid_training.datasets import (
    KINDS,
    GeneratedImage,
    augmenting,
    generated_folder,
    plain_name,
)

pytestmark = pytest.mark.usefixtures("registered")

POSES = ("2", "10", "side")
PLAIN = [("7", 0, 0), ("8", 0, 2), ("9", 1, 0), ("a", 1, 1)]  # name, person, camera


def shade(number: int) -> Image.Image:
    return Image.new("RGB", (8, 16), (number % 256, 10, 20))


def fill(root: Path, names: list[str], poses: tuple[str, ...] = POSES, **changes: Any) -> ImageStore:
    store = ImageStore.create(root)
    for number, name in enumerate(names):
        for pose in poses:
            request = {"split": "train", "reference": name, "pose": pose, "provenance": {}} | changes
            store.add(shade(number), **request)
    return store


def open_set(name: str = "people_ipg", root: Path | str = "", **options: Any) -> Any:
    return compat.init_image_dataset(name, root=str(root), verbose=False, **options)


def added(dataset: Any) -> list[tuple[Any, ...]]:
    return [item for item in dataset.train if isinstance(item[0], GeneratedImage)]


@pytest.fixture
def people(tmp_path: Path) -> type:
    """`people`, registered by a user after us: two people, four training images, two more to test with."""
    names = [f"{name}.jpg" for name, _, _ in PLAIN] + ["q.jpg", "g.jpg"]
    for number, name in enumerate(names):
        shade(number).save(tmp_path / name)

    class People(compat.ImageDataset):
        _junk_pids = [-1]

        def __init__(self, root: str = "", **options: Any) -> None:
            train = [(str(tmp_path / f"{name}.jpg"), pid, camid) for name, pid, camid in PLAIN]
            query, gallery = (
                [(str(tmp_path / name), 5, camid)] for name, camid in (("q.jpg", 0), ("g.jpg", 3))
            )
            super().__init__(train, query, gallery, **options)

    compat.register_image_dataset("people", People)
    genext.register()
    yield People
    compat.unregister_image_dataset("people", People)


@pytest.fixture
def store(people: type, tmp_path: Path) -> ImageStore:
    """Every training image of `people` in three poses, where `people_ipg` looks for them."""
    return fill(tmp_path / "people_generated" / "ipg", [f"{name}.jpg" for name, _, _ in PLAIN])


@pytest.fixture
def opened(store: ImageStore, tmp_path: Path) -> Any:
    """`people_ipg`, with options of `augmenting`."""

    def open_with(mode: str = "train", combineall: bool = False, **options: Any) -> Any:
        with augmenting(**options):
            return open_set(root=tmp_path, mode=mode, combineall=combineall)

    return open_with


def test_every_image_dataset_has_a_second_name_until_unregistered(people: type) -> None:
    names = compat.image_dataset_names()
    endings = tuple(f"_{kind}" for kind in KINDS)
    plain = [name for name in names if not name.endswith(endings)]
    assert {"market1501", "msmt17", "synthreid_tiny", "people"} <= set(plain)
    assert sorted(names) == sorted([*plain, *(name + ending for name in plain for ending in endings)])
    genext.unregister()
    assert not [name for name in compat.image_dataset_names() if name.endswith(endings)]


def test_name_of_a_user_stays_the_users_and_names_of_what_is_gone_go(people: type) -> None:
    class Mine(people):
        pass

    genext.unregister()
    compat.register_image_dataset("people_ipg", Mine)
    try:
        genext.register()
        assert compat.image_datasets()["people_ipg"] is Mine
        assert plain_name("people_ipg") == "people_ipg" and plain_name("people_ipg_ipg") == "people_ipg"
    finally:
        compat.unregister_image_dataset("people_ipg", Mine)
    genext.register()
    assert "people_ipg" in compat.image_datasets() and "people_ipg_ipg" not in compat.image_datasets()


def test_generated_images_have_the_person_and_camera_of_their_real_one(opened: Any) -> None:
    dataset = opened(ratio=3.0)
    items = {Path(item[0]).name: item[1:] for item in dataset.train[: len(PLAIN)]}
    assert items == {f"{name}.jpg": (pid, camid, 0) for name, pid, camid in PLAIN}
    assert sorted(item[1:] for item in added(dataset)) == sorted(3 * list(items.values()))
    assert len(dataset) == len(dataset.data) == 16 and {item[0] for item in added(dataset)} <= set(
        str(path) for path in Path(added(dataset)[0][0]).parents[1].rglob("*.png")
    )
    assert (dataset.num_train_pids, dataset.num_train_cams) == (2, 3)


def test_picture_of_an_item_is_the_one_made_from_its_person(opened: Any) -> None:
    persons = {number: pid for number, (_, pid, _) in enumerate(PLAIN)}  # shades are numbers of real images
    dataset = opened(ratio=3.0)
    for path, pid, *_ in added(dataset):
        with Image.open(path) as image:
            assert persons[image.getpixel((0, 0))[0]] == pid


def test_test_images_are_the_same_and_need_no_pictures(people: type, opened: Any, tmp_path: Path) -> None:
    plain, dataset = open_set("people", tmp_path), opened()
    assert (dataset.query, dataset.gallery) == (plain.query, plain.gallery)
    for mode in ("query", "gallery"):
        with augmenting(root="nowhere"):
            assert open_set(root=tmp_path, mode=mode).data == getattr(plain, mode)


@pytest.mark.parametrize(("ratio", "count"), [(0.5, 2), (1.0, 4), (1.6, 6), (3.0, 12)])
def test_ratio_is_generated_images_for_each_real_one(opened: Any, ratio: float, count: int) -> None:
    dataset = opened(ratio=ratio)
    assert len(added(dataset)) == count and len({item[0] for item in added(dataset)}) == count


def test_choice_is_the_same_whatever_order_the_file_system_gives(opened: Any) -> None:
    expected = added(opened(ratio=0.5))
    PLAIN.reverse()
    try:
        assert added(opened(ratio=0.5)) == expected
    finally:
        PLAIN.reverse()


def test_ratio_of_nothing_is_the_plain_dataset_without_looking_for_pictures(
    people: type, tmp_path: Path
) -> None:
    with augmenting(ratio=0.0):
        assert open_set(root=tmp_path).train == open_set("people", tmp_path).train


def test_more_than_there_are_is_said_and_all_join(opened: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert len(added(opened(ratio=5.0))) == 12
    assert "expected 20 generated images of 4 real ones for this ratio; all of the 12" in caplog.text


@pytest.mark.parametrize(("camera", "cameras"), [("same", 3), ("new", 4), ("per_pose", 6)])
def test_cameras_are_by_policy_and_numbered_without_gaps(opened: Any, camera: str, cameras: int) -> None:
    dataset = opened(camera=camera, ratio=2.0)
    camids = {item[2] for item in added(dataset)}
    assert camids == (set(range(3)) if camera == "same" else set(range(3, cameras)))
    assert dataset.num_train_cams == dataset.get_num_cams(dataset.train) == cameras


def test_camera_per_pose_is_one_for_each(opened: Any) -> None:
    dataset = opened(camera="per_pose", ratio=3.0)
    assert Counter(item[2] for item in added(dataset)) == {3: 4, 4: 4, 5: 4}
    few = opened(camera="per_pose", ratio=0.25)
    assert [item[2] for item in added(few)] == [3]


def test_all_splits_together_are_as_torchreids_with_pictures_of_training_images_only(
    opened: Any, store: ImageStore, tmp_path: Path
) -> None:
    plain = open_set("people", tmp_path, combineall=True)
    dataset = opened(ratio=3.0, combineall=True, camera="new")
    assert dataset.train[: len(plain.train)] == plain.train == dataset.data[: len(plain.train)]
    assert len(added(dataset)) == 12 and {item[2] for item in added(dataset)} == {4}
    assert (dataset.num_train_pids, dataset.num_train_cams) == (plain.num_train_pids, 5)


def test_samples_that_carry_no_dataset_number_keep_their_layout(opened: Any, people: type) -> None:
    people.train = property(
        lambda self: self.items, lambda self, items: vars(self).update(items=three(items))
    )
    try:
        people.get_num_datasets = lambda self, data: 1
        assert {len(item) for item in opened().train} == {3} and len(added(opened())) == 4
    finally:
        del people.train, people.get_num_datasets


def three(items: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [item[:3] for item in items]


def test_marks_survive_adding_datasets_copies_and_other_processes(opened: Any, tmp_path: Path) -> None:
    dataset = opened(camera="new")
    total = sum([open_set("people", tmp_path), dataset])
    assert len(added(total)) == 4 and total.num_train_pids == 4
    assert {item[2] for item in added(total)} == {6} and total.num_train_cams == 7
    for other in (copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset_of_a_module(dataset)))):
        assert (
            len(added(other)) == 4 and other.train == dataset.train and other[5]["pid"] == dataset[5]["pid"]
        )


def dataset_of_a_module(dataset: Any) -> Any:
    """The same, extending a class that pickle can find."""
    from torchreid_genext.data.synthetic.dataset import SynthReIDTiny
    from torchreid_genext.data.torchreid_training.datasets import augmented

    made = augmented(SynthReIDTiny, "synthreid_tiny", "ipg")
    other = made.__new__(made)
    vars(other).update(vars(dataset))
    return other


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_tells_which_images_of_a_batch_were_generated(
    store: ImageStore, tmp_path: Path, workers: int
) -> None:
    options = {"height": 16, "width": 8, "batch_size_train": 8, "workers": workers, "use_gpu": False}
    manager = compat.image_data_manager(
        root=str(tmp_path), sources=["people_ipg"], targets=["people_ipg"], **options
    )
    batch = next(iter(manager.train_loader))
    assert sum(isinstance(path, GeneratedImage) for path in batch["impath"]) == 4
    assert (manager.num_train_pids, manager.num_train_cams) == (2, 3)


def test_folder_of_poses_is_read_by_names_of_real_images_with_any_extension(
    people: type, tmp_path: Path
) -> None:
    for number, pose in enumerate(("pose1", "pose2", "pose10", "notes")):
        folder = tmp_path / "here" / "bounding_box_train_gen" / pose
        folder.mkdir(parents=True)
        shade(number).save(folder / f"{PLAIN[number][0]}.png")
    with augmenting(root=str(tmp_path / "here"), camera="per_pose"):
        items = added(open_set(root=tmp_path))
    assert sorted((Path(item[0]).parent.name, *item[1:3]) for item in items) == [
        ("pose1", 0, 3), ("pose10", 1, 5), ("pose2", 0, 4)
    ]  # fmt: skip


def test_default_folder_stands_beside_the_data_and_is_not_that_of_the_oracle(
    people: type, tmp_path: Path
) -> None:
    assert generated_folder("market1501", "data") == Path("data/market1501_generated/ipg")
    assert generated_folder("dukemtmcreid", "data") == Path("data/dukemtmc-reid_generated/ipg")
    assert generated_folder("people", tmp_path) == tmp_path / "people_generated" / "ipg"
    with pytest.raises(ValueError, match="unknown image data set 'market'; choose from"):
        generated_folder("market", "data")


def test_missing_pictures_are_named_with_the_place_and_the_layout(people: type, tmp_path: Path) -> None:
    rule = "generated training images of people in genext.augmented.root, .*bounding_box_train_gen/pose1"
    with pytest.raises(
        ValueError, match=f"{rule}/<name of the real image>, got none in '.*people_generated.ipg'"
    ):
        open_set(root=tmp_path)
    fill(tmp_path / "test", ["7.jpg"], split="query")
    with augmenting(root=str(tmp_path / "test")), pytest.raises(ValueError, match="got none in '.*test'"):
        open_set(root=tmp_path)


def test_pictures_of_others_are_counted_and_pictures_of_nobody_else_refused(
    opened: Any, store: ImageStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(store.root, ["x.jpg", "y.jpg"])
    assert len(added(opened(ratio=9.0))) == 12
    assert "of no training image of people: 6 generated images, such as " in caplog.text
    fill(tmp_path / "others", ["x.jpg"])
    with pytest.raises(
        ValueError, match="training images of people, such as 7, got 3 of others, such as .*others"
    ):
        opened(root=str(tmp_path / "others"))


def test_damaged_picture_is_left_out_and_reported(opened: Any, caplog: pytest.LogCaptureFixture) -> None:
    whole = opened(ratio=3.0)
    broken, gone = (Path(item[0]) for item in added(whole)[:2])
    broken.write_bytes(broken.read_bytes()[:40])
    gone.write_text("no picture")
    assert len(added(opened(ratio=3.0))) == 10
    assert all(f"left out, since it cannot be read: {path}: " in caplog.text for path in (broken, gone))
    for item in added(whole):
        Path(item[0]).write_text("")
    with pytest.raises(ValueError, match="expected generated images that can be read, got .*png: "):
        opened(ratio=3.0)


def test_real_images_that_share_a_name_are_refused(people: type, tmp_path: Path) -> None:
    PLAIN.append(("sub/7", 1, 0))
    try:
        with pytest.raises(
            ValueError, match="training images of different names, got .*7.jpg and .*sub/7.jpg"
        ):
            open_set(root=tmp_path)
    finally:
        PLAIN.pop()


def test_options_end_with_their_block(opened: Any) -> None:
    with augmenting(ratio=0.0), augmenting(ratio=2.0):
        pass
    assert len(added(opened())) == 4


def test_what_joined_is_logged_and_shown_by_torchreid(
    store: ImageStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "torchreid_genext"):
        compat.init_image_dataset("people_ipg", root=str(tmp_path))
    assert f"people: 4 generated images in 3 poses join, from {store.root}" in caplog.text
    printed = capsys.readouterr().out
    assert "Loaded People_ipg" in printed and "train    |     2 |        8 |         3" in printed
