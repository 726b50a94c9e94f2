"""The command line: ``torchreid-genext VERB``, a file for each verb; ``tools/`` has a door to each."""

from __future__ import annotations

import ast
import difflib
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torchreid_genext as genext
from torchreid_genext.cli.running import run

__all__ = ["VERBS", "command", "console", "run", "verb"]

VERBS = (
    "main", "benchmark", "tune", "export", "train-gen", "train-prior", "train-inverter", "train-ipg",
    "train-gan", "evaluate", "extract", "search", "explore", "generate", "store", "judge-generated",
    "evaluate-generators", "compare-augmentations", "extract-poses",
    "make-synthreid", "make-oracle-ipg", "download-pretrained", "doctor",
)  # fmt: skip


def console() -> None:
    """What the console command does."""
    run(command)


def verb(name: str) -> Callable[[Sequence[str] | None], None]:
    """The function of a verb, which imports what it needs when it is called."""

    def main(argv: Sequence[str] | None = None) -> None:
        importlib.import_module(f"{__name__}.{_file_of(name)}").main(argv)

    return main


def command(argv: Sequence[str] | None = None) -> None:
    """Do what a verb and its words ask for; without a verb tell which there are.

    Raises:
        ValueError: if there is no such verb; the message names the three nearest.
    """
    name, *words = [*(sys.argv[1:] if argv is None else argv)] or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
    elif name == "--version":
        print(genext.__version__)
    elif name in VERBS:
        verb(name)(words)
    else:
        near = ", ".join(difflib.get_close_matches(name, VERBS, cutoff=0))
        raise ValueError(f"unknown verb {name!r}; nearest: {near}; all: {', '.join(VERBS)}")


def _file_of(name: str) -> str:
    return name.replace("-", "_")


def _help() -> str:
    lines = [f"  {name:<22} {_first_line(name)}" for name in VERBS]
    return "\n".join([
        "usage: torchreid-genext VERB ...", "", *lines, "", "torchreid-genext VERB --help tells more."
    ])  # fmt: skip


def _first_line(name: str) -> str:
    """Of a verb's description, without importing what it needs."""
    text = Path(__file__).with_name(f"{_file_of(name)}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(text)).partition("\n")[0]
