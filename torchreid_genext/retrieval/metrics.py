"""CMC, mAP and mINP without sorting the gallery, under any protocol.

All three depend only on the ranks of a query's matches, and a rank is a count: how many gallery images are
nearer. Counts add up over parts of the gallery, so that neither the matrix of distances nor a whole row of it
need exist (``rank_streamed``); a matrix that does exist (``rank_matches``) is one such part.

Ties are defined: equal distances rank by gallery index, as a stable sort would have it. How much depends on
that is known as well: ``Ranking`` also holds the average precision when all ties are read against the query,
and for it.

What counts is a ``Protocol``, see ``rules``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from torchreid_genext.retrieval._blocks import blocks as row_blocks
from torchreid_genext.retrieval._blocks import check_count, check_limit
from torchreid_genext.retrieval._counting import Block, Tally, sampled_curves
from torchreid_genext.retrieval.rules import PROTOCOLS, Protocol, protocol_named

__all__ = [
    "MATCHES", "PROTOCOLS", "Blocks", "Protocol", "Ranking", "block_shape", "collect", "count",
    "evaluate_rank", "precision_of", "protocol_named", "rank_matches", "rank_streamed",
]  # fmt: skip

Distances = Callable[[slice, slice], ArrayLike]

MATCHES = np.dtype(
    [("query", np.int64), ("index", np.int64), ("distance", np.float64), ("strangers", np.int64)]
)

_RECALL_LENGTH = 25  # of the curve of GenerativePersonReID's authors
_ENOUGH_ROWS = 64  # for a product to run at speed
_TILE_ROWS = 512


@dataclass(frozen=True)
class Ranking:
    """What the ranks of its matches say of each query; NaN or 0 where a query has no match in the gallery.

    Attributes:
        protocol: what was counted.
        average_precision: (Q,) float64, ties in order of gallery index.
        pessimistic_precision: (Q,) the same with every tied non-match before the match.
        optimistic_precision: (Q,) the same with every tied non-match after the match.
        first_match_rank: (Q,) int64, 1 is best, 0 without a match.
        pessimistic_first_rank: (Q,) int64.
        optimistic_first_rank: (Q,) int64.
        inverse_negative_penalty: (Q,) float64, matches over the rank of the last one (Ye et al., TPAMI 2021).
        curves: (Q, R) what each query adds to the curve where it is no CMC: its mean hits over the draws of
            ``sampled``, or its ``recall``, which is 1 throughout if no match is near; else None.
        matches: (E,) of dtype ``MATCHES``: every pair of a query and a match, by query, nearest first;
            `strangers` are images of others before it.
    """

    protocol: Protocol
    average_precision: NDArray[np.float64]
    pessimistic_precision: NDArray[np.float64]
    optimistic_precision: NDArray[np.float64]
    first_match_rank: NDArray[np.int64]
    pessimistic_first_rank: NDArray[np.int64]
    optimistic_first_rank: NDArray[np.int64]
    inverse_negative_penalty: NDArray[np.float64]
    curves: NDArray | None = None
    matches: NDArray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.first_match_rank)

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(Q,) whether the query has a match."""
        return self.first_match_rank > 0

    @property
    def counted(self) -> NDArray[np.bool_]:
        """(Q,) whether the rates are over the query."""
        return np.full(len(self), True) if self.protocol.counts_unmatched else self.valid

    def mean(self, values: NDArray) -> float:
        """Mean of one value a query as the protocol has it; a query without a match adds nothing."""
        return float(np.sum(values[self.valid], dtype=np.float64) / max(1, int(self.counted.sum())))

    @property
    def mAP(self) -> float:
        """Mean average precision, in 0 .. 1."""
        return self.mean(self.average_precision)

    @property
    def mINP(self) -> float:
        """Mean inverse negative penalty, in 0 .. 1."""
        return self.mean(self.inverse_negative_penalty)

    @property
    def map_bounds(self) -> tuple[float, float]:
        """mAP with ties read against and for the query."""
        return self.mean(self.pessimistic_precision), self.mean(self.optimistic_precision)

    @property
    def rank1_bounds(self) -> tuple[float, float]:
        """Rank-1 with ties read against and for the query; of a curve that is no CMC, as it is."""
        if self.curves is not None:
            return (float(self.cmc(1)[0]),) * 2
        return self.mean(self.pessimistic_first_rank == 1), self.mean(self.optimistic_first_rank == 1)

    @property
    def rank1(self) -> NDArray[np.float64]:
        """(Q,) what each query adds to rank-1; 0 of those that the rates are not over."""
        if self.curves is not None:
            return np.where(self.counted, self.curves[:, 0].astype(np.float64), 0.0)
        return (self.first_match_rank == 1).astype(np.float64)

    def cmc(self, max_rank: int) -> NDArray[np.float32]:
        """Share of queries that have a match among the first 1 .. max_rank, shape (max_rank,).

        A curve of recall ends at 25.
        """
        if self.curves is not None:
            return self.curves[self.counted, :max_rank].mean(0, dtype=np.float64).astype(np.float32)
        first = np.minimum(self.first_match_rank[self.valid], max_rank + 1)
        hits = np.bincount(first, minlength=max_rank + 2).cumsum()[1:-1]
        return (hits / max(1, int(self.counted.sum()))).astype(np.float32)

    @staticmethod
    def concatenate(parts: list[Ranking]) -> Ranking:
        """One ranking of all queries from those of consecutive blocks."""
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in parts[0].columns}
        return replace(parts[0], **columns)

    @property
    def columns(self) -> list[str]:
        """Names of the arrays that it has."""
        return [item.name for item in fields(self) if isinstance(getattr(self, item.name), np.ndarray)]

    @staticmethod
    def of(tally: Tally, protocol: Protocol, first: int = 0) -> Ranking:
        """What a finished tally says of its queries, but for sampled curves; `first`: number of its first."""
        queries, counts = np.unique(tally.query, return_counts=True)
        starts = counts.cumsum() - counts
        place = np.arange(1, len(tally.query) + 1) - np.repeat(starts, counts)
        nearer, tied, tied_in_front = tally.strangers
        readings = [place + nearer + before for before in (tied_in_front, tied, 0)]
        precision = precision_of(protocol)
        recall = _recall(tally.query, readings[0], len(tally.pids)) if protocol.curve == "recall" else None
        columns = [np.add.reduceat(precision(place, ranks), starts) / counts for ranks in readings]
        columns += [ranks[starts] for ranks in readings]
        columns += [counts / readings[0][starts + counts - 1]]
        missing = [np.nan] * 3 + [0] * 3 + [np.nan]
        spread = [_spread(some, queries, len(tally.pids), value) for some, value in zip(columns, missing)]
        matches = np.empty(len(place), dtype=MATCHES)
        matches["query"], matches["index"] = tally.query + first, tally.index
        matches["distance"], matches["strangers"] = tally.distance, nearer + tied_in_front
        return Ranking(protocol, *spread, curves=recall, matches=matches)


