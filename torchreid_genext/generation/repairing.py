"""Stores looked after: what is damaged is found, what does not fit is removed, nothing else is touched."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchreid_genext.data.store import Entry, ImageStore, has_end
from torchreid_genext.data.store.work_claims import TIMEOUT
from torchreid_genext.generation.merging import is_readable
from torchreid_genext.generation.survey import flat
from torchreid_genext.generation.work import content_hash, picture_seed, seed_of

__all__ = [
    "Choice", "Condition", "Fault", "changed_since", "doubled", "faults", "remove", "repair", "seeds_of"
]  # fmt: skip

_FILES = re.compile(r"([0-9a-f]{32})(\.png|\.json|\.mark\.json)")
_DEPTHS = range(2, 5)  # parts of the names of real images that share file names
_MISSES = 20  # pictures whose seed cannot be guessed, until nobody tries any more


@dataclass(frozen=True)
class Fault:
    """Files of one key that are not what they should be, and why."""

    files: tuple[Path, ...]
    reason: str


def faults(store: ImageStore, *, quick: bool = False) -> Iterator[Fault]:
    """Look at all files that a store has written; others are passed over.

    What is younger than three minutes may still be in the making, and is passed over if it is not whole.

    Args:
        store: is read, picture for picture.
        quick: look only at the ends of pictures, not at all checksums.
    """
    before = store.clock() - TIMEOUT
    is_whole = has_end if quick else is_readable
    for folder in sorted(store.root.glob("images/[0-9a-f][0-9a-f]")):
        for key, files in sorted(_by_key(folder).items()):
            reason = _reason(store, key, files, is_whole)
            if reason and all(_is_older(path, before) for path in files.values()):
                yield Fault(tuple(files.values()), reason)


def _by_key(folder: Path) -> dict[str, dict[str, Path]]:
    """Files by key and suffix, of keys that belong here."""
    found: dict[str, dict[str, Path]] = {}
    for name in os.listdir(folder):
        if (match := _FILES.fullmatch(name)) and name.startswith(folder.name):
            found.setdefault(match[1], {})[match[2]] = folder / name
    return found


def _reason(
    store: ImageStore, key: str, files: dict[str, Path], is_whole: Callable[[Path], bool]
) -> str:
    if ".json" not in files:
        return "no entry"
    if ".png" not in files:
        return "no picture"
    if not store.is_entry(key):
        return "damaged entry"
    return "" if is_whole(files[".png"]) else "damaged picture"


def _is_older(path: Path, before: float) -> bool:
    try:
        return path.stat().st_mtime < before
    except FileNotFoundError:
        return False


def repair(store: ImageStore, found: Iterable[Fault]) -> int:
    """Delete the files of faults, so that they are made again by the next filling; how many keys these were.

    Also deletes what killed processes were writing.

    Raises:
        OSError: if the folder cannot be written.
    """
    count = 0
    for fault in found:
        for path in sorted(fault.files):  # the entry first: without it nothing is there
            path.unlink(missing_ok=True)
        count += 1
    store.sweep(TIMEOUT)
    return count


@dataclass(frozen=True)
class Condition:
    """On what provenance says: a name such as ``sampling.steps``, its value, and whether it is to be another.

    An entry that does not say it has the value None.
    """

    name: str
    value: Any
    other: bool = False

    @classmethod
    def parse(cls, text: str) -> Condition:
        """From ``weights=a1b2`` or ``sampling.steps!=20``; the value is JSON, or else text.

        Raises:
            ValueError: if it has no name or no ``=``.
        """
        if not (found := re.fullmatch(r"([^=!]+)(!?)=(.*)", text, re.DOTALL)):
            raise ValueError(f"expected a condition such as sampling.steps=20 or weights!=a1b2, got {text!r}")
        try:
            value = json.loads(found[3])
        except ValueError:
            value = found[3]
        return cls(found[1], value, bool(found[2]))

    def __call__(self, entry: Entry) -> bool:
        return (dict(flat(entry.provenance)).get(self.name) == self.value) != self.other


@dataclass(frozen=True)
class Choice:
    """Entries that meet all that is given.

    Attributes:
        splits, poses, references: names; empty for all.
        seed: the seed of all from which they were drawn.
        other_seeds: a seed from which they were not drawn.
        where: conditions on their provenance.
        changed: content hashes of real images by name, of which the entries were made with other content.
    """

    splits: tuple[str, ...] = ()
    poses: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    seed: int | None = None
    other_seeds: int | None = None
    where: tuple[Condition, ...] = ()
    changed: dict[str, str] | None = None

    def __call__(self, entry: Entry) -> bool:
        """Whether an entry is chosen."""
        named = ((self.splits, entry.split), (self.poses, entry.pose), (self.references, entry.reference))
        return (
            all(not names or name in names for names, name in named)
            and (self.seed is None or _is_from(entry, self.seed))
            and (self.other_seeds is None or not _is_from(entry, self.other_seeds))
            and all(condition(entry) for condition in self.where)
            and (self.changed is None or self._is_changed(entry))
        )

    def _is_changed(self, entry: Entry) -> bool:
        content = entry.provenance.get("reference_sha256")
        return self.changed.get(entry.reference, content) != content


def _is_from(entry: Entry, seed: int) -> bool:
    return entry.provenance.get("seed") == picture_seed(seed, entry.reference, entry.pose)


def changed_since(folders: Iterable[str | Path]) -> dict[str, str]:
    """Content hashes of the files in some folders by name, with and without folders, for `Choice`.

    Raises:
        OSError: if a folder is not there.
    """
    files = [path.absolute() for folder in folders for path in Path(folder).iterdir() if path.is_file()]
    hashes = {path: content_hash(path) for path in files}
    plain = Counter(path.name for path in files)
    alone = {path.name: content for path, content in hashes.items() if plain[path.name] == 1}
    return alone | {"/".join(path.parts[-depth:]): hashes[path] for path in files for depth in _DEPTHS}


def remove(store: ImageStore, choice: Callable[[Entry], bool], *, dry_run: bool = False) -> list[Entry]:
    """Delete pictures with their entries and marks.

    Args:
        store: loses them; files that it has not written are left alone.
        choice: which.
        dry_run: delete none.

    Returns:
        Those that are, or would be, deleted.

    Raises:
        OSError: if the folder cannot be written.
    """
    chosen = [entry for entry in store.entries(dropped=True) if choice(entry)]
    for entry in () if dry_run else chosen:
        store.remove(entry)
    return chosen


def doubled(store: ImageStore) -> dict[tuple[str, str, str], list[Entry]]:
    """Where a store has two answers: by split, reference and pose, all pictures that nobody dropped."""
    kept = {
        asked: [key for key, reasons in answers.items() if not reasons]
        for asked, answers in store.answers().items()
    }  # fmt: skip
    return {asked: [*map(store.entry, keys)] for asked, keys in kept.items() if len(keys) > 1}


def seeds_of(store: ImageStore) -> Counter[int | None]:
    """How many pictures were drawn from which seed of all; None of those that cannot be guessed."""
    found: Counter[int | None] = Counter()
    for entry in store.entries(dropped=True):
        known = next((seed for seed in found if seed is not None and _is_from(entry, seed)), None)
        if known is None and found[None] < _MISSES:
            known = seed_of(entry.reference, entry.pose, entry.provenance.get("seed"))
        found[known] += 1
    return +found
