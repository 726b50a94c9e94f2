"""The documentation is in step with the code: its commands, keys, arguments, messages, API, and its site."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import astuple, fields
from pathlib import Path
from xml.etree import ElementTree

import pytest
from yacs.config import CfgNode

from scripts import write_docs
from scripts.bars import Bar, drawn
from tests.conftest import ROOT
from tests.pages import PAGES, blocks, read, section, tables
from tests.test_architecture import PUBLIC
from torchreid_genext import cli
from torchreid_genext.cli.parsing import OneLine, Parser, configuration
from torchreid_genext.config import STEP_NODES, get_default_config
from torchreid_genext.recipes.training import schedules
from torchreid_genext.retrieval.protocol import STEPS

COMMAND = "torchreid-genext "


def commands() -> list[str]:
    """Command lines in all pages: lines of blocks, and code within sentences."""
    lines = [line.strip() for block in blocks("sh") for line in block.splitlines()]
    within = [code for page in PAGES for code in re.findall(rf"`({COMMAND}[^`]+)`", read(page))]
    found = dict.fromkeys(" ".join(line.split()) for line in lines + within)
    return [line for line in found if line.startswith(COMMAND) and "VERB" not in line]


class Understood(Exception):
    """A command line has been read to its end, and nothing was done."""


@pytest.fixture
def only_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tools stop where they have read their command line; they hand over what they read."""
    whole, plain = Parser.parse_args, argparse.ArgumentParser.parse_args

    def of_most(parser: Parser, *words: object) -> None:
        raise Understood(whole(parser, *words))

    def of_store(parser: OneLine, *words: object) -> argparse.Namespace:
        if isinstance(parser, Parser):  # called by `whole`
            return plain(parser, *words)
        raise Understood(plain(parser, *words))

    monkeypatch.setattr(Parser, "parse_args", of_most)
    monkeypatch.setattr(OneLine, "parse_args", of_store)


@pytest.mark.parametrize("line", commands())
def test_command_is_understood(line: str, only_read: None, monkeypatch: pytest.MonkeyPatch) -> None:
    verb, *words = shlex.split(line.removeprefix(COMMAND), comments=True)
    assert verb in cli.VERBS or verb.startswith("--")
    if not words or verb.startswith("--"):
        return
    monkeypatch.chdir(ROOT)
    with pytest.raises(Understood) as stopped:
        cli.verb(verb)(words)
    if hasattr(arguments := stopped.value.args[0], "config_file"):
        configuration(arguments)  # its file is there, its keys exist, and their values are of the right type


def test_commands_are_many() -> None:
    assert len(commands()) > 40


def test_pages_and_bars_are_as_the_code_writes_them(tmp_path: Path) -> None:
    write_docs.main(tmp_path)
    written = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.*")}
    assert len(written) == len(write_docs.PAGES) + len(write_docs.BARS)
    assert all(read(name) == text for name, text in written.items()), "run python -m scripts.write_docs"


def test_bars_are_as_long_as_their_values() -> None:
    picture = ElementTree.fromstring(drawn("title", [Bar("a<b", 2.0), Bar("b", 1.0), Bar("none", 0.0)]))
    widths = [float(each.get("width")) for each in picture.iter() if each.tag.endswith("rect")]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.1) and widths[2] == 0
    texts = [each.text for each in picture.iter() if each.tag.endswith("text")]
    assert texts == ["title", "a<b", "2.00", "b", "1.00", "none", "0.00"]


def leaves(node: CfgNode, prefix: str = "") -> dict[str, object]:
    found = {}
    for name, value in node.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else {prefix + name: value}
    return found


def keys_of_the_page() -> dict[str, list[str]]:
    """key -> its default and its meaning."""
    rows = [row for each in tables(read("configuration.md").split("\n## Schedules\n")[0]) for row in each]
    return {row[0].strip("`"): [row[1].strip("`").replace("\\|", "|"), *row[2:]] for row in rows}


def test_keys_of_the_page_are_the_tree() -> None:
    tree = get_default_config()
    tree.use_gpu = False
    assert {key: default for key, (default, _) in keys_of_the_page().items()} == {
        key: repr(value) for key, value in leaves(tree).items()
    }


def test_every_key_has_a_meaning() -> None:
    assert not [key for key, (_, meaning) in keys_of_the_page().items() if not meaning]


def test_keys_of_steps_say_what_the_steps_say() -> None:
    meanings = {key: meaning for key, (_, meaning) in keys_of_the_page().items()}
    for step, node in STEP_NODES.items():
        for item in fields(STEPS[step]):
            choices = " \\| ".join(item.metadata["choices"])
            words = item.metadata["help"] + (f": {choices}" if choices else "")
            assert meanings[f"genext.{node}.{item.name}"] == words


def test_tables_of_schedules_are_those_of_the_recipes() -> None:
    rows = [row for each in tables(section("configuration.md", "Schedules")) for row in each]
    shown = [[cell.strip("` ") for cell in row] for row in rows]
    stages = [*schedules.OWN.items(), *schedules.OFFICIAL.items()]
    assert shown == [[name, *map(str, astuple(own))] for name, own in stages]


def test_steps_are_all_described() -> None:
    (rows,) = tables(section("steps.md", "The steps"))
    assert {name for row in rows for name in re.findall(r"`(\w+)", row[0])} == {*STEPS}


def said_by_the_library() -> str:
    """All texts in its code."""
    files = (ROOT / "torchreid_genext").rglob("*.py")
    nodes = (node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return "\0".join(texts)


def test_messages_of_the_page_are_those_of_the_code() -> None:
    said = said_by_the_library()
    messages = re.findall(r"^\| `([^`]+)` \|", read("troubleshooting.md"), re.MULTILINE)
    assert len(messages) > 60
    for message in messages:
        for part in re.split(r"\.\.\.|, got|; ", message):
            assert part.strip(" '") in said, message


def test_public_names_are_in_the_pages_of_the_api() -> None:
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    shown = set(re.findall(r"^::: (\S+)$", pages, re.MULTILINE))
    for place in shown:
        found = importlib.import_module(place) if place.endswith(("sharded", "spec")) else named(place)
        assert found.__doc__, place
    names = {place.rpartition(".")[2] for place in shown}
    assert {name for public in PUBLIC.values() for name in public} <= names


def named(place: str) -> object:
    module, _, name = place.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.slow
def test_site_builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("zensical", reason="needs the extra docs")
    pytest.importorskip("mkdocstrings", reason="needs the extra docs")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    (tmp_path / "torchreid_genext").symlink_to(ROOT / "torchreid_genext")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    pages = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in PAGES[1:]]
    assert all((tmp_path / "site" / page).is_file() for page in pages)
