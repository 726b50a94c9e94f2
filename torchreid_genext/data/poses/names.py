"""By which names images are known in files of poses: the file name, without folders."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import PurePath
from typing import TypeVar

__all__ = ["check_names", "image_name", "pose_finder_of"]

_Pose = TypeVar("_Pose")
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


def pose_finder_of(poses: Mapping[str, _Pose]) -> Callable[[str | PathLike[str]], _Pose | None]:
    """What looks up the pose of an image file: by its name, else by its name without extension.

    The second serves files that do not tell the extension, as OpenPose's; it has to be the name of one only.

    Args:
        poses: file name -> pose, as `read_poses` gives them.
    """
    counts = Counter(PurePath(name).stem for name in poses)
    stems = {stem: pose for name, pose in poses.items() if counts[stem := PurePath(name).stem] == 1}

    def find(path: str | PathLike[str]) -> _Pose | None:
        name = image_name(path)
        return poses[name] if name in poses else stems.get(PurePath(name).stem)

    return find
