"""The house as a checked picture: who may import whom, what the library never does, how long it may be."""

from __future__ import annotations

import ast
import functools
import importlib
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "torchreid_genext"
READER = PACKAGE / "checkpoints" / "reading.py"  # the one that opens foreign weights
FILES = sorted(PACKAGE.rglob("*.py"))
TOOLS = sorted((ROOT / "tools").glob("*.py"))

# room -> rooms it may import; imports inside a room are free
MAY_IMPORT = {
    "__init__": {"backbones", "compat", "config", "data", "engine", "generators"},
    "__main__": {"cli"},
    "backbones": {"checkpoints", "compat", "data", "generators"},
    "benchmark": {
        "backbones", "checkpoints", "compat", "config", "data", "extraction", "precision", "ranklists",
        "recipes", "retrieval", "visualization",
    },  # fmt: skip
    "checkpoints": set(),
    "cli": {
        "backbones", "benchmark", "checkpoints", "compat", "config", "data", "download", "engine", "evaluation",
        "explore", "extraction", "generation", "generators", "precision", "processes", "recipes", "retrieval",
        "visualization",
    },  # fmt: skip
    "compat": set(),
    "config": {"checkpoints", "retrieval"},
    "data": {"checkpoints", "compat", "processes"},
    "download": {"checkpoints"},
    "engine": {"backbones", "checkpoints", "compat", "config", "data", "precision", "recipes", "retrieval"},
    "evaluation": {"data", "generators", "retrieval", "visualization"},
    "explore": {"benchmark", "data", "extraction", "generators", "ranklists", "recipes", "retrieval"},
    "extraction": {"checkpoints", "compat", "data", "processes"},
    "generation": {"checkpoints", "compat", "data", "extraction", "processes", "visualization"},
    "generators": {"checkpoints", "compat", "precision"},
    "precision": set(),
    "processes": set(),
    "ranklists": {"checkpoints", "processes", "retrieval"},
    "retrieval": {"checkpoints", "precision"},
    "recipes": {
        "backbones", "checkpoints", "compat", "data", "evaluation", "extraction", "generation", "generators", "precision",
        "retrieval", "training", "visualization",
    },  # fmt: skip
    "training": {"checkpoints", "generators", "precision", "processes", "visualization"},
    "visualization": set(),
}

