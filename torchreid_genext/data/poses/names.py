"""By which names images are known in files of poses: the file name, without folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from os import PathLike

__all__ = ["check_names", "image_name"]

_UNFIT = re.compile("[/\\\\\r\n\ud800-\udfff]")


def image_name(path: str | PathLike[str]) -> str:
    """The name of a file without its folders, whether these are written as on Linux or on Windows."""
    return re.split(r"[/\\]", os.fspath(path))[-1]


def check_names(names: Iterable[str]) -> None:
    """Whether all names can be read back from a file of poses.

    Raises:
        ValueError: if one has a line break, a slash or backslash, or bytes that are no UTF-8; it is named.
    """
    for name in names:
        if not name or _UNFIT.search(name):
            rule = "expected names of images in UTF-8 without line breaks, slashes and backslashes"
            raise ValueError(f"{rule}, which files of poses can hold, got {name!r}; rename it")
