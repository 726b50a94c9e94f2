"""Trainings on data sets of users: who is learnt from, where joints are found, and what pictures show."""

from __future__ import annotations

import contextlib
import itertools
import logging
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from yacs.config import CfgNode

import torchreid_genext as genext
from tests.conftest import shared_data
from tests.recipes.training.test_gan import cfg as gan_cfg
from tests.recipes.training.test_ipg import cfg as ipg_cfg
from torchreid_genext import compat
from torchreid_genext.data.poses import write_market_annotations
from torchreid_genext.data.poses.datasets import read_dataset_poses
from torchreid_genext.data.poses.reading import write_openpose
from torchreid_genext.data.poses.standard import standard_poses
from torchreid_genext.recipes.training import gan, ipg

pytestmark = pytest.mark.usefixtures("registered")

__all__ = ["gan_cfg", "ipg_cfg"]

POSE = next(iter(standard_poses(128, 64).values()))
Records = list[tuple[str, int, int]]  # name, person, camera


def images(split: str, people: Sequence[int], each: int, cameras: Sequence[int] = (0, 1)) -> Records:
    return [
        (f"{split}_{pid}_{n}.png", pid, cameras[n % len(cameras)]) for pid in people for n in range(each)
    ]


@contextlib.contextmanager
def own_data(root: Path, train: Records, query: Records, gallery: Records) -> Iterator[list[str]]:
    """`own`, registered by a user; gives the names of all images."""
    names = [name for name, *_ in (*train, *query, *gallery)]
    random, folder = np.random.default_rng(0), root / "own"
    folder.mkdir()
    for name in names:
        Image.fromarray(random.integers(0, 256, (128, 64, 3), dtype=np.uint8)).save(folder / name)

    class Own(compat.ImageDataset):
        dataset_dir = "own"

        def __init__(self, root: str = "", **options: object) -> None:
            splits = (train, query, gallery)
            records = [[(str(folder / name), *rest) for name, *rest in each] for each in splits]
            super().__init__(*records, **options)

    compat.register_image_dataset("own", Own)
    genext.register()
    try:
        yield names
    finally:
        compat.unregister_image_dataset("own", Own)


def joints(path: Path, names: Sequence[str]) -> None:
    write_market_annotations(path, dict.fromkeys(names, POSE))


def of_own(cfg: CfgNode, root: Path) -> CfgNode:
    cfg.data.root, cfg.data.sources = str(root), ["own"]
    return cfg


@pytest.mark.parametrize("kind", ("pg2", "deformable"))
def test_people_are_counted_from_0_in_training_and_distractors_are_not_shown(
    gan_cfg: CfgNode, tmp_path: Path, kind: str
) -> None:
    train, query = images("train", range(6), 2), images("query", (3, 4), 1)
    gallery = images("gallery", (0, 3, 4), 2)
    with own_data(tmp_path, train, query, gallery) as names:
        joints(tmp_path / "own" / "poses.csv", names)
        made = {"pg2": gan._PG2, "deformable": gan._Deformable}[kind](of_own(gan_cfg, tmp_path), kind)
    assert made.images.pids.tolist() == [pid for _, pid, _ in train]
    assert made.examples.labels.tolist() == [3, 4]


def test_joints_in_several_files_are_found_and_an_image_is_in_one_of_them(
    gan_cfg: CfgNode, tmp_path: Path
) -> None:
    train, rest = images("train", range(3), 2), images("query", (7,), 2)
    with own_data(tmp_path, train, rest, rest) as names:
        folder = tmp_path / "own"
        joints(folder / "a.csv", names[:5])
        joints(folder / "b.csv", names[5:])
        joints(folder / "all of them.csv", names)
        assert read_dataset_poses("own", tmp_path, "a.csv b.csv".split()).keys() == {*names}
        assert read_dataset_poses("own", tmp_path, ["all of them.csv"]).keys() == {*names}
        with pytest.raises(ValueError, match="expected each image once, got train_0_0.png again in .*a.csv"):
            read_dataset_poses("own", tmp_path, "a.csv a.csv".split())
        gan_cfg.genext.joints = ["a.csv", "b.csv"]
        made = gan._PG2(of_own(gan_cfg, tmp_path), "pg2")
    assert len(made.images) == 6 and made.examples.labels.tolist() == [7]


def test_files_that_do_not_tell_an_ending_are_of_images_of_any(tmp_path: Path) -> None:
    train = images("train", range(2), 2)
    with own_data(tmp_path, train, train[:1], train[:1]) as names:
        write_openpose(tmp_path / "own" / "openpose", {Path(name).stem + ".jpg": POSE for name in names})
        assert read_dataset_poses("own", tmp_path, ["openpose"]).keys() == {*names}
        joints(tmp_path / "own" / "others.csv", ["somebody.jpg"])
        wanted = "expected joints of images such as train_0_0.png, got those of somebody.jpg: others.csv"
        with pytest.raises(ValueError, match=wanted):
            read_dataset_poses("own", tmp_path, ["others.csv"])


