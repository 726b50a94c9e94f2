"""Generated images in the benchmark: found before the work, extracted once, counted in the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize
from yacs.config import CfgNode

from torchreid_genext import benchmark, config
from torchreid_genext.benchmark.settings import Backbone, Images, build_encoder, open_dataset
from torchreid_genext.data.filenames import parse
from torchreid_genext.data.store.lookup import FOLDERS, Coverage
from torchreid_genext.extraction import extract
from torchreid_genext.retrieval.protocol import RetrievalSet, evaluate

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of features for all tests that do not measure the cache itself."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def cfg(reid_data: Path, tmp_path: Path, features: Path) -> CfgNode:
    """Two poses of every image that shows a person: others of the same list."""
    cfg = config.get_default_config()
    cfg.use_gpu, cfg.model.name, cfg.model.pretrained = False, "osnet_x0_25", False
    cfg.data.root, cfg.data.targets, cfg.data.save_dir = (
        str(reid_data),
        ["synthreid_tiny"],
        str(tmp_path / "run"),
    )
    cfg.data.height, cfg.data.width, cfg.data.workers = 32, 16, 0
    cfg.genext.benchmark.bootstrap, cfg.genext.benchmark.pictures = 0, False
    cfg.genext.benchmark.chains = ["l2", "fuse(eta=2)+l2"]
    cfg.genext.benchmark.cache_dir = str(features)
    cfg.genext.ipg.root = str(tmp_path / "ipg")
    for images, folder in zip(open_dataset(cfg), FOLDERS.values()):
        lay_out(images, tmp_path / "ipg" / folder)
    return cfg


def lay_out(images: Images, folder: Path) -> None:
    for pose in (1, 2):
        (folder / f"pose{pose}").mkdir(parents=True)
        for i, path in enumerate(images.paths):
            if images.pids[i] > 0:
                shutil.copyfile(images.paths[i - pose], folder / f"pose{pose}" / Path(path).name)


def by_hand(cfg: CfgNode) -> float:
    """mAP of twice the mean of both poses added; distractors stay as they are."""
    encoder = build_encoder(cfg, Backbone("x", "osnet_x0_25", ""))
    sets = []
    for images in open_dataset(cfg):
        features = extract(encoder, images.paths, workers=0).features
        own = torch.tensor(images.pids) == 0
        fused = features + (features.roll(1, 0) + features.roll(2, 0))
        fused[own] = features[own]
        sets.append(RetrievalSet(normalize(fused), images.pids, images.camids))
    return evaluate(*sets).mAP


def test_rates_are_those_of_fusion_by_hand(cfg: CfgNode) -> None:
    _, fused = benchmark.run(cfg).measurements[0].reports
    assert fused.mAP == pytest.approx(by_hand(cfg), abs=1e-4)  # other batches round otherwise, and swap near ties
    assert "generated images" in fused.protocol


def test_images_with_and_without_generated_ones_are_in_the_report(cfg: CfgNode) -> None:
    result = benchmark.run(cfg)
    query, gallery = open_dataset(cfg)
    distractors = gallery.pids.count(0)
    expected = Coverage(2, len(gallery.pids) - distractors, 0, distractors)
    assert result.measurements[0].coverage == {
        "query": Coverage(2, len(query.pids), 0, 0),
        "gallery": expected,
    }
    shown = f"{expected.complete} of {len(gallery.pids)} images have all 2 generated ones, {distractors} none"
    line = f"gallery: {shown} (their own feature stands in)"
    assert line in (result.folder / "report.md").read_text() and line in benchmark.table(result)
    report = json.loads((result.folder / "report.json").read_text())
    assert report["models"][0]["generated"]["gallery"] == vars(expected)


def test_second_run_extracts_nothing_and_the_dry_run_knows(cfg: CfgNode) -> None:
    cfg.genext.benchmark.cache_dir = ""
    images = sum(len(split.paths) for split in open_dataset(cfg))
    generated = len(list(Path(cfg.genext.ipg.root).glob("*/*/*.jpg")))
    assert f"{images + generated} of {images + generated} features to extract" in benchmark.describe(cfg)
    # The generated ones are copies of real images, which are known by then.
    assert benchmark.run(cfg).measurements[0].computed == images
    assert benchmark.run(cfg).measurements[0].computed == 0
    assert f"all {images + generated} features are cached" in benchmark.describe(cfg)


def test_only_what_a_chain_uses_is_looked_for(cfg: CfgNode) -> None:
    shutil.rmtree(Path(cfg.genext.ipg.root, "bounding_box_test_gen"))
    cfg.genext.benchmark.chains = ["fuse(side=query)+l2"]
    assert list(benchmark.run(cfg).measurements[0].coverage) == ["query"]
    cfg.genext.ipg.root, cfg.genext.benchmark.chains = "", ["base"]
    assert benchmark.run(cfg).measurements[0].coverage == {}


def test_torn_images_of_both_kinds_are_listed(cfg: CfgNode, reid_data: Path, tmp_path: Path) -> None:
    cfg.data.root = str(tmp_path)
    shutil.copytree(reid_data / "synthreid_tiny", tmp_path / "synthreid_tiny")
    query = open_dataset(cfg)[0]
    torn = [Path(query.paths[3]), Path(cfg.genext.ipg.root, "query_gen", "pose2", Path(query.paths[5]).name)]
    for path in torn:
        path.write_bytes(path.read_bytes()[:-200])
    (measurement,) = benchmark.run(cfg).measurements
    assert list(measurement.unreadable) == list(map(str, torn))
    assert len(measurement.query.generated) == len(measurement.query) == len(query.paths) - 1
    assert measurement.coverage["query"] == Coverage(2, len(query.paths) - 2, 1, 0)


@pytest.mark.parametrize(
    ("root", "message"),
    (("", "expected genext.ipg.root, the folder of the images that fuse adds, got none"),
     ("lost", r"expected generated images as <root>.*, got no folder 'lost'")),
)  # fmt: skip
def test_lost_folders_are_refused_before_the_work(cfg: CfgNode, root: str, message: str) -> None:
    cfg.genext.ipg.root = root
    cfg.genext.benchmark.cache_dir = ""
    for act in (benchmark.run, benchmark.describe):
        with pytest.raises(ValueError, match=message):
            act(cfg)
    assert not Path(cfg.data.save_dir, "features").exists()


def test_distractors_have_no_generated_images_in_this_world(cfg: CfgNode) -> None:
    names = [path.name for path in Path(cfg.genext.ipg.root, "bounding_box_test_gen", "pose1").iterdir()]
    assert names and all(parse(name, "synthreid").pid > 0 for name in names)


def test_effect_of_bf16_is_known_of_a_first_chain_that_fuses(cfg: CfgNode) -> None:
    cfg.genext.benchmark.chains = ["fuse(eta=2)+l2"]
    exact = benchmark.run(cfg).measurements[0].reports[0]
    cfg.genext.inference.precision = "bf16"
    assert benchmark.run(cfg).measurements[0].precision_effect.exact_mAP == exact.mAP
