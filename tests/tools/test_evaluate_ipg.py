"""Measuring IPG from the command line: a table for each judge, and a sheet."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.generators.ipg.networks import embedded
from tools import evaluate_ipg

pytestmark = pytest.mark.usefixtures("registered")


def test_ipg_stands_between_its_rivals_and_the_truth(
    reid_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    embedded().save_pretrained(tmp_path / "pipeline")
    shipped = ROOT / "pretrained/synthreid"
    evaluate_ipg.main([
        "--root", str(reid_data), "--dataset", "synthreid_tiny", "--people", "2",
        "--sheet", str(tmp_path / "sheet.png"),
        "--judge", f"osnet_x0_25@{shipped}/osnet_x0_25.safetensors",
        "--judge", f"genid@{shipped}/inverter.safetensors",
        "genext.ipg.sampling.pipeline", str(tmp_path / "pipeline"), "genext.ipg.sampling.height", "128",
        "genext.ipg.sampling.steps", "1", "genext.ipg.sampling.guidance", "1.0",
    ])  # fmt: skip
    told = capsys.readouterr().out
    for what in ("judge: osnet_x0_25", "judge: genid", "2 people in 8 poses"):
        assert what in told
    rows = [line.split() for line in told.splitlines() if line.strip().startswith(("IPG", "the truth"))]
    assert len(rows) == 4 and all(float(row[-3]) == 1 for row in rows if row[1] == "truth")  # SSIM
    assert float(rows[0][-5]) > 0.05  # an untrained generator draws noise
    assert Image.open(tmp_path / "sheet.png").width > 9 * 64
