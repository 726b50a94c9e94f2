"""Which keys there are, and what is said of those that are not."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from yacs.config import CfgNode

__all__ = ["check_key", "check_tree"]

_NEAREST = 3
# What a key of an earlier version is now; the first pattern that matches the whole key counts.
_NOW: tuple[tuple[str, str], ...] = ()


def check_tree(cfg: CfgNode, tree: Mapping[Any, Any]) -> None:
    """Refuse what a file says and `cfg` does not know, or knows to be of another kind.

    Raises:
        ValueError: naming the first such key, and the nearest that there are.
    """
    for key, value in _said(tree):
        check_key(cfg, key, value)


def check_key(cfg: CfgNode, key: str, value: Any) -> None:
    """Refuse a key that is in no tree, a value in place of a node, and a node in place of a value.

    Raises:
        ValueError: naming what has become of the key, or the nearest ones.
    """
    *above, name = key.split(".")
    node = _node(cfg, above)
    if node is None or name not in node:
        raise ValueError(_unknown(cfg, key))
    known, given = isinstance(node[name], CfgNode), isinstance(value, Mapping)
    if known and not given:
        raise ValueError(f"expected keys below {key}, such as {key}.{next(iter(node[name]))}, got {value!r}")
    if given and not known:
        raise ValueError(f"expected a value of {key}, got keys below it: {', '.join(map(str, value))}")


def _said(tree: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its value, nodes before what is below them."""
    for name, value in tree.items():
        if not isinstance(name, str):
            raise ValueError(f"expected names as keys{f' below {above[:-1]}' if above else ''}, got {name!r}")
        yield f"{above}{name}", value
        if isinstance(value, Mapping):
            yield from _said(value, f"{above}{name}.")


def _node(cfg: CfgNode, names: Sequence[str]) -> CfgNode | None:
    for name in names:
        cfg = cfg.get(name) if isinstance(cfg, CfgNode) else None
    return cfg if isinstance(cfg, CfgNode) else None


def _unknown(cfg: CfgNode, key: str) -> str:
    for pattern, now in _NOW:
        if re.fullmatch(pattern, key):
            return f"{key} is no key any more; {now}"
    known = [path for path, value in _said(cfg) if not isinstance(value, Mapping)]
    nearest = difflib.get_close_matches(key, known, _NEAREST, cutoff=0.0)
    return f"there is no key {key}; the nearest are {', '.join(nearest)}"
