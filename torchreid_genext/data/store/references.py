"""What real images are called in a store: as their files, with folders only where these are needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

__all__ = ["reference_names", "without_suffix"]


def reference_names(paths: Sequence[str | Path]) -> list[str]:
    """File names of the images of a split; if two share one, all with as many folders as tell them apart.

    Own data often lie in a folder for each person or camera, in which names begin anew. The names depend on
    all images of a split, so they are to be given together.

    Args:
        paths: files; the same one may be there several times.

    Returns:
        As many names, such as ``0001.jpg`` or ``person1/0001.jpg``.
    """
    parts = [Path(path).parts for path in paths]
    count, depth = len({*parts}), 1
    while len({part[-depth:] for part in parts}) < count:
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]


def without_suffix(name: str) -> str:
    """Such a name without its extension, ``person1/0001``."""
    return str(PurePosixPath(name).with_suffix(""))
