"""Filling a store of generated images, by any number of processes, through any interruption.

The generator is an argument. What is there already is not made again; a reference with all its poses is a
unit, which one process claims and makes, several units to a batch. Pictures are written when their batch is
done, so an interruption costs a batch. A picture depends on its own seed, so it is the same whoever makes it,
and in which company.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from torchreid_genext.data.images.reading import UNREADABLE
from torchreid_genext.data.store import ImageStore
from torchreid_genext.data.store.work_claims import TIMEOUT, Claims
from torchreid_genext.generation.work import Work, content_hash, shard_of, unit_name, units_of

__all__ = ["Filled", "Work", "fill"]

Generate = Callable[[list[Work]], Sequence[Image.Image]]
Provenance = Mapping[str, Any] | Callable[[Work], Mapping[str, Any]]
_Requests = dict[Work, dict[str, Any]]  # as `ImageStore.add` takes them

_WRITERS = 4  # threads; Pillow lets go of the interpreter while it encodes
_HOPELESS = 20  # references that fail, before the first picture, until the fault is looked for elsewhere
_PATIENCE = 1.0  # seconds between looks at what others have claimed
# Of such errors no image file is the cause, and the next one would meet them too.
_OF_THE_SYSTEM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
_log = logging.getLogger(__name__)


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
    """Make what a store lacks.

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
        ValueError: if the batch size or the shard is out of range, `generate` returns too few or too many
            pictures, or one reference after the other cannot be read.
        OSError: if the store cannot be written, as when the disk is full; the store stays whole.
    """
    if batch_size < 1:
        raise ValueError(f"expected batch_size >= 1, got {batch_size}")
    units = shard_of(units_of(works), shard)
    with contextlib.ExitStack() as stack:
        claims = _Unclaimed() if shard else Claims(store.root / "claims", timeout=timeout)
        stack.enter_context(claims)
        hidden, total = None if progress else True, sum(map(len, units))
        bar = stack.enter_context(tqdm(total=total, unit="img", desc="pictures", disable=hidden))
        writers = stack.enter_context(ThreadPoolExecutor(_WRITERS))
        filling = _Filling(store, generate, provenance, batch_size, claims, bar, writers)
        filling.run(units)
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
    provenance: Provenance
    batch_size: int
    claims: Claims | _Unclaimed
    bar: tqdm
    writers: ThreadPoolExecutor
    made: int = 0
    present: int = 0
    failed: dict[str, str] = field(default_factory=dict)

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
        try:
            requests = self._requests(unit)
        except OSError as error:
            self._leave_out(unit[0], error)
            return {}
        missing = self._missing(requests)
        if missing and not self.claims.take(unit_name(unit[0])):
            elsewhere.append(unit)
            return {}
        if missing and not (missing := self._missing(requests)):  # made before the last holder let go
            self.claims.release(unit_name(unit[0]))
        self.present += len(unit) - len(missing)
        self.bar.update(len(unit) - len(missing))
        return missing

    def _requests(self, unit: list[Work]) -> _Requests:
        """What the store is asked for; reads the reference, which may raise an OSError."""
        content = content_hash(Path(unit[0].reference))
        return {work: self._request(work, content) for work in unit}

    def _request(self, work: Work, content: str) -> dict[str, Any]:
        given = self.provenance(work) if callable(self.provenance) else self.provenance
        made = {**given, "seed": work.seed, "reference_sha256": content}
        name = Path(work.reference).name
        return {"split": work.split, "reference": name, "pose": work.pose, "provenance": made}

    def _missing(self, requests: _Requests) -> _Requests:
        return {work: request for work, request in requests.items() if not self.store.has(**request)}

    def _make(self, batch: list[_Requests]) -> None:
        asked = [item for requests in batch for item in requests.items()]
        for part in (asked[i : i + self.batch_size] for i in range(0, len(asked), self.batch_size)):
            try:
                pictures = self.generate([work for work, _ in part])
            except UNREADABLE as error:
                self._blame(batch, error)
                return
            self._write([request for _, request in part], pictures)
        for requests in batch:
            self.claims.release(unit_name(next(iter(requests))))

    def _blame(self, batch: list[_Requests], error: Exception) -> None:
        """Leave out the reference that failed; of several find those that do."""
        if len(batch) > 1 and not _is_of_the_system(error):
            for requests in batch:
                self._make([requests])
            return
        work = next(iter(batch[0]))
        self._leave_out(work, error)
        self.claims.release(unit_name(work))

    def _leave_out(self, work: Work, error: Exception) -> None:
        if _is_of_the_system(error):
            raise error
        _log.warning("left out, since it cannot be read: %s: %s", work.reference, error)
        self.failed[work.reference] = str(error)
        if len(self.failed) >= _HOPELESS and not self.made + self.present:
            rule = f"expected references that can be read, got {len(self.failed)} that cannot and no other"
            raise ValueError(f"{rule}; the last one: {work.reference}: {error}") from error

    def _write(self, requests: list[dict[str, Any]], pictures: Sequence[Image.Image]) -> None:
        if len(pictures) != len(requests):
            raise ValueError(f"expected {len(requests)} pictures of as many works, got {len(pictures)}")
        add = self.store.add
        list(self.writers.map(lambda picture, request: add(picture, **request), pictures, requests))
        self.made += len(pictures)
        self.bar.update(len(pictures))


def _is_of_the_system(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM
