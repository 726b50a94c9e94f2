"""What a store lacks, decided by how its pictures were made; what does not fit is told before work begins.

A store has one picture of a reference in a pose. Pictures that a judge dropped do not count: others may take
their places, made from another seed. Beside these, another seed is refused as any other difference is.
"""

from __future__ import annotations

import errno
import json
import logging
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from torchreid_genext.data.store import Answers, Entry, ImageStore
from torchreid_genext.data.store.judgements import DAMAGED
from torchreid_genext.generation.work import Work, content_hash, seed_of, units_of

__all__ = [
    "Provenance", "Requests", "Survey", "differences", "flat", "is_of_the_system", "leave_out", "question",
    "refuse", "survey",
]  # fmt: skip

Provenance = Mapping[str, Any] | Callable[[Work], Mapping[str, Any]]

_HOPELESS = 20  # references that fail, before the first picture, until the fault is looked for elsewhere
# Of such errors no image file is the cause, and the next one would meet them too.
_OF_THE_SYSTEM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Survey:
    """What is to be made, and what is not.

    Attributes:
        missing: works to be made, in order.
        present: how many are there, with those that were dropped and would come out the same.
        failed: reference -> reason, of those whose file cannot be read.
        entries: of all missing works, what the store will say of them.
    """

    missing: list[Work]
    present: int
    failed: dict[str, str]
    entries: dict[Work, Entry] = field(repr=False)


@dataclass
class Requests:
    """Works to entries of a store; every reference is read once.

    Attributes:
        provenance: how pictures are made, or what tells it of each.
        failed: reference -> reason, of those whose file cannot be read.
    """

    provenance: Provenance
    failed: dict[str, str] = field(default_factory=dict)

    def __call__(self, works: Iterable[Work]) -> dict[Work, Entry]:
        """Entries of all works whose references can be read.

        Raises:
            ValueError: if the first references, one after the other, cannot be read.
            OSError: if the system is at fault.
        """
        found: dict[Work, Entry] = {}
        for unit in units_of(works):
            try:
                content = content_hash(Path(unit[0].reference))
            except OSError as error:
                leave_out(self.failed, unit[0].reference, error, hopeful=bool(found))
                continue
            found |= {work: self._entry(work, content) for work in unit}
        return found

    def _entry(self, work: Work, content: str) -> Entry:
        given = self.provenance(work) if callable(self.provenance) else self.provenance
        made = {**given, "seed": work.seed, "reference_sha256": content}
        return Entry(work.split, work.name, work.pose, made)


def leave_out(failed: dict[str, str], reference: str, error: Exception, *, hopeful: bool) -> None:
    """Note that a reference cannot be read, unless that is no fault of its own.

    Args:
        failed: gets the reference with its reason.
        reference: file of a real image.
        error: what was raised.
        hopeful: whether others could be read.

    Raises:
        OSError: the error, if the system is at fault, as when a disk is full.
        ValueError: if many failed and no other could be read.
    """
    if is_of_the_system(error):
        raise error
    _log.warning("left out, since it cannot be read: %s: %s", reference, error)
    failed[reference] = str(error)
    if len(failed) >= _HOPELESS and not hopeful:
        rule = f"expected references that can be read, got {len(failed)} that cannot and no other"
        raise ValueError(f"{rule}; the last one: {reference}: {error}") from error


def is_of_the_system(error: Exception) -> bool:
    """Whether an error would meet the next file, too."""
    return isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM


def survey(
    store: ImageStore | None, works: Iterable[Work], provenance: Provenance,
    common: Mapping[str, Any] | None = None,
) -> Survey:  # fmt: skip
    """Look what a store lacks of works; it is listed once, and every reference is read once.

    Args:
        store: is listed; None for one that is yet to be made.
        works: what is wanted.
        provenance: how pictures will be made, or what tells it of each; seed and reference are added.
        common: the part of provenance in which all pictures of a split are to agree; None for all of it, if
            it is the same for all works, and else for nothing.

    Raises:
        ValueError: if the store has pictures of these references in these poses that were made otherwise, or
            other pictures of these splits differ in what is common; also if references cannot be read, one
            after the other.
        OSError: if the system is at fault, as when there are too many open files.
    """
    requests = Requests(provenance)
    asked = requests(works)
    there = {} if store is None else store.answers()
    standings = {
        work: _standing(store, entry, there.get(question(entry), {})) for work, entry in asked.items()
    }
    _check_fits(store, asked, standings, there)
    if common is None and isinstance(provenance, Mapping):
        common = provenance
    _check_alike(store, asked, there, common)
    missing = [work for work, kind in standings.items() if kind in _TO_BE_MADE]
    entries = {work: asked[work] for work in missing}
    return Survey(missing, len(asked) - len(missing), requests.failed, entries)


def question(entry: Entry) -> tuple[str, str, str]:
    """What an entry is the answer to: split, reference and pose."""
    return entry.split, entry.reference, entry.pose


# How a wanted picture stands to the store. To be made: nothing is there; it is damaged; others were dropped.
_TO_BE_MADE = ("new", "damaged", "free")


