"""Ranks of the matches of a block of queries, counted over blocks of the gallery.

A match's rank is one more than the images before it, and a sum over parts of the gallery is as good as a
count over all of it. So a tally needs the gallery only in blocks, twice: ``collect`` takes the distances of
the matches out of each block, ``count`` adds how many strangers, images of other identities, each block holds
before each match. Blocks may come in any order and from any process.

A match may tie with a stranger, so three counts are kept: strangers nearer, strangers as near, and of these
the ones with a smaller gallery index.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["Gallery", "Tally", "sampled_cmc"]

_NOBODY = np.empty(0, dtype=np.int64)

_REPEATS = 10


class Gallery:
    """Labels of all or of consecutive gallery images, by identity.

    Attributes:
        first: index of the first of these images in the whole gallery.
        junk: indices, beside the query's own images under its own camera, that no ranking may hold.
        own_camera: whether the query's own images under its own camera are matches like any other.
    """

    def __init__(
        self,
        pids: NDArray,
        camids: NDArray,
        *,
        junk_pid: int | None = None,
        own_camera: bool = False,
        first: int = 0,
    ):
        order = np.argsort(pids, kind="stable")
        names, starts = np.unique(pids[order], return_index=True)
        self._members = dict(zip(names.tolist(), np.split(order + first, starts[1:])))
        self._camids, self.first, self.own_camera = camids, first, own_camera
        self.junk = _NOBODY if junk_pid is None else self.members(junk_pid)

    def __len__(self) -> int:
        return len(self._camids)

    def members(self, pid: int) -> NDArray[np.int64]:
        """Indices of all images of an identity, ascending."""
        return self._members.get(pid, _NOBODY)

    def matches(self, pid: int, camid: int) -> NDArray[np.int64]:
        """Indices of those under other cameras, or under any."""
        own = self.members(pid)
        return own if self.own_camera else own[self._camids[own - self.first] != camid]


class Tally:
    """Flat arrays over all matches of a block of queries: one entry a match.

    Attributes:
        query: row of its query, ascending.
        index: its place in the whole gallery.
        distance: from its query; known after ``collect``.
        strangers: (3, entries) how many are nearer, as near, and as near with a smaller index.
    """

    def __init__(self, gallery: Gallery, pids: NDArray, camids: NDArray) -> None:
        self.gallery, self.pids = gallery, pids.tolist()
        matches = [gallery.matches(*labels) for labels in zip(self.pids, camids.tolist())]
        self.query = np.repeat(np.arange(len(matches)), [len(some) for some in matches])
        self.index = np.concatenate([_NOBODY, *matches])
        self.distance = np.zeros(len(self.index))
        self.strangers = np.zeros((3, len(self.index)), dtype=np.int64)

    def collect(self, block: NDArray, start: int) -> None:
        """Take the distances of matches out of a block: all queries, gallery images from ``start``."""
        self.distance = self.distance.astype(block.dtype, copy=False)
        here = self.within(start, start + block.shape[1])
        self.distance[here] = block[self.query[here], self.index[here] - start]

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
        self.replace(self.query, self.index, self.distance)

    def count(self, block: NDArray, start: int) -> None:
        """Add the strangers in a block before each match."""
        stop = start + block.shape[1]
        junk = _between(self.gallery.junk, start, stop)
        for row, entries in self._queries():
            own = _between(self.gallery.members(self.pids[row]), start, stop)
            excluded = np.concatenate([own, junk]) if len(junk) else own
            self.strangers[:, entries] += _count_strangers(
                block[row], excluded - start, self.distance[entries], self.index[entries] - start
            )

    def _queries(self) -> Iterator[tuple[int, slice]]:
        rows, starts = np.unique(self.query, return_index=True)
        for row, start, stop in zip(rows.tolist(), starts, [*starts[1:], len(self.query)]):
            yield row, slice(start, stop)


def _between(indices: NDArray, start: int, stop: int) -> NDArray:
    return indices[slice(*np.searchsorted(indices, (start, stop)))]


def _count_strangers(
    row: NDArray, excluded: NDArray, values: NDArray, places: NDArray
) -> NDArray[np.int64]:
    """Strangers nearer, tied, and tied in front (3, m) of matches at ``places``, distances ascending."""
    possible = row <= values[-1]  # all that can be ranked before the last match
    possible[excluded] = False
    near = row[possible]
    nearer = _count(np.less, near, values)
    tied = _count(np.less_equal, near, values) - nearer
    in_front = _tied_in_front(row, possible, values, places) if tied.any() else tied
    return np.stack([nearer, tied, in_front])


def _count(compare: np.ufunc, row: NDArray, values: NDArray) -> NDArray[np.int64]:
    """For each value, how many entries of the row it holds for; a few values at a time stay in cache."""
    blocks = (compare(row, values[start : start + 16, None]) for start in range(0, len(values), 16))
    return np.array([np.count_nonzero(hits) for block in blocks for hits in block])


def _tied_in_front(row: NDArray, possible: NDArray, values: NDArray, places: NDArray) -> NDArray[np.int64]:
    in_front = np.zeros(len(values), dtype=np.int64)
    for value in np.unique(values):
        tied = np.flatnonzero((row == value) & possible)
        here = values == value
        in_front[here] = np.searchsorted(tied, places[here])
    return in_front


def sampled_cmc(
    distances: NDArray, q_pids: NDArray, g_pids: NDArray, q_camids: NDArray, g_camids: NDArray, max_rank: int
) -> NDArray[np.float32]:
    """CMC (Q, max_rank) of whole rows of distances (Q, G); numpy's global generator draws, as torchreid's."""
    curves = np.zeros((len(distances), max_rank), dtype=np.float32)
    for curve, row, pid, camid in zip(curves, distances, q_pids, q_camids):
        order = np.argsort(row, kind="stable")
        order = order[(g_pids[order] != pid) | (g_camids[order] != camid)]
        if (g_pids[order] == pid).any():
            curve[:] = _sample_curve(g_pids[order], pid, max_rank)
    return curves


def _sample_curve(ranked_pids: NDArray, pid: int, max_rank: int) -> NDArray[np.float32]:
    _, first, identity, counts = np.unique(
        ranked_pids, return_index=True, return_inverse=True, return_counts=True
    )
    places = np.split(np.argsort(identity, kind="stable"), counts.cumsum()[:-1])
    own = ranked_pids[first] == pid
    appearance = np.argsort(
        first
    )  # draws are made in the order in which identities first appear in the ranking
    curve = np.zeros(max_rank, dtype=np.float32)
    for _ in range(_REPEATS):
        drawn = np.empty(len(counts), dtype=np.int64)
        for index in appearance:
            drawn[index] = np.random.choice(places[index])
        rank = int((drawn < drawn[own]).sum())
        curve[rank:] += 1
    return curve / _REPEATS
