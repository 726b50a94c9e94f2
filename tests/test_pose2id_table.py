"""Pose2ID's table as a recipe: with the authors' files it runs as it stands; here they are made, and tiny."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from yacs.config import CfgNode

from tests.backbones.test_transreid import as_authors_save
from tests.conftest import ROOT
from torchreid_genext import benchmark, checkpoints, config
from torchreid_genext.backbones.transreid import TransReIDBackbone
from torchreid_genext.data.filenames import parse

pytestmark = pytest.mark.usefixtures("registered")
CARD = "pretrained/cards/pose2id_transreid.json"
PUBLISHED = {
    "l2": "79.88 / 91.48", "nfc": "83.92 / 91.83", "nfc(side=gallery)": "81.70 / 92.04",
    "nfc(side=query)": "82.76 / 91.69", "fuse(eta=2)+l2": "88.02 / 94.77",
    "fuse(eta=2,side=gallery)+l2": "84.65 / 92.07", "fuse(eta=2,side=query)+l2": "82.18 / 92.40",
    "fuse(eta=2)+l2+nfc": "90.39 / 94.74",
}  # fmt: skip
NAMES = {
    "query": ["0001_c1s1_000151_00.jpg", "0002_c1s1_000776_00.jpg"],
    "bounding_box_test": ["0001_c2s1_000301_00.jpg", "0002_c3s1_000901_00.jpg", "0000_c2s1_000101_00.jpg"],
    "bounding_box_train": ["0007_c1s1_000001_00.jpg", "0007_c2s1_000001_00.jpg"],
}  # fmt: skip


@pytest.fixture
def cfg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CfgNode:
    monkeypatch.chdir(tmp_path)
    (tmp_path / CARD).parent.mkdir(parents=True)
    shutil.copy(ROOT / CARD, CARD)
    options = [
        "data.root",
        "reid-data",
        "data.workers",
        "0",
        "use_gpu",
        "False",
        "genext.benchmark.bootstrap",
        "0",
    ]
    return config.load_config(str(ROOT / "configs/market1501_pose2id.yaml"), options)


def image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (128, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def market(root: Path) -> None:
    for split, names in NAMES.items():
        for seed, name in enumerate(names):
            image(root / "market1501/Market-1501-v15.09.15" / split / name, seed)


def generated(root: Path) -> None:
    for split, folder in (("query", "query_gen"), ("bounding_box_test", "bounding_box_test_gen")):
        for pose in range(1, 9):
            for name in NAMES[split]:
                if parse(name, "market1501").pid:  # nothing is generated of distractors
                    image(root / folder / f"pose{pose}" / name, pose)


def weights(path: Path) -> TransReIDBackbone:
    path.parent.mkdir(parents=True)
    network = TransReIDBackbone(751, width=64, depth=1, heads=1)
    torch.save(as_authors_save(network, "module."), path)
    return network.eval()


def test_what_is_missing_is_told_in_a_sentence(cfg: CfgNode) -> None:
    with pytest.raises(
        FileNotFoundError, match="expected the weights pretrained/ipg/transformer_20.pth .*; fetch it with"
    ):
        benchmark.run(cfg)
    weights(Path("pretrained/ipg/transformer_20.pth"))
    with pytest.raises(ValueError, match="expected market1501 in .*, got no such folder"):
        benchmark.run(cfg)
    market(Path("reid-data"))
    with pytest.raises(
        ValueError, match="got no folder 'pretrained/ipg_market1501'; .* ipg_market1501 fetches"
    ):
        benchmark.run(cfg)


def test_the_table_stands_beside_the_published_one(cfg: CfgNode) -> None:
    network = weights(Path("pretrained/ipg/transformer_20.pth"))
    market(Path("reid-data"))
    generated(Path("pretrained/ipg_market1501"))
    result = benchmark.run(cfg)
    lines = benchmark.table(result).splitlines()
    for chain, published in PUBLISHED.items():
        (line,) = [line for line in lines if line.startswith(f"{chain} ")]
        assert line.split("  ")[0] == chain and published in line
    assert sum(line.startswith("fuse(reduce=sum)") for line in lines) == 2
    assert any("seen: it was trained on market1501" in line for line in lines)
    (measured,) = result.measurements
    assert not measured.failures and measured.query.features.shape == (2, 320)
    wanted = network(pixels("reid-data/market1501/Market-1501-v15.09.15/query"))
    assert torch.allclose(measured.query.features, wanted, atol=1e-4)
    assert measured.gallery.generated.shape == (3, 8, 320)


def pixels(folder: str) -> Tensor:
    images = [
        Image.open(path).resize((128, 256), Image.Resampling.BILINEAR)
        for path in sorted(Path(folder).iterdir())
    ]
    return torch.stack([torch.from_numpy(np.array(x)).permute(2, 0, 1).float() / 127.5 - 1 for x in images])


def test_the_published_figures_are_those_of_the_card() -> None:
    from torchreid_genext.backbones.card import read_card

    card = read_card(ROOT / CARD)
    said = {chain: f"{r['mAP']:.2f} / {r['rank1']:.2f}" for chain, r in card.expected["market1501"].items()}
    assert said == PUBLISHED and card.camera == "none" and card.feature == "before"
    assert checkpoints and card.preprocessing["mean"] == [0.5] * 3
