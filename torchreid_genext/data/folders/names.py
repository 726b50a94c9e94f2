"""How a folder is named where a data set is: ``folder:PATH``, with options behind a question mark.

``folder:people`` has the splits in sub-folders, or a CSV, or one folder for each person.
``folder:?query=probe&gallery=camera2`` names the folders of splits, ``folder:crops?pattern=(?P<pid>\\d+)_c``
how names of files tell who is on them. Paths are relative to the working folder, those of splits to PATH.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PREFIX", "SPLITS", "FolderName", "folder_name"]

PREFIX = "folder:"
SPLITS = ("train", "query", "gallery")
_OPTIONS = ("pattern", *SPLITS)
_OPTION = re.compile(rf"[?&]({'|'.join(_OPTIONS)})=")
_GROUPS = {"pid", "camid", "frame"}


@dataclass(frozen=True)
class FolderName:
    """What a name of this kind says.

    Attributes:
        root: the folder, absolute; of named splits without a folder what they have in common.
        splits: folder of each split that is named, absolute.
        pattern: of file names, with the groups ``pid`` and, where there are such, ``camid`` and ``frame``;
            empty if sub-folders tell the person.
    """

    root: Path
    splits: dict[str, Path]
    pattern: str = ""

    @classmethod
    def parse(cls, name: str) -> FolderName:
        """Read a name.

        Raises:
            ValueError: if an option repeats or is empty, a query has no gallery, or the pattern is no regular
                expression or has other groups.
        """
        path, *words = _OPTION.split(name.removeprefix(PREFIX))
        given = dict(zip(words[::2], words[1::2]))
        if (
            len(given) < len(words) // 2
            or not all(given.values())
            or not (path or given.keys() - {"pattern"})
        ):
            raise ValueError(f"expected {PREFIX}PATH or {PREFIX}?query=PATH&gallery=PATH, got {name!r}")
        root = _absolute(path)
        splits = {
            split: _absolute(root / os.path.expanduser(given[split])) for split in SPLITS if split in given
        }
        if ("query" in splits) != ("gallery" in splits):
            raise ValueError(f"expected both query and gallery, or neither, got {name!r}")
        pattern = given.get("pattern", "")
        _check_pattern(pattern)
        common = root if path else Path(os.path.commonpath([*splits.values()]))
        return cls(common, splits, pattern)


def folder_name(
    path: str = "", *, query: str = "", gallery: str = "", train: str = "", pattern: str = ""
) -> str:
    """The name of a folder, or of folders of splits, by which it is a data set.

    Args:
        path: the folder; empty where all splits are named.
        query: folder of its own, as `gallery` and `train`; relative to `path`.
        gallery: as `query`.
        train: as `query`.
        pattern: regular expression, see `FolderName`.

    Raises:
        ValueError: as `FolderName.parse`.
    """
    given = {"query": query, "gallery": gallery, "train": train, "pattern": pattern}
    options = "&".join(f"{option}={value}" for option, value in given.items() if value)
    name = PREFIX + path + (f"?{options}" if options else "")
    FolderName.parse(name)
    return name


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path)))


def _check_pattern(pattern: str) -> None:
    try:
        groups = {*re.compile(pattern).groupindex}
    except re.error as error:
        raise ValueError(
            f"expected a pattern that is a regular expression, got {pattern!r}: {error}"
        ) from error
    if pattern and not {"pid"} <= groups <= _GROUPS:
        example = r"(?P<pid>-?\d+)_c(?P<camid>\d+)"
        raise ValueError(
            f"expected a pattern with the group pid, and camid and frame if there are such, as {example}, "
            f"got {pattern!r}"
        )
