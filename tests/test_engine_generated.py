"""Generated images in the hook: the engine's own transform and network, the right sides, early refusals."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from tests.generators.ipg.networks import embedded
from tests.test_engine import build_engine, measure, pictures, tiny_config, tiny_datasets  # noqa: F401
from torchreid_genext import engine as hooks
from torchreid_genext.data.store import ImageStore
from torchreid_genext.data.store.lookup import FOLDERS
from torchreid_genext.retrieval.protocol import RetrievalSet, evaluate

POSES = (1, 2)


@pytest.fixture
def engine(tiny_datasets: None) -> Any:  # noqa: F811
    return build_engine(tiny_config())


def files(engine: Any, split: str) -> list[str]:
    return [path for batch in engine.test_loader["tiny_image"][split] for path in batch["impath"]]


@pytest.fixture
def root(engine: Any, tmp_path: Path) -> Path:
    """Two poses of each image: its neighbours in the list."""
    for split, folder in FOLDERS.items():
        paths = files(engine, split)
        for pose in POSES:
            (tmp_path / folder / f"pose{pose}").mkdir(parents=True)
            for i, path in enumerate(paths):
                copy = tmp_path / folder / f"pose{pose}" / Path(path).name
                shutil.copyfile(paths[(i + pose) % len(paths)], copy)
    return tmp_path


def options(root: Path, *more: str) -> tuple[str, ...]:
    return ("genext.ipg.enabled", "True", "genext.ipg.root", str(root), *more)


@torch.no_grad()
def features(engine: Any, paths: list[str]) -> Tensor:
    engine.set_model_mode("eval")
    transform = engine.datamanager.transform_te
    return engine.model(torch.stack([transform(Image.open(path).convert("RGB")) for path in paths]))


def by_hand(engine: Any, root: Path, side: str) -> tuple[float, float]:
    """(rank-1, mAP) with features of one file at a time, twice their mean added, normalised."""
    sets = []
    for split, folder in FOLDERS.items():
        batches = list(engine.test_loader["tiny_image"][split])
        paths = files(engine, split)
        found = features(engine, paths)
        if side in (split, "both"):
            poses = [[str(root / folder / f"pose{p}" / Path(path).name) for path in paths] for p in POSES]
            found = found + 2 * torch.stack([features(engine, pose) for pose in poses]).mean(0)
        pids, camids = (torch.cat([batch[key] for batch in batches]) for key in ("pid", "camid"))
        sets.append(RetrievalSet(normalize(found), pids, camids))
    report = evaluate(*sets)
    return report.rank(1), report.mAP


@pytest.mark.parametrize("side", ("query", "gallery", "both"))
def test_figures_are_those_of_fusion_by_hand(engine: Any, root: Path, side: str) -> None:
    hooks.attach(engine, tiny_config(*options(root, "genext.ipg.side", side)))
    assert measure(engine) == pytest.approx(by_hand(engine, root, side), abs=1e-6)


def test_steps_follow_pose2id(root: Path) -> None:
    genext = tiny_config(*options(root), "genext.nfc.enabled", "True").genext
    assert hooks.build_chain(genext).name == "fuse(eta=2)+l2+nfc"
    genext.ipg.normalize_after, genext.nfc.enabled = False, False
    assert hooks.build_chain(genext).name == "fuse(eta=2)"
    assert hooks.build_chain(genext, normalize=True).name == "fuse(eta=2)+l2"


@pytest.fixture
def store(root: Path, tmp_path: Path) -> Path:
    """The same pictures in a store."""
    made = ImageStore.create(tmp_path / "store")
    for split, folder in FOLDERS.items():
        for file in root.glob(f"{folder}/pose*/*"):
            request = {"split": split, "reference": file.name, "pose": file.parent.name.removeprefix("pose")}
            with Image.open(file) as image:
                made.add(image, **request, provenance={"copied": True})
    return made.root


def test_figures_from_a_store_are_those_from_folders(engine: Any, root: Path, store: Path) -> None:
    hooks.attach(engine, tiny_config(*options(store)))
    assert measure(engine) == pytest.approx(by_hand(engine, root, "both"), abs=1e-6)


def test_what_the_store_lacks_is_drawn_if_asked(engine: Any, tmp_path: Path) -> None:
    embedded().save_pretrained(tmp_path / "pipeline")
    sampling = {"pipeline": tmp_path / "pipeline", "steps": 1, "guidance": 1.0}
    keys = [str(word) for key, value in sampling.items() for word in (f"genext.sampling.{key}", value)]
    store = tmp_path / "new"
    cfg = tiny_config(*options(store, "genext.ipg.generate", "True", "genext.ipg.side", "query", *keys))
    drawn = measure(hooks.attach(engine, cfg))
    files = ImageStore(store).files("query")
    assert [*files] == [str(pose) for pose in range(1, 9)] and not ImageStore(store).files("gallery")
    cfg = tiny_config(*options(store, "genext.ipg.side", "query"))
    assert measure(hooks.attach(engine, cfg)) == drawn
    with pytest.raises(ValueError, match="expected the whole configuration for ipg.generate"):
        cfg.genext.ipg.generate = True
        measure(hooks.attach(engine, cfg.genext))


def test_a_store_without_a_split_is_refused_when_attaching(engine: Any, tmp_path: Path) -> None:
    empty = ImageStore.create(tmp_path / "store").root
    with pytest.raises(ValueError, match="expected a store with generated images of query"):
        hooks.attach(engine, tiny_config(*options(empty)))


def test_images_without_generated_ones_are_counted(
    engine: Any, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lost = Path(files(engine, "gallery")[0]).name
    for folder in (root / "bounding_box_test_gen").iterdir():
        (folder / lost).unlink()
    hooks.attach(engine, tiny_config(*options(root)))
    with caplog.at_level(logging.INFO, "torchreid_genext"):
        measure(engine)
    assert "1 none (their own feature stands in)" in caplog.text


def test_lost_folders_are_refused_when_attaching(engine: Any, root: Path) -> None:
    shutil.rmtree(root / "query_gen")
    hooks.attach(engine, tiny_config(*options(root, "genext.ipg.side", "gallery")))
    with pytest.raises(ValueError, match="got no folder '.*query_gen'"):
        hooks.attach(engine, tiny_config(*options(root)))
    with pytest.raises(ValueError, match="expected genext.ipg.root, a folder of generated images, got none"):
        hooks.attach(engine, tiny_config("genext.ipg.enabled", "True"))


def test_tracklets_are_refused(tiny_datasets: None, root: Path) -> None:  # noqa: F811
    cfg = tiny_config(*options(root), data_type="video")
    with pytest.raises(ValueError, match="for the step fuse.*, got none by tiny_video \\(videos\\)"):
        measure(hooks.attach(build_engine(cfg), cfg), "tiny_video")
