"""Adversarial generators from the command line: trained, resumed, and put to work."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from torchreid_genext.cli import generate
from torchreid_genext.data.store import ImageStore

pytestmark = pytest.mark.usefixtures("registered")

# Networks of a few channels, a step of training.
SMALL = {
    "genext.camstyle.channels": 4, "genext.camstyle.blocks": 1, "genext.camstyle.discriminator_channels": 4,
    "genext.camstyle.layers": 1, "genext.training.image_size": "[32,16]",
    "genext.training.steps": 1, "genext.training.mixed_precision": "no",
}  # fmt: skip


def run_script(monkeypatch: pytest.MonkeyPatch, *words: str, **keys: object) -> None:
    script = ROOT / "tools/train_gan.py"
    options = [str(word) for pair in (SMALL | keys).items() for word in pair]
    monkeypatch.syspath_prepend(str(script.parent))
    monkeypatch.setattr(sys, "argv", [str(script), "-s", "synthreid_tiny", *words, *options])
    runpy.run_path(str(script), run_name="__main__")


def test_a_generator_is_trained_and_fills_a_store(
    reid_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    keys = {"data.save_dir": tmp_path, "genext.generator": "camstyle"}
    run_script(monkeypatch, "--root", str(reid_data), **keys)
    file = tmp_path / "camstyle/camstyle.safetensors"
    assert capsys.readouterr().out == f"camstyle: {file}\n"
    generate.main([
        "--generator", "camstyle", "--dataset", "synthreid_tiny", "--root", str(reid_data), "--limit", "2",
        "--out_dir", str(tmp_path / "store"), "genext.camstyle.weights", str(file),
    ])  # fmt: skip
    assert "10 pictures made" in capsys.readouterr().out
    assert len(ImageStore(tmp_path / "store").poses("train")) in (5, 6)


def test_mistakes_end_in_one_line(reid_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"data.save_dir": tmp_path, "genext.generator": "identity"}
    with pytest.raises(SystemExit, match="error: unknown adversarial generator 'identity'; choose from pg2"):
        run_script(monkeypatch, "--root", str(reid_data), **keys)
    keys = {"data.save_dir": tmp_path, "genext.generator": "pg2", "genext.joints": "['none.csv']"}
    with pytest.raises(SystemExit, match="error: .*none.csv"):
        run_script(monkeypatch, "--root", str(reid_data), **keys)
