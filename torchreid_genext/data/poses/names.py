"""By which names images are known in files of poses: the file name, with folders only where names repeat."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import TypeVar

__all__ = ["check_names", "image_name", "pose_of"]

Pose = TypeVar("Pose")

_UNFIT = re.compile("[\\\\\r\n\ud800-\udfff]|^/|/$|//")


def image_name(path: str | PathLike[str]) -> str:
    """The name of a file without its folders, whether these are written as on Linux or on Windows."""
    return re.split(r"[/\\]", os.fspath(path))[-1]


def pose_of(poses: Mapping[str, Pose], path: str | PathLike[str]) -> Pose | None:
    """The pose of an image: under as much of its path as is a name there; None if there is none."""
    parts = re.split(r"[/\\]", os.fspath(path))
    names = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((poses[name] for name in names if name in poses), None)


def check_names(names: Iterable[str], *, folders: bool = False) -> None:
    """Whether all names can be read back from a file of poses.

    Args:
        names: of images.
        folders: whether the file holds folders, too.

    Raises:
        ValueError: if one has a line break, a slash or backslash, or bytes that are no UTF-8; it is named.
    """
    for name in names:
        if not name or _UNFIT.search(name) or "/" in name and not folders:
            rule = "expected names of images in UTF-8 without line breaks, slashes and backslashes"
            raise ValueError(f"{rule}, which files of poses can hold, got {name!r}; rename it")