def evaluate_rank(
    distmat: ArrayLike,
    q_pids: ArrayLike,
    g_pids: ArrayLike,
    q_camids: ArrayLike,
    g_camids: ArrayLike,
    max_rank: int = 50,
    use_metric_cuhk03: bool = False,
    use_cython: bool = True,
) -> tuple[NDArray[np.float32], float]:
    """CMC curve and mAP with torchreid's signature and numbers.

    Args:
        distmat: distances, shape (Q, G), smaller is closer.
        q_pids: identity of each query (Q,).
        g_pids: identity of each gallery image (G,); those of -1 are junk, which torchreid never passes.
        q_camids: camera of each query (Q,).
        g_camids: camera of each gallery image (G,).
        max_rank: length of the CMC curve, >= 1; at most G.
        use_metric_cuhk03: the cuhk03 protocol; its random samples come from numpy's global generator, as
            torchreid's.
        use_cython: accepted for torchreid's sake, without effect.

    Returns:
        CMC (max_rank,) float32 and mAP, both in 0 .. 1, over the queries that have a match.

    Raises:
        ValueError: if shapes do not fit, a distance is NaN, ``max_rank`` is below 1, or no query has a match
            in another camera.
    """
    protocol = replace(PROTOCOLS["cuhk03"], seed=None) if use_metric_cuhk03 else PROTOCOLS["market1501"]
    distmat = np.asarray(distmat)
    ranking = rank_matches(distmat, q_pids, g_pids, q_camids, g_camids, protocol=protocol, max_rank=max_rank)
    if not ranking.valid.any():
        raise ValueError(
            "expected a query identity to appear in the gallery under another camera, got none that does"
        )
    return ranking.cmc(min(max_rank, distmat.shape[-1])), ranking.mAP


