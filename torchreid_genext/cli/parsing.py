"""One command line for all tools: options, and keys of the configuration anywhere between them.

A word is a key if it is dotted and begins as one does (``genext.nfc.k1``), unless an option that takes so
many words still waits for it; the word behind a key is its value. Many options stand for a key. Nothing is
ignored: what is given twice, contradicts or is not read is refused.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import importlib
import logging
import math
import os
import re
import sys
import textwrap
from ast import literal_eval
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

import torchreid_genext as genext
from torchreid_genext import config
from torchreid_genext.checkpoints import shipped
from torchreid_genext.retrieval.files import SUFFIXES

__all__ = ["OneLine", "Parser", "configuration", "from_zero", "given_name", "positive", "refuse", "set_up"]

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.\w+)+")
_NUMBER = re.compile(r"-\.?\d")


class OneLine(argparse.ArgumentParser):
    """A parser of argparse whose complaints are a line."""

    def error(self, message: str) -> None:
        """What argparse itself refuses."""
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


class Parser(OneLine):
    """The command line of a tool.

    Args:
        tool: the file that describes it, its ``__name__``.
        text: what ``--help`` says first.
        reads: keys, or nodes of keys, that the tool looks at; None is all of them.
    """

    def __init__(self, tool: str, text: str, reads: Sequence[str] | None = None) -> None:
        super().__init__(
            prog=f"torchreid-genext {tool.rpartition('.')[2].replace('_', '-')}", description=text,
            epilog=None if reads == () else _help(reads), formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        self.reads, self._keys = reads, {}
        if reads != ():
            self.add_argument("--config-file", default="", metavar="FILE", help="YAML file of keys")

    def add_key(self, *words: str, key: str, group: Any = None, **options: Any) -> None:
        """An option that stands for a key: without it the YAML file or the default says what holds.

        A list of words, where the key is a text, becomes one with spaces.
        """
        action = (group or self).add_argument(*words, default=None, **options)
        self._keys[action.dest] = key

    def add_root(self) -> None:
        """The folder of all data sets, and a module that knows more of them than torchreid does."""
        self.add_key(
            "--root", key="data.root", metavar="FOLDER", help="holds the data sets (default: reid-data)"
        )
        what = "Python file or module that registers data sets or models of your own in torchreid"
        self.add_argument("--import", dest="module", metavar="MODULE", help=what)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:
        """Options as attributes; ``keys`` are those of the command line, ``standing`` those that options
        stand for, and ``given`` has the options that are there.

        Raises:
            ValueError: naming the word that has no place, or what contradicts.
        """
        words = [*(sys.argv[1:] if args is None else args)]
        if {"-h", "--help"} & {*words}:
            super().parse_args(["--help"])
        told = _Words(self, words)
        arguments = super().parse_args(told.options, namespace)
        arguments.given, arguments.keys = told.given, told.keys
        standing = {key: getattr(arguments, dest) for dest, key in self._keys.items()}
        arguments.standing = {
            key: _as_key(told.tree, key, value) for key, value in standing.items() if value is not None
        }
        for key in arguments.standing.keys() & told.keys.keys():
            _refuse_two(key, told.keys[key], arguments.standing[key])
        return arguments

    def option(self, word: str) -> argparse.Action | None:
        """What a word such as ``--root`` asks for, shortened or not."""
        word = word.partition("=")[0] if word.startswith("--") else word
        known = self._option_string_actions
        if word in known:
            return known[word]
        begun = {
            id(known[name]): known[name] for name in known if word.startswith("--") and name.startswith(word)
        }
        return [*begun.values()][0] if len(begun) == 1 else None

    def names(self) -> list[str]:
        """All words of options."""
        return [*self._option_string_actions]

    def takes_words(self) -> bool:
        """Whether there are words that belong to no option."""
        return any(not action.option_strings for action in self._actions)

    def check_read(self, keys: Iterable[str], reads: Sequence[str] | None = None, what: str = "") -> None:
        """Refuse keys that nobody looks at.

        Args:
            keys: of the command line.
            reads: what is looked at in this mode; the parser's own if None.
            what: the mode.
        """
        reads = self.reads if reads is None else reads
        for key in keys if reads is not None else ():
            if not any(key == each or key.startswith(f"{each}.") for each in reads):
                raise ValueError(
                    f"expected keys that {what or self.prog} reads, {', '.join(reads)}, got {key}"
                )


class _Words:
    """A command line, told apart: words for argparse, keys with their values, and which options are there."""

    def __init__(self, parser: Parser, words: Sequence[str]) -> None:
        self.parser, self.options, self.keys = parser, [], {}
        self.given: set[str] = set()
        self.tree = config.get_default_config() if parser.reads != () else CfgNode()
        self._waiting, self._most = 0, 0  # words that the last option must have, and may have
        rest = [*words]
        while rest:
            self._take(rest)

    def _take(self, rest: list[str]) -> None:
        word = rest.pop(0)
        if action := self.parser.option(word):
            self._begin(action, word)
        elif not self._waiting and _is_key(self.tree, word) and not self._is_file(word):
            self._take_key(word, rest)
        else:
            self._take_plain(word)

    def _begin(self, action: argparse.Action, word: str) -> None:
        if action.dest in self.given and not isinstance(action, argparse._AppendAction):
            raise ValueError(f"expected {word} once, got it twice")
        self.given.add(action.dest)
        self._waiting, self._most = (0, 0) if "=" in word else _needs(action)
        self.options.append(word)

    def _take_key(self, key: str, rest: list[str]) -> None:
        if "=" in key:
            raise ValueError(f"expected a key and its value as two words, got {key}")
        if not rest or self.parser.option(rest[0]):
            raise ValueError(
                f"expected a value after {key}, got {rest[0] if rest else 'the end of the line'}"
            )
        value = rest.pop(0)
        _refuse_two(key, self.keys.setdefault(key, value), value)
        self.parser.check_read([key])
        self._most = 0  # what follows belongs to no option

    def _is_file(self, word: str) -> bool:
        """Whether a word is a file of features, whose names may begin as keys do: ``test.npz``."""
        return self.parser.takes_words() and word.endswith(SUFFIXES)

    def _take_plain(self, word: str) -> None:
        if word.startswith("--") or word.startswith("-") and not self._most and not _NUMBER.match(word):
            near = _nearest(word.partition("=")[0], self.parser.names())
            raise ValueError(f"unknown option {word} of {self.parser.prog}; choose from {near}")
        if not self._most and not self.parser.takes_words():
            what = "an option or a key with its value" if self.parser.reads != () else "an option"
            raise ValueError(f"expected {what}, got {word!r}; see {self.parser.prog} --help")
        self._waiting, self._most = max(0, self._waiting - 1), max(0, self._most - 1)
        self.options.append(word)


def _help(reads: Sequence[str] | None) -> str:
    """How keys are written, and which there are, if not all."""
    key = "genext.nfc.k1 4" if reads is None else f"KEY VALUE, of {', '.join(reads)}"
    told = f"Keys of the configuration may stand anywhere: {key}. They and options win over the YAML file."
    return textwrap.fill(told, 79)


def _needs(action: argparse.Action) -> tuple[int, float]:
    """How many words an option must have, and may have."""
    if isinstance(action.nargs, int):
        return action.nargs, action.nargs
    return {None: (1, 1), "+": (1, math.inf), "*": (0, math.inf), "?": (0, 1)}[action.nargs]


def _is_key(tree: CfgNode, word: str) -> bool:
    """Whether a word is meant as a key; where it is mistyped the configuration tells so."""
    if not _DOTTED.fullmatch(word.partition("=")[0]):
        return word in tree and not isinstance(tree[word], CfgNode)
    first = word.partition(".")[0]
    return first in tree or bool(difflib.get_close_matches(first, [*tree], cutoff=0.8))


def _refuse_two(key: str, one: Any, other: Any) -> None:
    if _value(one) != _value(other):
        raise ValueError(f"expected one {key}, got {one!r} and {other!r}")


def _value(given: Any) -> Any:
    """What yacs makes of a word."""
    try:
        return literal_eval(given) if isinstance(given, str) else given
    except (ValueError, SyntaxError):
        return given


def _nearest(word: str, choices: Sequence[str]) -> str:
    return ", ".join(difflib.get_close_matches(word, choices, n=3, cutoff=0) or choices)


def configuration(arguments: argparse.Namespace) -> CfgNode:
    """Defaults, then the YAML file, then options and keys; shipped files lie beside the package.

    Raises:
        ValueError: naming the file, key or value.
    """
    cfg = config.get_default_config()
    if arguments.config_file:
        config.merge_file(cfg, shipped.file(arguments.config_file))
    for key, value in arguments.standing.items():
        node, name = _place(cfg, key)
        node[name] = value
    config.merge_options(cfg, [word for pair in arguments.keys.items() for word in pair])
    return shipped.located(cfg)


def _place(cfg: CfgNode, key: str) -> tuple[CfgNode, str]:
    *nodes, name = key.split(".")
    return functools.reduce(lambda node, each: node[each], nodes, cfg), name


def _as_key(cfg: CfgNode, key: str, value: Any) -> Any:
    node, name = _place(cfg, key)
    return " ".join(value) if isinstance(value, list) and isinstance(node[name], str) else value


def set_up(arguments: argparse.Namespace, level: int = logging.INFO) -> None:
    """Let the log be seen, and torchreid know our data sets and those of the user's module.

    Raises:
        ImportError: if there is no such module.
    """
    logging.basicConfig(level=level, format="%(message)s")
    if arguments.module:
        _import(arguments.module)
    genext.register()


def _import(module: str) -> None:
    """A file by its path, so that processes that are started later find it, too; else a module by name."""
    path = Path(os.path.expanduser(module)).resolve()
    if module.endswith(".py") and not path.is_file():
        raise ValueError(f"expected a Python file, got {module}, which does not exist")
    sys.path.insert(0, str(path.parent if path.is_file() else Path.cwd()))
    importlib.import_module(path.stem if path.is_file() else module)


def given_name(parser: Parser, name: str) -> str:
    """How an option is written, by its attribute."""
    words = next(action.option_strings for action in parser._actions if action.dest == name)
    return next(word for word in words if word.startswith("--"))


def refuse(parser: Parser, arguments: argparse.Namespace, options: Iterable[str], why: str) -> None:
    """Refuse options that would have no effect here.

    Args:
        parser: that knows the options.
        arguments: what it has found.
        options: as attributes: ``out_dir``.
        why: ends the sentence.

    Raises:
        ValueError: naming the option.
    """
    for name in options:
        if name in arguments.given:
            raise ValueError(f"expected no {given_name(parser, name)} {why}")


def _whole(least: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d+", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least}, got {text!r}")
        return int(text)

    return whole


positive, from_zero = _whole(1), _whole(0)
