"""Ranks of the matches of a block of queries, counted over blocks of the gallery.

A match's rank is one more than the images before it, and a sum over parts of the gallery is as good as a
count over all of it. So a tally needs the gallery only in blocks, twice: ``collect`` takes the distances of
the matches out of each block, ``count`` adds how many strangers, images of other identities, each block holds
before each match. Blocks may come in any order and from any process, as arrays or as tensors; tensors are
counted on their own device.

A match may tie with a stranger, so three counts are kept: strangers nearer, strangers as near, and of these
the ones with a smaller gallery index.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchreid_genext.retrieval._blocks import blocks

__all__ = ["Block", "Gallery", "Tally", "sampled_curves"]

Block = NDArray | Tensor  # distances of some queries (rows) from consecutive gallery images

_NOBODY = np.empty(0, dtype=np.int64)
_REPEATS = 10  # draws of the cuhk03 protocol
_TILE = 2**23  # distances that are compared at a time on an accelerator, with 11 bytes each; 50 of a tied one
_LOOKS = 256  # at least so many entries for each match, and a look at all of them costs less than a sort


class Gallery:
    """Labels of all or of consecutive gallery images, by identity.

    Attributes:
        first: index of the first of these images in the whole gallery.
        junk_pid: identity of images that no ranking may hold; None: there is none.
        own_camera: whether the query's own images under its own camera are matches like any other.
        junk: indices of the images of `junk_pid`.
        grouped: all images from 0, those of an identity next to each other and ascending.
    """

    def __init__(
        self,
        pids: NDArray,
        camids: NDArray | None,
        *,
        junk_pid: int | None = None,
        own_camera: bool = False,
        first: int = 0,
    ):
        self.grouped = np.argsort(pids, kind="stable")
        names, starts, self._sizes = np.unique(pids[self.grouped], return_index=True, return_counts=True)
        self._starts, self._numbers = starts, {pid: number for number, pid in enumerate(names.tolist())}
        self.pids, self.camids, self.first = pids, camids, first
        self.junk_pid, self.own_camera = junk_pid, own_camera
        self.junk = _NOBODY if junk_pid is None else self.members(junk_pid)

    def __len__(self) -> int:
        return len(self.pids)

    @cached_property
    def codes(self) -> NDArray[np.int64]:
        """Identity of each image as a number from 0; `code` gives that of a label."""
        codes = np.empty(len(self), dtype=np.int64)
        codes[self.grouped] = np.repeat(np.arange(len(self._sizes)), self._sizes)
        return codes

    def code(self, pid: object) -> int:
        """The number of an identity in `codes`; -1 if it has no image here."""
        return self._numbers.get(pid, -1)

    def codes_of(self, pids: NDArray) -> NDArray[np.int64]:
        """`code` of each of some identities."""
        return np.array([self.code(pid) for pid in pids.tolist()], dtype=np.int64)

    def members(self, pid: object) -> NDArray[np.int64]:
        """Indices of all images of an identity, ascending."""
        number = self.code(pid)
        if number < 0:
            return _NOBODY
        start = self._starts[number]
        return self.grouped[start : start + self._sizes[number]] + self.first

    def matches(self, pids: NDArray, camids: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of queries and indices of their matches, one entry a match; both ascending.

        They are under other cameras, or under any; junk has no match.
        """
        codes = self.codes_of(pids)
        known = codes >= 0
        if self.junk_pid is not None:
            known &= codes != self.code(self.junk_pid)
        sizes, rows = self._sizes[codes[known]], np.flatnonzero(known)
        query = np.repeat(rows, sizes)
        skipped = np.repeat(self._starts[codes[known]] - (sizes.cumsum() - sizes), sizes)
        place = self.grouped[np.arange(len(query)) + skipped]
        if not self.own_camera:
            other = self.camids[place] != camids[query]
            query, place = query[other], place[other]
        return query, place + self.first