def test_an_exact_name_goes_before_one_with_another_ending(tmp_path: Path) -> None:
    train = [("a.png", 0, 0), ("a.jpg", 0, 1), ("b.png", 1, 0)]
    with own_data(tmp_path, train, train, train):
        poses = {"a.jpg": POSE, "b.jpg": POSE - 1, "b.png": POSE}
        write_market_annotations(tmp_path / "own" / "poses.csv", poses)
        found = read_dataset_poses("own", tmp_path, ["poses.csv"])
    assert found.keys() == poses.keys() and (found["b.png"] == POSE.round()).all()


SHOWN = {"gallery": "images of the gallery", "train": "people who are learnt from", "": "nobody"}


@pytest.mark.parametrize("split", SHOWN)
def test_pictures_of_ipg_show_whom_there_are_pairs_of(
    ipg_cfg: CfgNode, tmp_path: Path, split: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Queries are single; with joints of the gallery it is shown, else those who are learnt from."""
    single = images("train", (0, 1), 2, (0, 0)) if split else images("train", range(4), 1)
    query, gallery = images("query", (7, 8), 1), images("gallery", (7, 8), 2)
    with own_data(tmp_path, single, query, gallery) as names:
        known = names if split == "gallery" else [name for name in names if "gallery" not in name]
        joints(tmp_path / "own" / "poses.csv", known)
        with caplog.at_level(logging.WARNING):
            shown = ipg._examples(of_own(ipg_cfg, tmp_path), "bold")
    if not split:
        assert shown is None and "training without sample pictures: query: expected two" in caplog.text
        return
    with Image.open(tmp_path / "own" / f"{split}_{7 if split == 'gallery' else 0}_0.png") as image:
        first = torch.from_numpy(np.array(image.resize((8, 16), Image.Resampling.BILINEAR)))
    assert (shown[0][0].permute(1, 2, 0).int() - first.int()).abs().max() <= 2
    assert shown[1].any(dim=(1, 2, 3)).all() and len(shown[2]) == 2


def test_ipg_trains_where_only_training_images_have_joints(ipg_cfg: CfgNode, tmp_path: Path) -> None:
    single = images("query", (7, 8), 1)
    with own_data(tmp_path, images("train", range(3), 2), single, single) as names:
        joints(tmp_path / "own" / "poses.csv", [name for name in names if name.startswith("train")])
        ipg_cfg.genext.training.picture_every = 2
        folder = ipg.train(of_own(ipg_cfg, tmp_path))["ipg"]
        assert (folder.parent / "samples" / "step-00000002-people.png").is_file()
        write_market_annotations(tmp_path / "own" / "poses.csv", dict.fromkeys(names, np.full((18, 2), -1)))
        with pytest.raises(ValueError, match="joints"):
            ipg.train(ipg_cfg)


def test_camstyle_shows_training_images_where_queries_are_of_one_camera(
    gan_cfg: CfgNode, tmp_path: Path
) -> None:
    query = images("query", (7,), 2, cameras=(0,))
    with own_data(tmp_path, images("train", range(4), 2), query, images("gallery", (7,), 2, (1,))):
        gan_cfg.genext.camstyle.update({"pair": [0, 1]})
        gan_cfg.genext.training.picture_every = 2
        path = gan.train(of_own(gan_cfg, tmp_path), ["camstyle"])["camstyle"]
    assert [*path.parent.rglob("samples/step-00000002-*.png")]


def market(root: Path) -> dict[str, int]:
    """Some images of Market-1501, without their names' meaning lost; how many of each folder."""
    names = defaultdict(list)
    with zipfile.ZipFile(shared_data() / "market1501.zip") as archive:
        for name in archive.namelist():
            names[Path(name).parent.name].append(name)
        some = {folder: names[folder][:60] for folder in ("bounding_box_train", "query")}
        people = {Path(name).name[:4] for name in some["query"]}
        for kinds in (people, {"0000"}, {"-1_c"}):  # those whom queries ask for, distractors and junk
            mine = [name for name in names["bounding_box_test"] if Path(name).name[:4] in kinds]
            some["bounding_box_test"] = some.get("bounding_box_test", []) + mine[:60]
        for name in itertools.chain(*some.values()):
            archive.extract(name, root)
    return {folder: len(names) for folder, names in some.items()}


@pytest.mark.parametrize("files", ("train", "train test"))
@pytest.mark.parametrize("kind", ("pg2", "deformable"))
def test_market_trains_with_the_published_joints(
    gan_cfg: CfgNode, tmp_path: Path, kind: str, files: str
) -> None:
    if shared_data() is None:
        pytest.skip("needs Market-1501 and its annotations of $GENEXT_DATA")
    counts = market(tmp_path)
    published = shared_data() / "market_poses" / "market-annotation-{}.csv"
    gan_cfg.data.root, gan_cfg.data.sources = str(tmp_path), ["market1501"]
    gan_cfg.genext.joints = [str(published).format(each) for each in files.split()]
    made = {"pg2": gan._PG2, "deformable": gan._Deformable}[kind](gan_cfg, kind)
    assert 0.8 * counts["bounding_box_train"] < len(made.images) and 0 in made.images.pids
    assert (made.examples.labels > 0).all() if files == "train test" else (0 in made.examples.labels)
    assert made.run().is_file()
