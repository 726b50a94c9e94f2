"""Filling a store of generated images, by any number of processes, through any interruption.

The generator is an argument. What a store lacks is told by how its pictures were made (`survey`), and only
that is made; a reference with all its poses is a unit, which one process claims and makes, several units to a
batch. Pictures are written when their batch is done, so an interruption costs a batch. A picture depends on
its own seed, so it is the same whoever makes it, and in which company.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from PIL import Image
from tqdm import tqdm

from torchreid_genext.data.images.reading import UNREADABLE
from torchreid_genext.data.store import Entry, ImageStore
from torchreid_genext.data.store.work_claims import TIMEOUT, Claims
from torchreid_genext.generation.survey import (
    Provenance,
    is_of_the_system,
    leave_out,
    question,
    refuse,
    survey,
)
from torchreid_genext.generation.work import Work, shard_of, unit_name, units_of

__all__ = ["Filled", "Work", "fill"]

Generate = Callable[[list[Work]], Sequence[Image.Image]]
_Requests = dict[Work, Entry]  # what the store will say

_WRITERS = 4  # threads; Pillow lets go of the interpreter while it encodes
_PATIENCE = 1.0  # seconds between looks at what others have claimed


@dataclass(frozen=True)
class Filled:
    """What came of filling a store.

    Attributes:
        made: pictures that were made here.
        present: pictures that were there, or were made by others meanwhile.
        failed: reference -> reason, of those that could not be read.
    """

    made: int
    present: int
    failed: dict[str, str]

    def __str__(self) -> str:
        failed = f", {len(self.failed)} references failed" if self.failed else ""
        return f"{self.made} pictures made, {self.present} there already{failed}"


def fill(
    store: ImageStore,
    works: Iterable[Work],
    generate: Generate,
    *,
    provenance: Provenance,
    batch_size: int,
    shard: tuple[int, int] | None = None,
    timeout: float = TIMEOUT,
    progress: bool = True,
) -> Filled:
    """Make what a store lacks, after a look at all of it.

    Processes on one store share the work by claims, however many there are and whenever they come; each
    returns when all is there. References whose image cannot be read are left out, with a warning.

    Args:
        store: is filled.
        works: what is wanted, as by `works`.
        generate: works to their pictures, in order. It may raise what files raise that cannot be read
            (`data.images.UNREADABLE`): then references are tried one by one, and those that fail are left
            out. Any other error ends the filling.
        provenance: how pictures are made, or what tells it of each; `seed` and `reference_sha256`, of the
            content of the reference, are added.
        batch_size: at most so many pictures are asked for at once. References stay whole where they fit, and
            share batches with others.
        shard: (index, count) of this process: take every count-th reference from the index on, without
            claims; nobody else may do the same then.
        timeout: seconds after which what another process claimed, and died over, is taken over.
        progress: show a progress bar on a terminal.

    Raises:
        ValueError: if the batch size or the shard is out of range, the store has pictures in the place of
            these that were made otherwise, `generate` returns too few or too many pictures, or one reference
            after the other cannot be read.
        OSError: if the store cannot be written, as when the disk is full; the store stays whole.
    """
    if batch_size < 1:
        raise ValueError(f"expected batch_size >= 1, got {batch_size}")
    works = [work for unit in shard_of(units_of(works), shard) for work in unit]
    with contextlib.ExitStack() as stack:
        claims = _Unclaimed() if shard else Claims(store.root / "claims", timeout=timeout)
        found = survey(store, works, provenance)
        stack.enter_context(claims)
        hidden = None if progress else True
        bar = stack.enter_context(tqdm(total=len(works), unit="img", desc="pictures", disable=hidden))
        writers = stack.enter_context(ThreadPoolExecutor(_WRITERS))
        filling = _Filling(store, generate, found.entries, batch_size, claims, bar, writers)
        filling.failed |= found.failed
        filling.skip(found.present)
        filling.run(units_of(found.missing))
        store.sweep(timeout)
    return Filled(filling.made, filling.present, filling.failed)


class _Unclaimed(contextlib.nullcontext):
    """For shards, of which nobody else makes anything."""

    def take(self, name: str) -> bool:
        return True

    def release(self, name: str) -> None:
        pass

    def sweep(self) -> None:
        pass


@dataclass
class _Filling:
    """A run of `fill`. Units are works of one reference each; their requests are what the store is asked."""

    store: ImageStore
    generate: Generate
    entries: _Requests
    batch_size: int
    claims: Claims | _Unclaimed
    bar: tqdm
    writers: ThreadPoolExecutor
    made: int = 0
    present: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    news: dict[tuple[str, str, str], list[str]] = field(default_factory=dict)  # keys of what others add

    def skip(self, count: int) -> None:
        """Count pictures that are there."""
        self.present += count
        self.bar.update(count)

    def run(self, units: list[list[Work]]) -> None:
        while units:
            elsewhere: list[list[Work]] = []
            for batch in self._batches(units, elsewhere):
                self._make(batch)
            if len(elsewhere) == len(units):
                time.sleep(min(_PATIENCE, self.claims.timeout / 10))
            units = elsewhere
        self.claims.sweep()

    def _batches(self, units: list[list[Work]], elsewhere: list[list[Work]]) -> Iterator[list[_Requests]]:
        """Requests that we have claimed, of as many units as fit; units of others are put `elsewhere`."""
        batch: list[_Requests] = []
        for unit in units:
            missing = self._claimed(unit, elsewhere)
            if batch and sum(map(len, batch)) + len(missing) > self.batch_size:
                yield batch
                batch = []
            batch += [missing] if missing else []
        if batch:
            yield batch

    def _claimed(self, unit: list[Work], elsewhere: list[list[Work]]) -> _Requests:
        """Requests of what a unit lacks, if that is now ours to make."""
        requests = {work: self.entries[work] for work in unit}
        missing = self._missing(requests)
        if missing and not self.claims.take(unit_name(unit[0])):
            elsewhere.append(unit)
            return {}
        if missing and not (missing := self._missing(requests)):  # made before the last holder let go
            self.claims.release(unit_name(unit[0]))
        self._check_alone(missing)
        self.skip(len(unit) - len(missing))
        return missing

    def _missing(self, requests: _Requests) -> _Requests:
        return {work: entry for work, entry in requests.items() if not self.store.has(**vars(entry))}

    def _check_alone(self, missing: _Requests) -> None:
        """Refuse to go on beside a process that fills the store with the same, made otherwise."""
        for key, asked in self.store.added().items():
            self.news.setdefault(asked, []).append(key)
        for entry in missing.values():
            for key in self.news.get(question(entry), ()):
                if key != entry.key:
                    refuse(self.store, [(entry, self.store.entry(key))])

    def _make(self, batch: list[_Requests]) -> None:
        asked = [item for requests in batch for item in requests.items()]
        for part in (asked[i : i + self.batch_size] for i in range(0, len(asked), self.batch_size)):
            try:
                pictures = self.generate([work for work, _ in part])
            except UNREADABLE as error:
                self._blame(batch, error)
                return
            self._write([entry for _, entry in part], pictures)
        for requests in batch:
            self.claims.release(unit_name(next(iter(requests))))

    def _blame(self, batch: list[_Requests], error: Exception) -> None:
        """Leave out the reference that failed; of several find those that do."""
        if len(batch) > 1 and not is_of_the_system(error):
            for requests in batch:
                self._make([requests])
            return
        work = next(iter(batch[0]))
        leave_out(self.failed, work.reference, error, hopeful=bool(self.made + self.present))
        self.claims.release(unit_name(work))

    def _write(self, entries: list[Entry], pictures: Sequence[Image.Image]) -> None:
        if len(pictures) != len(entries):
            raise ValueError(f"expected {len(entries)} pictures of as many works, got {len(pictures)}")
        add = self.store.add
        list(self.writers.map(lambda picture, entry: add(picture, **vars(entry)), pictures, entries))
        self.made += len(pictures)
        self.bar.update(len(pictures))
