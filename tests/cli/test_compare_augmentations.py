"""Comparing trainings with and without generated images, on a tiny data set."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from torchreid_genext import compat
from torchreid_genext.cli import compare_augmentations
from torchreid_genext.data.store import ImageStore
from torchreid_genext.data.torchreid_training.datasets import generated_folder

KEYS = [
    "model.name", "osnet_x0_25", "model.pretrained", "False", "data.sources", "['synthreid_tiny']",
    "data.targets", "['synthreid_tiny']", "data.height", "32", "data.width", "16", "data.workers", "0",
    "train.max_epoch", "1", "train.batch_size", "16",
]  # fmt: skip


@pytest.fixture
def root(reid_data: Path, tmp_path: Path, registered: None) -> Path:
    """A data set with a store of fakes, which are the real images."""
    (tmp_path / "synthreid_tiny").symlink_to(reid_data / "synthreid_tiny")
    dataset = compat.init_image_dataset("synthreid_tiny", root=str(tmp_path), verbose=False)
    store = ImageStore.create(generated_folder("synthreid_tiny", tmp_path, "camstyle"))
    for path, _, camera, *_ in dataset.train[:6]:
        style = f"camera{1 + (camera + 1) % 6}"
        store.add(
            Image.open(path), split="train", reference=Path(path).name, pose=style, provenance={"made": "so"}
        )
    return tmp_path


@pytest.fixture
def tool() -> ModuleType:
    """The script, as a module."""
    return compare_augmentations


def compare(tool: ModuleType, root: Path, *words: str, ratio: str = "3:1") -> None:
    keys = [*KEYS, "genext.augmented.batch_ratio", ratio, "data.save_dir", str(root / "log")]
    tool.main(["--root", str(root), *words, *keys])


@pytest.mark.slow
def test_each_variant_is_trained_once_a_seed_and_reported(
    tool: ModuleType, root: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ("--variants", "none", "camstyle+lsr", "--seeds", "3", "4")
    compare(tool, root, *words)
    told = capsys.readouterr().out
    rows = [line.split("|")[1:-1] for line in told.splitlines() if line.startswith(("| none", "| camstyle"))]
    assert [row[0].strip() for row in rows] == ["none", "camstyle+lsr"] and rows[0][3].strip() == "+0.0"
    assert all("±" in cell for row in rows for cell in row[1:3])
    results = {path: path.stat().st_mtime_ns for path in sorted((root / "log").rglob("result.json"))}
    assert [str(path.parent.relative_to(root / "log")) for path in results] == [
        "camstyle+lsr/seed3", "camstyle+lsr/seed4", "none/seed3", "none/seed4",
    ]  # fmt: skip
    assert Image.open(root / "log/comparison.png").width > 500
    log = (root / "log/camstyle+lsr/seed3/log.txt").read_text()
    assert "synthreid_tiny_camstyle" in log and "label_smoothing: 0.1" not in told
    compare(tool, root, *words)
    assert {path: path.stat().st_mtime_ns for path in results} == results
    assert capsys.readouterr().out == told


def test_seeds_differ_and_batches_keep_their_real_images(tool: ModuleType, root: Path) -> None:
    arguments = tool.parse_arguments(["--root", str(root), *KEYS, "genext.augmented.batch_ratio", "3:1"])
    cfg = tool.configuration(arguments)
    plain = tool.variant_of(cfg, "none", 1)
    fakes = tool.variant_of(cfg, "camstyle+lsr", 2)
    assert (plain.train.batch_size, plain.genext.augmented.batch_ratio) == (12, "")
    assert (fakes.train.batch_size, fakes.genext.augmented.batch_ratio) == (16, "3:1")
    assert plain.data.sources == ["synthreid_tiny"] and fakes.data.sources == ["synthreid_tiny_camstyle"]
    assert (plain.train.seed, fakes.train.seed) == (1, 2)
    assert (plain.genext.augmented.label_smoothing, fakes.genext.augmented.label_smoothing) == (0.0, 0.1)


def test_mistakes_are_told_before_any_training(tool: ModuleType, root: Path) -> None:
    with pytest.raises(ValueError, match="unknown variant 'stargan'; choose from none, ipg"):
        compare(tool, root, "--variants", "none", "stargan")
    with pytest.raises(ValueError, match="expected generated images for pg2 in .*synthreid_tiny_generated"):
        compare(tool, root, "--variants", "none", "pg2")
    with pytest.raises(ValueError, match="expected genext.augmented.batch_ratio, such as '3:1'"):
        compare(tool, root, "--variants", "none", ratio="")
    assert not (root / "log").exists()
