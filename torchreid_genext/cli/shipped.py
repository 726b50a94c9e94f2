"""Weights and recipes that come with the package, found from any folder."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

__all__ = ["PRETRAINED", "file", "is_ours", "located"]

_HOUSE = Path(__file__).resolve().parents[2]  # of package, configs and pretrained
PRETRAINED = _HOUSE / "pretrained/synthreid"
_OURS = re.compile(r"(?:^|(?<=@))pretrained/[^@]+")  # also in osnet=osnet_x0_25@pretrained/...@64x32


def file(path: str, *, always: bool = False) -> str:
    """A file or folder below the working folder, or else beside the package.

    Args:
        path: relative, as recipes have it.
        always: the one beside the package, if it is there, though the working folder has such a one, too.
    """
    path = os.path.expanduser(path)
    own = _HOUSE / path
    if not own.exists() or (Path(path).exists() and (not always or Path(path).samefile(own))):
        return path
    return str(own)


def is_ours(path: str) -> bool:
    """Whether a file is one of the recipes that come with the package."""
    return _HOUSE / "configs" in Path(path).resolve().parents


def located(node: Any, *, always: bool = False) -> Any:
    """A configuration, changed in place, or a value, whose shipped weights are found by `file`."""
    if isinstance(node, CfgNode):
        for name, value in node.items():
            node[name] = located(value, always=always)
    elif isinstance(node, list):
        return [located(each, always=always) for each in node]
    elif isinstance(node, str):
        return _OURS.sub(lambda found: file(found[0], always=always), node)
    return node
