"""What pip installs works without a clone: command, recipes and weights, from an empty folder."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT
from torchreid_genext.checkpoints import shipped

FOLDERS = ("torchreid_genext", "configs", "pretrained")
FILES = ("setup.py", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff")
MOST = 40_000_000  # bytes; all weights are float16, and eight bits would change tables
pytestmark = pytest.mark.slow


def ran(*words: str, cwd: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    """A program by its name, or the interpreter; only `path` is searched besides the environment."""
    program = [sys.executable, *words] if words[0].startswith("-") else words
    environment = {**os.environ, "PYTHONPATH": path, "PATH": f"{path}/bin{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(program, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, in which nothing of an earlier build lies, but a file that a user fetched."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "ipg_*"))
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    (folder / "pretrained/ipg").mkdir(exist_ok=True)
    (folder / "pretrained/ipg/IFR.pth").touch()
    made = ran("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", "dist", ".", cwd=folder)
    assert made.returncode == 0, made.stderr
    (found,) = (folder / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel is installed, and nothing else; the environment has the rest."""
    folder = tmp_path_factory.mktemp("site")
    made = ran("-m", "pip", "install", "--no-deps", "--target", str(folder), str(wheel), cwd=folder)
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    return tmp_path


def test_the_wheel_holds_what_is_shipped_and_no_more(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.removeprefix("torchreid_genext/") for name in archive.namelist()}
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        told = email.message_from_bytes(archive.read(metadata))
    listed = (shipped.PRETRAINED / "SHA256SUMS").read_text().split()[1::2]
    assert {f"pretrained/synthreid/{name}" for name in listed} <= names
    assert {f"configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")} <= names
    assert "py.typed" in names and "pretrained/cards/pose2id_transreid.json" in names
    assert not [name for name in names if name.endswith(".pth") or name.startswith(("tests", "tools"))]
    assert told["Description-Content-Type"] == "text/markdown"
    assert "Typing :: Typed" in told.get_all("Classifier")
    assert wheel.stat().st_size <= MOST


def test_the_command_runs_from_an_empty_folder(site: Path, empty: Path) -> None:
    told = ran("torchreid-genext", "--version", cwd=empty, path=str(site))
    assert (told.stdout, told.stderr) == ("0.2.0\n", "")
    told = ran("torchreid-genext", "--help", cwd=empty, path=str(site))
    assert "\n  doctor " in told.stdout


def test_the_doctor_finds_nothing_amiss(site: Path, empty: Path) -> None:
    told = ran("torchreid-genext", "doctor", cwd=empty, path=str(site))
    assert (told.returncode, told.stderr) == (0, ""), told.stdout
    assert "all whole" in told.stdout and "no faults" in told.stdout and not [*empty.iterdir()]


@pytest.mark.parametrize("recipe", ["shipped:demo", "configs/demo.yaml"])
def test_recipes_are_found_by_name(recipe: str, site: Path, empty: Path) -> None:
    words = ["benchmark", "--dry-run", "--config-file", recipe]
    told = ran("torchreid-genext", *words, cwd=empty, path=str(site))
    assert (told.returncode, told.stderr) == (0, "")
    assert "14 chains for each model" in told.stdout and not [*empty.iterdir()]


def test_shipped_weights_measure(site: Path, empty: Path, reid_data: Path) -> None:
    words = ["-t", "synthreid_tiny", "--root", str(reid_data), "--chain", "base", "--output", "log"]
    words += ["model.name", "osnet_x0_25", "--weights", "shipped:osnet_x0_25"]
    words += ["data.height", "128", "data.width", "64"]
    told = ran("torchreid-genext", "benchmark", *words, cwd=empty, path=str(site))
    assert told.returncode == 0 and "\nbase " in told.stdout, told.stderr


def test_shipped_weights_load_in_scripts(site: Path, empty: Path) -> None:
    script = """
import torchreid_genext
from torchreid_genext.generators import build_generator
from torchreid_genext.generators.ipg import IPGPipeline
from torchreid_genext.generators.inverter import Inverter
for name in ("camstyle", "deformable", "pg2"):
    build_generator(name, f"shipped:{name}")
build_generator("identity", "shipped:generator"), Inverter.load("shipped:inverter")
IPGPipeline.from_pretrained("shipped:ipg")
print(torchreid_genext.__file__)
"""
    told = ran("-c", script, cwd=empty, path=str(site))
    assert told.stdout == f"{site}/torchreid_genext/__init__.py\n", told.stderr