def rank_matches(
    distances: ArrayLike,
    q_pids: ArrayLike,
    g_pids: ArrayLike,
    q_camids: ArrayLike,
    g_camids: ArrayLike,
    *,
    protocol: Protocol | str = "market1501",
    max_rank: int = 50,
) -> Ranking:
    """Rank the matches of each query; arguments as ``evaluate_rank``.

    Raises:
        ValueError: if shapes do not fit, a distance is NaN, ``max_rank`` is below 1, or the protocol is
            unknown.
    """
    distances, labels = _checked_matrix(distances, q_pids, g_pids, q_camids, g_camids)
    return rank_streamed(
        lambda rows, columns: distances[rows, columns], *labels,
        query_rows=len(distances), gallery_rows=distances.shape[1], protocol=protocol, max_rank=max_rank,
    )  # fmt: skip


def rank_streamed(
    distances: Distances,
    q_pids: ArrayLike,
    g_pids: ArrayLike,
    q_camids: ArrayLike | None,
    g_camids: ArrayLike | None,
    *,
    query_rows: int | None = None,
    gallery_rows: int | None = None,
    whole_rows: bool = False,
    memory_limit: int | None = None,
    protocol: Protocol | str = "market1501",
    max_rank: int = 50,
) -> Ranking:
    """Rank the matches of each query from blocks of distances that are asked for when they are needed.

    Blocks that hold matches are asked for twice, unless the gallery is one block: the distances of all
    matches of a query must be known before anything can be counted. Both times they must be the same, bit for
    bit.

    Args:
        distances: gives the distances of a slice of the queries from a slice of the gallery, (B, b), as an
            array or as a tensor; tensors on an accelerator are counted there.
        q_pids: identity of each query (Q,).
        g_pids: identity of each gallery image (G,).
        q_camids: camera of each query (Q,); None under a protocol that counts the query's own camera.
        g_camids: camera of each gallery image (G,); likewise.
        query_rows: queries of a block, >= 1; ``None`` derives it from ``memory_limit``.
        gallery_rows: gallery images of a block; likewise. Sampled curves need whole rows.
        whole_rows: blocks of all gallery images, as many queries as the limit allows.
        memory_limit: bytes of a block of distances, 96 MiB unless told.
        protocol: a ``Protocol``, or the name of one of ``PROTOCOLS``.
        max_rank: length of a sampled curve, >= 1; at most G.

    Raises:
        ValueError: if lengths or blocks do not fit, a distance is NaN, or an argument is out of range.
    """
    protocol = protocol_named(protocol)
    check_count("max_rank", max_rank)
    q_pids, q_camids = _labels(q_pids, q_camids, "queries", protocol)
    g_pids, g_camids = _labels(g_pids, g_camids, "gallery images", protocol)
    whole_rows = whole_rows or protocol.curve == "sampled"
    derived = block_shape(len(q_pids), len(g_pids), memory_limit, whole_rows=whole_rows)
    query_rows, gallery_rows = (d if g is None else g for d, g in zip(derived, (query_rows, gallery_rows)))
    gallery = protocol.gallery(g_pids, g_camids)
    blocks = Blocks(distances, len(gallery), gallery_rows)
    parts = []
    for rows in row_blocks(len(q_pids), query_rows, "query_rows"):
        tally = Tally(gallery, q_pids[rows], q_camids[rows])
        collect(tally, blocks, rows)
        tally.sort()
        count(tally, blocks, rows)
        parts.append(Ranking.of(tally, protocol, rows.start))
        if protocol.curve == "sampled":
            whole, labels = slice(0, len(gallery)), (q_pids[rows], q_camids[rows])
            length = min(max_rank, len(gallery))
            curves = sampled_curves(blocks(rows, whole), rows, *labels, gallery, length, protocol.seed)
            parts[-1] = replace(parts[-1], curves=curves)
    return Ranking.concatenate(parts)


