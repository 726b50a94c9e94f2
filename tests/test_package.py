"""Metadata and commands: what is declared is what is imported, and importing changes nothing."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools
from yacs.config import CfgNode

import torchreid_genext as genext
from tests.conftest import ROOT
from torchreid_genext import compat, config

DISTRIBUTIONS = {"cv2": "opencv-python-headless", "PIL": "pillow", "yaml": "pyyaml"}


def setup_arguments() -> dict[str, object]:
    """What setup.py hands to ``setup``."""
    found: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **arguments: found.update(arguments))
        runpy.run_path(str(ROOT / "setup.py"))
    return found


def declared() -> set[str]:
    return {re.split(r"[<>=\[]", name)[0] for name in setup_arguments()["install_requires"]}


def imported_by(folder: Path) -> set[str]:
    """Distributions that the modules below a folder import, at their top or inside functions."""
    names: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.split(".")[0])
    return {DISTRIBUTIONS.get(name, name) for name in names - set(sys.stdlib_module_names)}


def test_everything_that_torchreid_imports_is_declared() -> None:
    folder = Path(compat.host().models.__file__).parent.parent
    build_only = {"Cython", "distutils"}  # the optional compiled ranking
    assert imported_by(folder) - build_only - {"torchreid"} <= declared()


def test_everything_that_the_library_imports_is_declared() -> None:
    optional = {
        requirement.split(">")[0]
        for extra in setup_arguments()["extras_require"].values()
        for requirement in extra
    }
    optional = {"faiss" if name == "faiss-cpu" else name for name in optional}
    assert imported_by(ROOT / "torchreid_genext") - {"torchreid_genext"} <= declared() | optional


def test_tensorboard_is_declared_since_the_host_imports_it_through_torch() -> None:
    assert "tensorboard" in declared()


def test_torch_is_not_pinned() -> None:
    assert not [name for name in setup_arguments()["install_requires"] if "==" in name or "<" in name]


def test_version_is_the_same_everywhere() -> None:
    assert setup_arguments()["version"] == genext.__version__
    assert f"\nversion: {genext.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] == genext.__version__


def test_metadata_tell_what_is_tested() -> None:
    arguments = setup_arguments()
    pythons = [name.rpartition(" ")[2] for name in arguments["classifiers"] if "Python :: 3." in name]
    assert f">={pythons[0]}" == arguments["python_requires"]
    assert f"\nNEWEST ?= python{pythons[-1]}\n" in (ROOT / "Makefile").read_text()
    assert arguments["long_description"].startswith("# torchreid_genext")
    assert (ROOT / "torchreid_genext/py.typed").is_file()


def test_importing_changes_nothing() -> None:
    """In a fresh interpreter: no torchreid, no handler, no random number drawn, as many threads as before."""
    code = """
import logging, random, sys
import numpy, torch

def state():
    return (random.getstate()[1], numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist(),
            torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(),
            list(logging.getLogger().handlers), list(logging.getLogger("torchreid_genext").handlers))

before = state()
import torchreid_genext, torchreid_genext.engine
assert state() == before
assert "torchreid" not in sys.modules and "matplotlib" not in sys.modules and "diffusers" not in sys.modules
import torchreid
registries = (vars(torchreid.models)["__model_factory"], vars(torchreid.data.datasets)["__image_datasets"])
tables = lambda: tuple(map(list, registries))
names = tables()
torchreid_genext.register()
torchreid_genext.register()
added = set(tables()[1]) - set(names[1])
assert added and not set(names[1]) - set(tables()[1]), added
torchreid_genext.unregister()
torchreid_genext.unregister()
assert tables() == names
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_retrieval_needs_torch_and_numpy_alone(tmp_path: Path) -> None:
    """With all else that is declared out of reach: sets in, steps, figures, search and files out."""
    code = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(others())}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Blocker())
import numpy
from torchreid_genext.retrieval import RetrievalSet, compare, evaluate, load_sets, search, write_found

rows = numpy.random.default_rng(0).normal(size=(30, 8)).tolist()
query = RetrievalSet(rows[:10], numpy.arange(10) % 5, [0] * 10, paths=[str(row) for row in range(10)])
gallery = RetrievalSet(rows[10:], numpy.arange(20) % 5, [1] * 20)
files = query.save("query.npz"), gallery.save("gallery.npz")
query, gallery = load_sets(*files)
for chain in ("base", "l2+nfc", "camera_norm+rerank(k1=5)", "dba+aqe", "dmon+aro", "ca_jaccard"):
    assert 0 < evaluate(query, gallery, chain).mAP < 1
