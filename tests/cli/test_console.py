"""The console command, its verbs, and the doors to them in tools/."""

from __future__ import annotations

import ast
import functools
import importlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_package import setup_arguments
from torchreid_genext import cli
from torchreid_genext.config import get_default_config

SCRIPTS = sorted((ROOT / "tools").glob("*.py"))
WITHOUT_DATA_SETS = {"make-synthreid", "download-pretrained", "store", "evaluate", "search"}


def python(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_each_verb_has_a_door() -> None:
    assert sorted(cli.VERBS) == [path.stem.replace("_", "-") for path in SCRIPTS]
    for path in SCRIPTS:
        assert f'main = verb("{path.stem.replace("_", "-")}")' in path.read_text()


def test_the_command_is_installed() -> None:
    (entry,) = setup_arguments()["entry_points"]["console_scripts"]
    name, module, function = entry.replace(" = ", ":").split(":")
    assert name == "torchreid-genext"
    assert getattr(importlib.import_module(module), function) is cli.console


def test_help_of_the_command_is_light(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom torchreid_genext.cli import command\ncommand([])\n"
        "print({'torch', 'numpy', 'torchreid', 'diffusers'} & {*sys.modules})"
    )
    told = python("-c", code, cwd=tmp_path).stdout
    assert told.endswith("set()\n")
    assert all(f"\n  {name} " in told for name in cli.VERBS)


def test_unknown_verbs_name_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown verb 'generat'; nearest: generate, .*; all: main, "):
        cli.command(["generat"])


@pytest.mark.parametrize("name", cli.VERBS)
def test_each_verb_helps(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.command([name, "--help"])
    told = capsys.readouterr().out
    assert told.startswith(f"usage: torchreid-genext {name} [-h]")
    first = ast.get_docstring(ast.parse((ROOT / "tools" / f"{name.replace('-', '_')}.py").read_text()))
    assert first in told


@pytest.mark.parametrize("name", sorted({*cli.VERBS} - WITHOUT_DATA_SETS))
def test_the_same_words_mean_the_same_everywhere(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.command([name, "--help"])
    told = capsys.readouterr().out
    assert "--config-file FILE" in told and "--root FOLDER" in told
    assert name == "main" or "--dataset" in told
    assert name == "evaluate-generators" or "--output" in told


def test_tools_work_from_any_folder_with_keys_in_any_place(tmp_path: Path) -> None:
    words = ["-t", "synthreid_tiny", "genext.benchmark.chains", "['base', 'nfc']", "--dry-run"]
    words += ["data.save_dir", "X", "--root", "R", "--config-file", "configs/demo.yaml"]
    ended = python(str(ROOT / "tools/benchmark.py"), *words, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (
        "2 chains for each model: base, nfc" in ended.stdout and "report and pictures in X," in ended.stdout
    )
    assert "synthreid_tiny" in ended.stdout and not [*tmp_path.iterdir()]


def test_mistakes_at_the_console_are_one_sentence(tmp_path: Path) -> None:
    ended = python("-m", "torchreid_genext", "tune", "-t", "Market1501", "--root", "R", cwd=tmp_path)
    assert ended.returncode == 1 and not [*tmp_path.iterdir()]
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: unknown image data set 'Market1501'; choose from market1501, ")


def test_help_is_there_in_a_moment(tmp_path: Path) -> None:
    def seconds(*words: str) -> float:
        begun = time.perf_counter()
        python(*words, cwd=tmp_path)
        return time.perf_counter() - begun

    assert min(seconds("-m", "torchreid_genext", "--help") for _ in range(3)) < 1 + seconds("-c", "")


def test_options_stand_for_keys_that_exist() -> None:
    tree, found = get_default_config(), set()
    for path in (ROOT / "torchreid_genext/cli").glob("*.py"):
        found |= {*re.findall(r'\bkey="([\w.]+)"', path.read_text())}
    assert len(found) > 10
    for key in found:
        *nodes, name = key.split(".")
        assert name in functools.reduce(lambda node, each: node[each], nodes, tree), key