def block_shape(
    queries: int, gallery: int, memory_limit: int | None = None, *, whole_rows: bool = False
) -> tuple[int, int]:
    """Queries and gallery images of a block of float32 distances; whole rows where enough of them fit.

    Raises:
        ValueError: if the memory limit is below one byte.
    """
    memory_limit = check_limit(memory_limit)
    rows = memory_limit // (4 * gallery)
    if whole_rows or rows >= min(_ENOUGH_ROWS, queries):
        return min(queries, max(1, rows)), gallery
    rows = min(queries, _TILE_ROWS)
    return rows, max(1, min(gallery, memory_limit // (4 * rows)))


class Blocks:
    """Blocks of distances as they come from outside: checked, and the last one remembered."""

    def __init__(self, distances: Distances, gallery: int, gallery_rows: int) -> None:
        self.columns = list(row_blocks(gallery, gallery_rows, "gallery_rows"))
        self._distances, self._key, self._block = distances, None, None

    def __call__(self, rows: slice, columns: slice) -> Block:
        key = rows.start, rows.stop, columns.start, columns.stop
        if key != self._key:
            self._block = None  # the old one goes before the new one comes
            self._key, self._block = key, _checked(self._distances(rows, columns), rows, columns)
        return self._block


def collect(tally: Tally, blocks: Blocks, rows: slice) -> None:
    """Look up the distances of the matches of some queries."""
    first = tally.gallery.first
    for columns in blocks.columns:
        if tally.within(first + columns.start, first + columns.stop).any():
            tally.collect(blocks(rows, columns), first + columns.start)


def count(tally: Tally, blocks: Blocks, rows: slice) -> None:
    """Count the strangers before each match, beginning with the block that is still there."""
    for columns in reversed(blocks.columns):
        tally.count(blocks(rows, columns), tally.gallery.first + columns.start)


def _labels(
    pids: ArrayLike, camids: ArrayLike | None, whose: str, protocol: Protocol
) -> tuple[NDArray, NDArray]:
    pids = np.asarray(pids)
    protocol.check_cameras(camids, whose)
    camids = np.zeros(len(pids), dtype=np.int64) if camids is None else np.asarray(camids)
    if not 0 < len(pids) == len(camids):
        lengths = f"{len(pids)} and {len(camids)} of {whose}"
        raise ValueError(f"expected as many cameras as identities, got {lengths}")
    return pids, camids


def _checked(block: ArrayLike, rows: slice, columns: slice) -> Block:
    block = _as_block(block)
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    if tuple(block.shape) != shape:
        raise ValueError(f"expected distances of shape {shape}, got {tuple(block.shape)}")
    if (lowest := block.min()) != lowest:  # NaN: every match would rank first
        bad = np.flatnonzero((block != block).any(1).tolist())
        found = f"some for {len(bad)} queries, the first is {bad[0] + rows.start}"
        cure = "features this large need the step l2, or to be divided by a number"
        raise ValueError(f"expected distances without NaN, got {found}; {cure}")
    return block


def _as_block(block: ArrayLike) -> Block:
    """A tensor of an accelerator stays; all else becomes an array, which is counted row by row."""
    if isinstance(block, Tensor) and block.device.type != "cpu":
        return block
    return np.asarray(block)


def _checked_matrix(distances: ArrayLike, *labels: ArrayLike) -> tuple[NDArray, list[NDArray]]:
    distances, labels = np.asarray(distances), [np.asarray(values) for values in labels]
    lengths = tuple(len(values) for values in labels)
    if distances.ndim != 2 or 0 in distances.shape or lengths != distances.shape * 2:
        raise ValueError(
            "expected distances (Q, G) with Q, G >= 1 and as many labels, "
            f"got {distances.shape} with {lengths[0]} and {lengths[2]} query, "
            f"{lengths[1]} and {lengths[3]} gallery labels"
        )
    return distances, labels


def _spread(values: NDArray, rows: NDArray, total: int, missing: float) -> NDArray:
    """Values of some rows among those of all."""
    every = np.full(total, missing, dtype=values.dtype)
    every[rows] = values
    return every


def _recall(query: NDArray, ranks: NDArray, queries: int) -> NDArray[np.float64]:
    """``Ranking.recall`` from the rank of each match and the row of its query."""
    hits = np.zeros((queries, _RECALL_LENGTH))
    near = ranks <= _RECALL_LENGTH
    hits[query[near], ranks[near] - 1] = 1
    found = hits.cumsum(1)
    tiny = np.finfo(np.float64).tiny  # in both, as the authors have theirs: nothing found of nothing is all
    return (found + tiny) / (found[:, -1:] + tiny)


def precision_of(protocol: Protocol) -> Callable[[NDArray, NDArray], NDArray[np.float64]]:
    """Precision at matches, of their place among the matches and their rank, both from 1."""
    return _trapezoid if protocol.trapezoidal else np.divide


def _trapezoid(place: NDArray[np.int64], ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of the precision before and after each match; before the first image of all it counts as 1."""
    before = np.where(ranks > 1, (place - 1) / np.maximum(ranks - 1, 1), 1.0)
    return (before + place / ranks) / 2