def _standing(store: ImageStore, entry: Entry, answers: Mapping[str, tuple[str, ...]]) -> str:
    ours = answers.get(entry.key)
    if rivals := _rivals(store, entry, answers):
        by_seed = all([name for name, *_ in differences(entry, each)] == ["seed"] for each in rivals)
        return "other" if ours == () or not by_seed else "seed" if ours is None else "succeeded"
    if ours is None:
        return "free" if answers else "new"
    if DAMAGED in ours or not store.is_whole(entry.key):
        return "damaged"
    return "successor" if len(answers) > 1 else "present"


def _rivals(store: ImageStore, entry: Entry, answers: Mapping[str, tuple[str, ...]]) -> list[Entry]:
    """Other pictures of the same reference in the same pose that nobody dropped."""
    return [store.entry(key) for key, reasons in answers.items() if key != entry.key and not reasons]


def _check_fits(
    store: ImageStore, asked: Mapping[Work, Entry], standings: Mapping[Work, str], there: Answers
) -> None:
    for split in sorted({work.split for work in asked}):
        found = {work: kind for work, kind in standings.items() if work.split == split}
        kinds = {*found.values()}
        # Another seed is for the places of those that were dropped, and for nothing else.
        wrong = {"other"} if {"free", "successor"} & kinds and "new" not in kinds else {"other", "seed"}
        pairs = [
            (asked[work], rival) for work, kind in found.items() if kind in wrong
            for rival in _rivals(store, asked[work], there[question(asked[work])])
        ]  # fmt: skip
        if pairs:
            refuse(store, pairs, {work.reference for work in found}, len(found))


def _check_alike(
    store: ImageStore, asked: Mapping[Work, Entry], there: Answers, common: Mapping[str, Any] | None
) -> None:
    """Two ways of making in one split would be compared with each other unnoticed."""
    if not common:
        return
    wanted = {entry.split: entry for entry in asked.values()}
    seen = {question(entry) for entry in asked.values()}
    unasked = [answers for each, answers in there.items() if each[0] in wanted and each not in seen]
    kept = (store.entry(key) for answers in unasked for key, reasons in answers.items() if not reasons)
    pairs = [
        (_part(wanted[entry.split], common), _part(entry, common)) for entry in kept
        if any(entry.provenance.get(name) != value for name, value in common.items())
    ]  # fmt: skip
    if pairs:
        refuse(store, pairs)


def _part(entry: Entry, common: Mapping[str, Any]) -> Entry:
    return replace(entry, provenance={name: entry.provenance.get(name) for name in common})


def differences(entry: Entry, other: Entry) -> list[tuple[str, Any, Any]]:
    """In what two entries say differently how they were made: a name such as ``sampling.steps``, and both."""
    ours, theirs = (dict(flat(each.provenance)) for each in (entry, other))
    names = [*ours, *(name for name in theirs if name not in ours)]
    both = ((name, ours.get(name), theirs.get(name)) for name in names)
    return [(name, mine, yours) for name, mine, yours in both if mine != yours]


def flat(provenance: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values; those within others as ``sampling.steps``."""
    for name, value in provenance.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def refuse(
    store: ImageStore, pairs: Sequence[tuple[Entry, Entry]], references: Iterable[str] = (), asked: int = 0
) -> NoReturn:
    """Say in what pictures of a store differ from what is wanted, and what can be done.

    Args:
        store: holds the pictures.
        pairs: what is wanted, and what is there in its place, at least one.
        references: files of the real images, as far as they are known.
        asked: how many pictures are wanted, if that is known.

    Raises:
        ValueError: always.
    """
    (wanted, found), split = pairs[0], pairs[0][0].split
    differ = {name: (mine, yours) for name, mine, yours in _told(wanted, found)}
    expected = ", ".join(f"{name} {mine!s:.40}" for name, (mine, _) in differ.items())
    got = ", ".join(f"{name} {yours!s:.40}" for name, (_, yours) in differ.items())
    of = f" of {asked} that are wanted" if asked else ""
    rule = f"expected a store whose {split} pictures have {expected or 'no second answer'}"
    where = f"got {got} in {len(pairs)}{of}, such as {found.reference} in pose {found.pose}, in {store.root}"
    tool = f"torchreid-genext store remove {shlex.quote(str(store.root))} --split {split}"
    cure = f"choose another folder, or remove these: {tool}{_choice(differ, references)}"
    raise ValueError(f"{rule}, {where}; {cure}")


def _told(wanted: Entry, found: Entry) -> Iterator[tuple[str, Any, Any]]:
    """Differences; seeds as the user gives them, where they can be guessed."""
    for name, mine, yours in differences(wanted, found):
        guessed = seed_of(wanted.reference, wanted.pose, mine), seed_of(found.reference, found.pose, yours)
        yield (name, mine, yours) if name != "seed" or None in guessed else (name, *guessed)


def _choice(differ: Mapping[str, tuple[Any, Any]], references: Iterable[str]) -> str:
    """Options that choose what does not fit."""
    words = []
    for name, (_, yours) in differ.items():
        if name == "reference_sha256":
            folders = sorted({str(Path(path).parent) for path in references})
            words += ["--changed", *map(shlex.quote, folders)] if folders else []
        elif name == "seed":
            words += ["--seed", str(yours)]
        else:
            words += ["--where", shlex.quote(f"{name}={json.dumps(yours)}")]
        break
    return "".join(f" {word}" for word in words)