PUBLIC = {
    "torchreid_genext": ["register", "unregister", "add_genext_config"],
    "torchreid_genext.config": ["get_default_config"],
    "torchreid_genext.engine": ["attach"],
    "torchreid_genext.retrieval.neighbours": ["nearest"],
    "torchreid_genext.retrieval.centralization": ["nfc", "fuse_generated", "id2"],
    "torchreid_genext.retrieval.metrics": ["evaluate_rank"],
    "torchreid_genext.retrieval.protocol": ["RetrievalSet", "Chain", "evaluate"],
    "torchreid_genext.data.filenames": ["parse"],
    "torchreid_genext.generators": ["build_generator", "list_generators"],
    "torchreid_genext.generators.identity": ["IdentityDenoiser"],
    "torchreid_genext.generators.inverter": ["Inverter"],
    "torchreid_genext.generators.prior": ["CodePrior"],
    "torchreid_genext.training": ["fit", "Options", "Phase", "trained_weights"],
    "torchreid_genext.data.poses": ["read_market_annotations", "draw_skeleton", "heatmaps"],
}


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """Dotted names of everything a file imports; ``from a import b`` counts as ``a`` and ``a.b``."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} imports relatively"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def imported_rooms(path: Path) -> set[str]:
    ours = [module.split(".") for module in imported_modules(path) if module.startswith("torchreid_genext.")]
    return {parts[1] for parts in ours} - {room_of(path)}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_run_downwards(path: Path) -> None:
    assert imported_rooms(path) <= MAY_IMPORT[room_of(path)]


def test_table_of_imports_has_no_cycle() -> None:
    remaining = {room: set(below) for room, below in MAY_IMPORT.items()}
    while ground := [room for room, below in remaining.items() if not below]:
        remaining = {room: below - set(ground) for room, below in remaining.items() if room not in ground}
    assert not remaining


@pytest.mark.parametrize("path", [path for path in FILES + TOOLS if path.name != "compat.py"], ids=name_of)
def test_only_compat_imports_torchreid(path: Path) -> None:
    assert not {module for module in imported_modules(path) if module.split(".")[0] == "torchreid"}


def forbidden(node: ast.AST) -> str | None:
    """What the library does not do, found in one node of a syntax tree."""
    if isinstance(node, ast.Assert):
        return "assert as validation"
    if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
        return "a star import"
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [alias.name for alias in node.names] + [getattr(node, "module", None)]
        return next((name for name in ("argparse", "pickle") if name in names), None)
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.split(":")[0] == "cuda":
        return "a device literal"
    if isinstance(node, ast.Attribute) and node.attr == "argv":
        return "argv"
    if isinstance(node, ast.Call):
        return {"print": "print", "eval": "eval", "exec": "exec"}.get(ast.unparse(node.func)) or device_call(
            node
        )
    return None


def device_call(node: ast.Call) -> str | None:
    if isinstance(node.func, ast.Attribute) and node.func.attr == "cuda":
        return ".cuda()"
    return "torch.load" if ast.unparse(node.func) == "torch.load" else None


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_library_does_nothing_that_is_forbidden(path: Path) -> None:
    allowed = {"torch.load"} if path == READER else {"print", "argparse", "argv"} if room_of(path) == "cli" else set()
    found = {
        f"{what} in line {node.lineno}": what for node in ast.walk(tree(path)) if (what := forbidden(node))
    }
    assert not {place for place, what in found.items() if what not in allowed}


def test_the_search_for_forbidden_things_finds_them() -> None:
    lines = ["from a import *", "import pickle", "print(1)", "x.cuda()", "d = 'cuda:0'", "assert x"]
    for line in [*lines, "torch.load(p)", "sys.argv"]:
        assert any(forbidden(node) for node in ast.walk(ast.parse(line))), line


def test_checkpoints_loads_with_weights_only() -> None:
    calls = [node for node in ast.walk(tree(READER)) if isinstance(node, ast.Call)]
    loads = [
        node for node in calls if ast.unparse(node.func) in ("torch.load", "pickle.load", "pickle.loads")
    ]
    assert loads
    for load in loads:
        assert {keyword.arg: ast.unparse(keyword.value) for keyword in load.keywords}[
            "weights_only"
        ] == "True"


@pytest.mark.parametrize("path", FILES + TOOLS, ids=name_of)
def test_files_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} is too long"


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef)


def public(body: list[ast.stmt]) -> list[ast.FunctionDef | ast.ClassDef]:
    found = [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [node for node in found if not node.name.startswith("_")]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_module_says_what_it_is_and_public_functions_have_types_and_words(path: Path) -> None:
    module = tree(path)
    assert ast.get_docstring(module)
    for node in () if room_of(path) == "cli" else public(module.body):
        assert ast.get_docstring(node), f"{node.name} has no docstring"
        for member in () if path.name.startswith("_") or is_function(node) else public(node.body):
            assert ast.get_docstring(member), f"{node.name}.{member.name} has no docstring"
        if is_function(node):
            untyped = [a.arg for a in (*node.args.args, *node.args.kwonlyargs) if a.annotation is None]
            assert not untyped and node.returns, f"{node.name} has untyped {untyped or 'result'}"


@pytest.mark.parametrize(("module", "names"), PUBLIC.items(), ids=PUBLIC)
def test_fixed_public_names_exist(module: str, names: list[str]) -> None:
    found = importlib.import_module(module)
    assert all(callable(getattr(found, name)) for name in names)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_all_names_what_exists(path: Path) -> None:
    module = importlib.import_module(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    )
    missing = [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)]
    assert not missing
