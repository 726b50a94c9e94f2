"""The code is Python of every version that setup.py allows, whichever of them runs the tests."""

from __future__ import annotations

import ast
import glob
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_package import setup_arguments

OLDEST = (3, 10)
VERSIONS = [f"3.{minor}" for minor in range(10, 14)]
FILES = [ROOT / "setup.py", *(path for folder in ("torchreid_genext", "tools", "benchmarks", "tests")
                              for path in sorted((ROOT / folder).rglob("*.py")))]  # fmt: skip
COMPILE = """
import sys
for line in sys.stdin.read().splitlines():
    with open(line, 'rb') as file:
        compile(file.read(), line, 'exec')
print('.'.join(map(str, sys.version_info[:2])))
"""


def interpreter(version: str) -> str | None:
    """A Python of a version on this machine that runs."""
    homes = sorted(glob.glob(os.path.expanduser(f"~/.pyenv/versions/{version}.*/bin/python")))
    return homes[-1] if homes else shutil.which(f"python{version}")


def too_new(path: Path) -> list[int]:
    """Lines with what the oldest Python does not know; ``ast`` does not tell of stars in an index."""
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=OLDEST)
    indexes = [node.slice for node in ast.walk(tree) if isinstance(node, ast.Subscript)]
    starred = [index for index in indexes if isinstance(index, ast.Tuple) and not _in_brackets(index, path)]
    return [index.lineno for index in starred if any(isinstance(each, ast.Starred) for each in index.elts)]


def _in_brackets(index: ast.Tuple, path: Path) -> bool:
    return path.read_text(encoding="utf-8").splitlines()[index.lineno - 1][index.col_offset :].startswith("(")


def test_the_oldest_python_understands_each_file() -> None:
    assert not {str(path.relative_to(ROOT)): lines for path in FILES if (lines := too_new(path))}


@pytest.mark.parametrize(("line", "new"), [("a[..., *b]", True), ("a[(..., *b)]", False), ("a[b, c]", False)])
def test_a_star_in_an_index_is_found(tmp_path: Path, line: str, new: bool) -> None:
    (tmp_path / "a.py").write_text(line)
    if sys.version_info[:2] > OLDEST or not new:  # the oldest Python itself cannot read the line
        assert bool(too_new(tmp_path / "a.py")) is new


@pytest.mark.parametrize("version", VERSIONS)
def test_each_python_on_this_machine_compiles_all_files(version: str) -> None:
    if (python := interpreter(version)) is None:
        pytest.skip(f"needs python{version}")
    listed = "\n".join(map(str, FILES))
    run = subprocess.run([python, "-I", "-c", COMPILE], input=listed, capture_output=True, text=True)
    if "command not found" in run.stderr:  # pyenv has a stand-in for what is not installed
        pytest.skip(f"needs python{version}")
    assert run.stdout.strip() == version, run.stderr


def test_the_oldest_python_is_the_one_that_is_declared() -> None:
    assert setup_arguments()["python_requires"] == ">=" + ".".join(map(str, OLDEST))