class Tally:
    """Flat arrays over all matches of a block of queries: one entry a match.

    Attributes:
        query: row of its query, ascending.
        index: its place in the whole gallery.
        distance: from its query; known after ``collect``.
        strangers: (3, entries) how many are nearer, as near, and as near with a smaller index.
    """

    def __init__(self, gallery: Gallery, pids: NDArray, camids: NDArray) -> None:
        self.gallery, self.pids = gallery, pids
        self.query, self.index = gallery.matches(pids, camids)
        self.distance = np.zeros(len(self.index))
        self.strangers = np.zeros((3, len(self.index)), dtype=np.int64)

    def collect(self, block: Block, start: int) -> None:
        """Take the distances of matches out of a block: all queries, gallery images from ``start``."""
        here = self.within(start, start + block.shape[1])
        found = _entries(block, self.query[here], self.index[here] - start)
        self.distance = self.distance.astype(found.dtype, copy=False)
        self.distance[here] = found

    def within(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Which matches lie in this part of the gallery."""
        return (self.index >= start) & (self.index < stop)

    def replace(self, query: NDArray, index: NDArray, distance: NDArray) -> None:
        """Set the matches, for example those that several processes have collected, and nearest first."""
        order = np.lexsort((index, distance, query))
        self.query, self.index, self.distance = query[order], index[order], distance[order]
        self.strangers = np.zeros((3, len(order)), dtype=np.int64)

    def sort(self) -> None:
        """Order each query's matches by distance, ties by index; between collecting and counting."""
        if len(self.query):  # a short row each sorts three times as fast as all entries
            rows, place = self._in_rows(self.distance, np.inf)
            order = rows.argsort(1, kind="stable")[self.query, place]
            order += np.searchsorted(self.query, self.query)
            self.index, self.distance = self.index[order], self.distance[order]

    def count(self, block: Block, start: int) -> None:
        """Add the strangers in a block before each match."""
        if isinstance(block, Tensor) and len(self.query):
            self.strangers += self._count_on_device(block, start)
        elif len(self.query):
            self._count_by_row(block, start)

    def _count_by_row(self, block: NDArray, start: int) -> None:
        stop = start + block.shape[1]
        junk, pids = _between(self.gallery.junk, start, stop), self.pids.tolist()
        for row, entries in self._queries():
            own = _between(self.gallery.members(pids[row]), start, stop)
            excluded = np.concatenate([own, junk]) if len(junk) else own
            self.strangers[:, entries] += _count_strangers(
                block[row], excluded - start, self.distance[entries], self.index[entries] - start
            )

    def _count_on_device(self, block: Tensor, start: int) -> NDArray[np.int64]:
        """The same for all rows at once, without a sort of any."""
        values, place = self._in_rows(self.distance, np.inf)
        places, _ = self._in_rows(self.index - start, block.shape[1])
        first = start - self.gallery.first
        codes = self.gallery.codes[first : first + block.shape[1]]
        junk = self.gallery.code(self.gallery.junk_pid) if len(self.gallery.junk) else -2
        columns = values, places.clip(-1, block.shape[1]), codes, self.gallery.codes_of(self.pids)
        counts = _count_in_tiles(block, *(torch.from_numpy(a).to(block.device) for a in columns), junk)
        return counts.cpu().numpy()[:, self.query, place]

    def _in_rows(self, entries: NDArray, missing: float) -> tuple[NDArray, NDArray[np.int64]]:
        """A value of each match as a row for each query, filled up, and the column of each."""
        place = np.arange(len(self.query)) - np.searchsorted(self.query, self.query)
        rows = np.full((len(self.pids), place.max() + 1), missing, dtype=entries.dtype)
        rows[self.query, place] = entries
        return rows, place

    def _queries(self) -> Iterator[tuple[int, slice]]:
        rows, starts = np.unique(self.query, return_index=True)
        for row, start, stop in zip(rows.tolist(), starts, [*starts[1:], len(self.query)]):
            yield row, slice(start, stop)


def _entries(block: Block, rows: NDArray, columns: NDArray) -> NDArray:
    if isinstance(block, Tensor):
        return block[torch.from_numpy(rows), torch.from_numpy(columns)].cpu().numpy()
    return block[rows, columns]


def _between(indices: NDArray, start: int, stop: int) -> NDArray:
    return indices[slice(*np.searchsorted(indices, (start, stop)))]


def _count_strangers(row: NDArray, excluded: NDArray, values: NDArray, places: NDArray) -> NDArray[np.int64]:
    """Strangers nearer, tied, and tied in front (3, m) of matches at ``places``, distances ascending."""
    possible = row <= values[-1]  # all that can be ranked before the last match
    possible[excluded] = False
    nearer, tied = _below_and_equal(row[possible], values)
    in_front = _tied_in_front(row, possible, values, places) if tied.any() else tied
    return np.stack([nearer, tied, in_front])


def _below_and_equal(near: NDArray, values: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many entries lie below each of some ascending values, and how many equal it."""
    if len(near) >= _LOOKS * len(values):
        counts = [
            [np.count_nonzero(compare(near, value)) for value in values] for compare in (np.less, np.equal)
        ]
        return np.array(counts[0]), np.array(counts[1])
    near = np.sort(near)
    below = np.searchsorted(near, values)
    return below, np.searchsorted(near, values, side="right") - below


def _tied_in_front(row: NDArray, possible: NDArray, values: NDArray, places: NDArray) -> NDArray[np.int64]:
    in_front = np.zeros(len(values), dtype=np.int64)
    for value in np.unique(values):
        tied = np.flatnonzero((row == value) & possible)
        here = values == value
        in_front[here] = np.searchsorted(tied, places[here])
    return in_front


def _count_in_tiles(
    block: Tensor, values: Tensor, places: Tensor, codes: Tensor, own: Tensor, junk: int
) -> Tensor:
    """Strangers (3, B, m) nearer, tied and tied in front of each query's m matches.

    Args:
        block: distances (B, G).
        values: of the matches (B, m), ascending, filled up with infinity.
        places: of the matches in the block (B, m), ascending where values tie; -1 before it, G beyond it.
        codes: identity of each column. own: of each row. junk: of junk.
    """
    parts = []
    for rows in blocks(len(block), max(1, _TILE // block.shape[1])):
        excluded = (codes == own[rows, None]).logical_or_(codes == junk)
        parts.append(_count_before(block[rows].contiguous(), values[rows], places[rows], excluded))
    return torch.cat(parts, dim=1)


def _count_before(block: Tensor, values: Tensor, places: Tensor, excluded: Tensor) -> Tensor:
    """A stranger's slot is how many matches come before it; it is before those from its slot on."""
    slots = torch.searchsorted(values, block, out_int32=True)  # ties come first here,
    last = torch.searchsorted(values, block, out_int32=True, right=True)  # and last here
    row, column = (slots != last).logical_and_(~excluded).nonzero(as_tuple=True)
    nearest, farthest, width = slots[row, column].long(), last[row, column].long(), values.shape[1]
    del last
    by_index = _slots_by_index(row, nearest, column, values, places, block.shape[1])
    slots.masked_fill_(excluded, width)
    tied = [_strangers_before(row, some, values) for some in (nearest, farthest, by_index)]
    rows, columns = (torch.arange(n, device=block.device, dtype=torch.int32) for n in block.shape)
    # Most strangers come after all matches: neighbours add to counters of their own, not all to one.
    lanes = max(1, min(32, len(columns) // (8 * (width + 1))))
    slots.add_((width + 1) * lanes * rows[:, None]).add_((width + 1) * (columns % lanes))
    at_most = _counted(slots, values, lanes)
    nearer = at_most - tied[0] + tied[1]
    return torch.stack([nearer, at_most - nearer, tied[2] - tied[1]])


def _slots_by_index(
    row: Tensor, slot: Tensor, column: Tensor, values: Tensor, places: Tensor, columns: int
) -> Tensor:
    """Slots of tied strangers, ties in order of index."""
    width, rows = values.shape[1], torch.arange(len(values), device=values.device)[:, None]
    group = (width + 1) * rows + torch.searchsorted(values, values)
    keys = (group * (columns + 2) + places).flatten()  # ascending, apart from each other
    own = ((width + 1) * row + slot) * (columns + 2) + column
    return torch.searchsorted(keys, own) - width * row


def _strangers_before(row: Tensor, slot: Tensor, values: Tensor) -> Tensor:
    return _counted((values.shape[1] + 1) * row + slot, values)


def _counted(slots: Tensor, values: Tensor, lanes: int = 1) -> Tensor:
    """How many strangers (B, m) have a slot up to each, from the slots of all rows, one after the other."""
    shape = len(values), lanes, values.shape[1] + 1
    counts = slots.flatten().bincount(minlength=math.prod(shape)).view(shape)
    return counts.sum(1)[:, :-1].cumsum(1)


def sampled_curves(
    block: Block, rows: slice, pids: NDArray, camids: NDArray, gallery: Gallery, length: int, seed: int | None
) -> NDArray[np.float32]:
    """CMC (B, length) of whole rows of distances: over one random image an identity, the mean of ten draws.

    Args:
        block: distances of the queries `rows` from the whole gallery.
        rows: which of all queries these are; each query has draws of its own, whatever the block.
        pids: identity of each of them (B,). camids: camera of each.
        gallery: labels of the gallery.
        length: of the curve.
        seed: of the draws, the same for every distance; None: numpy's global generator, as torchreid's.
    """
    block = block.cpu().numpy() if isinstance(block, Tensor) else block
    curves = np.zeros((len(block), length), dtype=np.float32)
    query, index = gallery.matches(pids, camids)
    codes, junk = gallery.codes_of(pids), gallery.code(gallery.junk_pid)
    for number in np.unique(query).tolist():
        kept = (gallery.codes != codes[number]) & (gallery.codes != junk)
        kept[index[slice(*np.searchsorted(query, (number, number + 1)))]] = True
        source = None if seed is None else np.random.default_rng((seed, rows.start + number))
        drawn = _drawn(block[number], gallery.grouped[kept[gallery.grouped]], gallery.codes, source)
        for rank in _ranks_of(codes[number], drawn, block[number], gallery.codes):
            curves[number, rank:] += 1
    return curves / _REPEATS


def _drawn(
    row: NDArray, images: NDArray, codes: NDArray, generator: np.random.Generator | None
) -> NDArray[np.int64]:
    """One image of each identity in each draw (draws, identities), from images grouped by identity."""
    unseeded = generator is None
    if unseeded:  # torchreid draws from the ranking; one sort of numbers is faster than stable ones by key
        n, level = len(images), np.unique(row[images], return_inverse=True)[1]
        images = images[np.sort((codes[images] * n + level) * n + np.arange(n)) % n]
    starts = np.flatnonzero(np.diff(codes[images], prepend=-1))
    first, counts = images[starts], np.diff(starts, append=len(images))
    # In the order in which identities first appear; seeded draws do not depend on the distances.
    order = np.lexsort((first, row[first])) if unseeded else np.argsort(first)
    draw = np.random.randint if unseeded else generator.integers
    return images[starts[order] + draw(0, counts[order], size=(_REPEATS, len(order)))]


def _ranks_of(own: int, drawn: NDArray, row: NDArray, codes: NDArray) -> NDArray[np.int64]:
    """Rank from 0 of the image of identity `own` in each draw (draws, identities); ties go by index."""
    mine = drawn[:, codes[drawn[0]] == own]
    nearer, as_near = row[drawn] < row[mine], row[drawn] == row[mine]
    return (nearer | as_near & (drawn < mine)).sum(1)