write_found(search(compare(query, gallery)), "lists")
import torchreid_genext
assert torchreid_genext.__version__
for blocked in ("nothing.mat", "nothing.parquet"):
    open(blocked, "w").close()
    try:
        RetrievalSet.load(blocked)
    except ImportError as error:
        assert "pip install" in str(error)
    else:
        raise SystemExit(blocked)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def others() -> set[str]:
    """Modules of all that is declared, but for torch and NumPy, and what is often there by chance."""
    arguments = setup_arguments()
    names = sum(arguments["extras_require"].values(), arguments["install_requires"])
    found = {re.split(r"[<>=\[]", name)[0] for name in names} - {"torch", "numpy"}
    called = {distribution: module for module, distribution in DISTRIBUTIONS.items()}
    found = {called.get(name, name).replace("-cpu", "").replace("-", "_") for name in found}
    return found | {"pandas", "sklearn", "transformers", "IPython"}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_merges_says_what_it_is_and_holds_only_differences(path: Path) -> None:
    assert path.read_text().startswith("# ")
    changed, default = flat(config.load_config(path)), flat(config.get_default_config())
    written = flat(CfgNode.load_cfg(path.open()))
    assert {name for name in written if changed[name] == default[name]} == set()


def flat(node: CfgNode, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in node.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {f"{prefix}{key}": value}
    return found


def made(folder: Path, *arguments: str) -> list[str]:
    """The commands that make would run in a folder; also when the tests themselves are run by make."""
    command = ["make", "--dry-run", "--no-print-directory", "-f", str(ROOT / "Makefile"), *arguments]
    theirs = ("MAKE", "PYTHON=", "PIP=", "OLDEST", "NEWEST")  # variables of a make that runs the tests
    environment = {name: value for name, value in os.environ.items() if not f"{name}=".startswith(theirs)}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return run.stdout.splitlines()


@pytest.mark.parametrize("target", ["demo", "test"])
def test_both_commands_set_up_the_environment_first(target: str, tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("")
    lines = made(tmp_path, target, "PYTHON=python-of-choice")
    assert "python-of-choice -m venv .venv" in lines[0]
    assert "pip install" in lines[1] and "-e '.[test]'" in lines[1]
    assert lines[-1].startswith(".venv/bin/python")


@pytest.mark.parametrize(("end", "python"), [("oldest", "python3.10"), ("newest", "python3.13")])
def test_the_ends_of_the_range_have_environments_of_their_own(end: str, python: str, tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("")
    lines = made(tmp_path, f"test-{end}")
    assert f"{python} -m venv .venv-{end}" in lines[0]
    assert lines[-1].startswith(f".venv-{end}/bin/python -m pytest")
    bound = any("-c .venv-oldest/bounds.txt" in line for line in lines)
    assert bound == (end == "oldest") and any("--upgrade" in line for line in lines) == (end == "newest")


def test_lower_bounds_are_found_for_all_that_is_declared() -> None:
    """By the words of the Makefile."""
    (line,) = (line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("\tgrep"))
    command = line.strip().rsplit(" > ", 1)[0]
    found = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    arguments = setup_arguments()
    wanted = sum(arguments["extras_require"].values(), arguments["install_requires"])
    assert sorted(set(found.stdout.split())) == sorted({name.replace(">=", "==") for name in wanted})


def test_extras_add_something_that_somebody_imports() -> None:
    extras = setup_arguments()["extras_require"]
    required = {re.split("[<>=]", name)[0] for name in setup_arguments()["install_requires"]}
    added = {extra: {re.split("[<>=]", name)[0] for name in names} for extra, names in extras.items()}
    assert all(names and not names & required for names in added.values())
    library = "".join(path.read_text() for path in (ROOT / "torchreid_genext").rglob("*.py"))
    optional = set.union(*(names for extra, names in added.items() if extra not in ("test", "docs")))
    names = {name.replace("-cpu", "").replace("-", "_") for name in optional}
    ways = ("import {}", "from {}.", '"{}"')
    assert all(any(way.format(name) in library for way in ways) for name in names)


def test_nobody_is_told_to_install_a_name_that_is_not_there() -> None:
    """Whoever registers our name could else run code on the machines of those who follow the advice."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    code = [path for folder in ("torchreid_genext", "tools") for path in (ROOT / folder).rglob("*.py")]
    for path in (*pages, *code):
        assert not re.search(r"pip install\s+torchreid_genext", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    ("target", "last"), [("docs", "zensical build --strict --clean"), ("slow", "-m slow")]
)
def test_what_builds_the_site_is_installed_where_it_is_built(target: str, last: str, tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("")
    lines = made(tmp_path, target)
    assert any("-e '.[docs]'" in line for line in lines) and lines[-1].endswith(last)


def test_environment_is_installed_once(tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()
    lines = made(tmp_path, "test")
    options = "-q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder"
    assert lines == [f".venv/bin/python -m pytest {options}"]


def test_ci_runs_the_tests() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "make test"
