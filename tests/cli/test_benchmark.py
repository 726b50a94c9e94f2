"""The command line of the benchmark."""

from __future__ import annotations

import json
import logging
import runpy
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from torchreid_genext import config
from torchreid_genext.cli.benchmark import main, parse_arguments
from torchreid_genext.cli.parsing import configuration

pytestmark = pytest.mark.usefixtures("registered")
KEYS = ["use_gpu", "False", "model.name", "osnet_x0_25", "model.pretrained", "False", "data.workers", "0"]
KEYS += ["data.height", "32", "data.width", "16", "genext.benchmark.bootstrap", "50"]


def arguments(reid_data: Path, folder: Path, *options: str) -> list[str]:
    return ["-t", "synthreid_tiny", "--root", str(reid_data), *options, *KEYS, "data.save_dir", str(folder)]


def test_table_report_and_pictures(
    reid_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = logging.getLogger().level
    main(arguments(reid_data, tmp_path / "run"))
    assert logging.getLogger().level == before
    output = capsys.readouterr().out
    saved = json.loads((tmp_path / "run" / "report.json").read_text())
    for chain in saved["models"][0]["chains"]:
        assert f"{chain['mAP'] * 100:.2f}" in output
    assert str(tmp_path / "run" / "report.html") in output
    assert all(str(tmp_path / "run" / name) in output for name in saved["pictures"]) and saved["pictures"]


def test_dry_run_says_what_would_be_done(
    reid_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments(reid_data, tmp_path / "run", "--dry-run"))
    output = capsys.readouterr().out
    assert "features to extract in fp32" in output and "base, l2, nfc" in output
    assert not (tmp_path / "run").exists()


def test_chains_are_options_as_elsewhere() -> None:
    cfg = configuration(parse_arguments(["--chain", "base", "--chain", "dmon+aro"]))
    assert cfg.genext.benchmark.chains == ["base", "dmon+aro"]


def test_strict_sets_the_key() -> None:
    assert configuration(parse_arguments(["--strict"])).genext.benchmark.strict
    assert not configuration(parse_arguments([])).genext.benchmark.strict


def test_mistakes_end_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = str(ROOT / "tools" / "benchmark.py")
    words = ["model.name", "osnet_x9", "data.save_dir", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", [script, *words])
    with pytest.raises(SystemExit, match="^error: unknown model 'osnet_x9'; choose from .*$"):
        runpy.run_path(script, run_name="__main__")
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["demo", "market1501_osnet_x0_25"])
def test_recipes_can_be_read(name: str) -> None:
    file = ROOT / "configs" / f"{name}.yaml"
    assert config.load_config(str(file)).genext.benchmark.chains[0] == "base"
    assert file.read_text().startswith("# ")
