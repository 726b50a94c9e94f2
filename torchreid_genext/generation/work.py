"""Pictures that are wanted: which person, in which pose, from which seed."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchreid_genext.data.store import SPLITS
from torchreid_genext.data.store.references import reference_names

__all__ = ["Work", "content_hash", "picture_seed", "seed_of", "shard_of", "unit_name", "units_of", "works"]


@dataclass(frozen=True)
class Work:
    """A picture to be made.

    Attributes:
        split: ``query``, ``gallery`` or ``train``.
        reference: file of the real image.
        pose: name of the pose.
        seed: the picture's own.
        name: of the real image in stores; the file name, unless it is given.
    """

    split: str
    reference: str
    pose: str
    seed: int
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or Path(self.reference).name)


def picture_seed(seed: int, reference: str, pose: str) -> int:
    """The seed of a picture: a hash of the seed of all, the file name of the real image, and the pose's name.

    Returns:
        0 .. 2**53 - 1, which every reader of JSON keeps as it is.
    """
    digest = hashlib.sha256(json.dumps([seed, reference, pose]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 11


_GUESSES = 1000  # seeds that people choose


def seed_of(reference: str, pose: str, own: Any) -> int | None:
    """The seed of all from which a picture's own was made, if it is a small one."""
    return next((seed for seed in range(_GUESSES) if picture_seed(seed, reference, pose) == own), None)


def works(split: str, references: Iterable[str], poses: Sequence[str], *, seed: int) -> list[Work]:
    """Every reference in every pose; the poses of a reference stand together.

    Args:
        split: ``query``, ``gallery`` or ``train``.
        references: files of all real images of the split, which `reference_names` gives their names.
        poses: names.
        seed: of all; each picture has its own by `picture_seed`.

    Raises:
        ValueError: if the split is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
    paths = [*dict.fromkeys(map(str, references))]
    both = itertools.product(zip(reference_names(paths), paths), poses)
    return [Work(split, path, pose, picture_seed(seed, name, pose), name) for (name, path), pose in both]


def content_hash(content: bytes | str | Path | Any) -> str:
    """SHA-256, in hexadecimal, of a file (by its path), of bytes, or of an array such as a pose."""
    if isinstance(content, str | Path):
        content = Path(content).read_bytes()
    elif not isinstance(content, bytes):
        content = json.dumps(getattr(content, "tolist", lambda: content)()).encode()
    return hashlib.sha256(content).hexdigest()


def units_of(works: Iterable[Work]) -> list[list[Work]]:
    """Works by split and reference, each once, in the order of their first."""
    units: dict[tuple[str, str], dict[Work, None]] = {}
    for work in works:
        units.setdefault((work.split, work.reference), {})[work] = None
    return [[*unit] for unit in units.values()]


def shard_of(units: list[list[Work]], shard: tuple[int, int] | None) -> list[list[Work]]:
    """Every count-th unit from the index on, of a shard (index, count); all without one.

    Raises:
        ValueError: if the shard is out of range.
    """
    if shard is None:
        return units
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"expected a shard (index, count) with 0 <= index < count, got {shard}")
    return units[index::count]


def unit_name(work: Work) -> str:
    """The name of the claim to all works of a reference, whatever their poses and provenance."""
    return content_hash(json.dumps([work.split, work.name]).encode())[:32]
