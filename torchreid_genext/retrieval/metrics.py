"""CMC, mAP and mINP without sorting the gallery.

All three depend only on the ranks of a query's matches, and a rank is a count: how many gallery images are
nearer. So each match costs one comparison with the row of distances, which no sort can beat as long as
matches are few. Counts add up over parts of the gallery, so that neither the matrix of distances nor a whole
row of it need exist (``rank_streamed``); a matrix that does exist (``rank_matches``) is one such part.

Ties are defined: equal distances rank by gallery index, as a stable sort would have it. How much depends on
that is known as well: ``Ranking`` also holds the average precision when all ties are read against the query,
and for it.

Protocols: ``market1501`` leaves out gallery images of the query's own identity and camera (Zheng et al., ICCV
2015). ``cuhk03`` leaves out the same and computes the CMC over one random image per identity, ten times (Li
et al., CVPR 2014). ``streid`` is what the authors of ST-ReID evaluate (Wang et al., AAAI 2019): also without
gallery images of pid -1, average precision by the trapezoidal rule, and queries without a match count as
failures in all rates, where the other protocols leave them out. ``camstyle`` is ``market1501`` with the
trapezoidal rule (Zhong et al., CVPR 2018). ``genid`` is what the authors of GenerativePersonReID evaluate,
kept to check their figures and to compare with nothing else: every gallery image counts, the query's own
camera included, and instead of a CMC there is the share of the matches among the first 25 that stands among
the first k, which is 1 at 25 and, for a query with no match there, everywhere. A query without any match has
an average precision of 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from torchreid_genext.retrieval._blocks import blocks as row_blocks
from torchreid_genext.retrieval._counting import Gallery, Tally, sampled_cmc

__all__ = [
    "PROTOCOLS", "Blocks", "Ranking", "block_shape", "collect", "count", "evaluate_rank", "junk_of", "label",
    "rank_matches", "rank_streamed",
]  # fmt: skip

PROTOCOLS = ("market1501", "cuhk03", "streid", "camstyle", "genid")

_TRAPEZOIDAL = ("streid", "camstyle")

_ONLY_THEIRS = {"genid": "genid (its authors' own, rank-k is recall: not comparable)"}

_RECALL_LENGTH = 25  # of the authors' curve

_WORKING_MEMORY = 96 * 2**20  # bytes of a block of distances; larger blocks are not faster

_ENOUGH_ROWS = 64  # for a product to run at speed

_TILE_ROWS = 512

Distances = Callable[[slice, slice], ArrayLike]


@dataclass(frozen=True)
class Ranking:
    """What the ranks of its matches say of each query; NaN or 0 where a query has no match in the gallery.

    Attributes:
        average_precision: (Q,) float64, ties in order of gallery index.
        pessimistic_precision: (Q,) the same with every tied non-match before the match.
        optimistic_precision: (Q,) the same with every tied non-match after the match.
        first_match_rank: (Q,) int64, 1 is best, 0 without a match.
        pessimistic_first_rank: (Q,) int64.
        optimistic_first_rank: (Q,) int64.
        inverse_negative_penalty: (Q,) float64, matches over the rank of the last one (Ye et al., TPAMI 2021).
        sampled_cmc: (Q, max_rank) float32 under the cuhk03 protocol, else None.
        recall: (Q, 25) float64 under the genid protocol, else None: which share of a query's matches among
            the first 25 stands among the first 1 .. 25; 1 throughout if none does.
        counts_unmatched: whether rates are over all queries, not only those with a match.
    """

    average_precision: NDArray[np.float64]
    pessimistic_precision: NDArray[np.float64]
    optimistic_precision: NDArray[np.float64]
    first_match_rank: NDArray[np.int64]
    pessimistic_first_rank: NDArray[np.int64]
    optimistic_first_rank: NDArray[np.int64]
    inverse_negative_penalty: NDArray[np.float64]
    sampled_cmc: NDArray[np.float32] | None = None
    recall: NDArray[np.float64] | None = None
    counts_unmatched: bool = False

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(Q,) whether the query has a match."""
        return self.first_match_rank > 0

    @property
    def denominator(self) -> int:
        """How many queries the rates are over, 1 at least."""
        return max(1, len(self.valid) if self.counts_unmatched else int(self.valid.sum()))

    def mean(self, values: NDArray) -> float:
        """Mean of one value a query as the protocol has it: sum over matched ones through the denominator."""
        return float(np.sum(values[self.valid], dtype=np.float64) / self.denominator)

    @property
    def mAP(self) -> float:
        """Mean average precision, in 0 .. 1."""
        return self.mean(self.average_precision)

    @property
    def mINP(self) -> float:
        """Mean inverse negative penalty, in 0 .. 1."""
        return self.mean(self.inverse_negative_penalty)

    @property
    def rank1_bounds(self) -> tuple[float, float]:
        """Rank-1 with ties read against and for the query; genid's, which has no bounds, as it is."""
        if self.recall is not None:
            return (float(self.cmc(1)[0]),) * 2
        return self.mean(self.pessimistic_first_rank == 1), self.mean(self.optimistic_first_rank == 1)

    def cmc(self, max_rank: int) -> NDArray[np.float32]:
        """Share of queries that have a match among the first 1 .. max_rank, shape (max_rank,).

        Under genid the curve is the mean of ``recall`` and ends at 25.
        """
        if self.recall is not None:
            return self.recall[:, :max_rank].mean(0).astype(np.float32)
        if self.sampled_cmc is not None:
            return self.sampled_cmc[self.valid].mean(0, dtype=np.float64).astype(np.float32)
        first = np.bincount(
            np.minimum(self.first_match_rank[self.valid], max_rank + 1), minlength=max_rank + 2
        )
        return (first.cumsum()[1:-1] / self.denominator).astype(np.float32)

    @staticmethod
    def concatenate(parts: list[Ranking]) -> Ranking:
        """One ranking of all queries from those of consecutive blocks."""
        names = [item.name for item in fields(Ranking) if getattr(parts[0], item.name) is not None]
        names.remove("counts_unmatched")
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return Ranking(**columns, counts_unmatched=parts[0].counts_unmatched)

    @staticmethod
    def of(tally: Tally, protocol: str) -> Ranking:
        """What a finished tally says of its queries, but for the sampled CMC of cuhk03."""
        queries, counts = np.unique(tally.query, return_counts=True)
        starts = counts.cumsum() - counts
        place = np.arange(1, len(tally.query) + 1) - np.repeat(starts, counts)
        nearer, tied, tied_in_front = tally.strangers
        readings = [place + nearer + before for before in (tied_in_front, tied, 0)]
        precision = _trapezoid if protocol in _TRAPEZOIDAL else np.divide
        recall = _recall(tally.query, readings[0], len(tally.pids)) if protocol == "genid" else None
        columns = [np.add.reduceat(precision(place, ranks), starts) / counts for ranks in readings]
        columns += [ranks[starts] for ranks in readings]
        columns += [counts / readings[0][starts + counts - 1]]
        missing = [np.nan] * 3 + [0] * 3 + [np.nan]
        spread = [_spread(some, queries, len(tally.pids), value) for some, value in zip(columns, missing)]
        return Ranking(*spread, recall=recall, counts_unmatched=protocol in ("streid", "genid"))


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
        g_pids: identity of each gallery image (G,).
        q_camids: camera of each query (Q,).
        g_camids: camera of each gallery image (G,).
        max_rank: length of the CMC curve; at most G.
        use_metric_cuhk03: the cuhk03 protocol; its random samples come from numpy's global generator, as
            torchreid's.
        use_cython: accepted for torchreid's sake, without effect.

    Returns:
        CMC (max_rank,) float32 and mAP, both in 0 .. 1, over the queries that have a match.

    Raises:
        ValueError: if shapes do not fit, a distance is NaN, or no query has a match in another camera.
    """
    protocol = "cuhk03" if use_metric_cuhk03 else "market1501"
    distmat = np.asarray(distmat)
    max_rank = min(max_rank, distmat.shape[-1])
    ranking = rank_matches(distmat, q_pids, g_pids, q_camids, g_camids, protocol=protocol, max_rank=max_rank)
    if not ranking.valid.any():
        raise ValueError(
            "expected a query identity to appear in the gallery under another camera, got none that does"
        )
    return ranking.cmc(max_rank), ranking.mAP


def rank_matches(
    distances: ArrayLike,
    q_pids: ArrayLike,
    g_pids: ArrayLike,
    q_camids: ArrayLike,
    g_camids: ArrayLike,
    *,
    protocol: str = "market1501",
    max_rank: int = 50,
) -> Ranking:
    """Rank the matches of each query; arguments as ``evaluate_rank``.

    Raises:
        ValueError: if shapes do not fit, a distance is NaN, or the protocol is unknown.
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
    q_camids: ArrayLike,
    g_camids: ArrayLike,
    *,
    query_rows: int | None = None,
    gallery_rows: int | None = None,
    memory_limit: int | None = None,
    protocol: str = "market1501",
    max_rank: int = 50,
) -> Ranking:
    """Rank the matches of each query from blocks of distances that are asked for when they are needed.

    Blocks that hold matches are asked for twice, unless the gallery is one block: the distances of all
    matches of a query must be known before anything can be counted. Both times they must be the same, bit for
    bit.

    Args:
        distances: gives the distances of a slice of the queries from a slice of the gallery, (B, b).
        q_pids: identity of each query (Q,).
        g_pids: identity of each gallery image (G,).
        q_camids: camera of each query (Q,).
        g_camids: camera of each gallery image (G,).
        query_rows: queries of a block; ``None`` derives it from ``memory_limit``.
        gallery_rows: gallery images of a block; likewise. The cuhk03 protocol samples from whole rows.
        memory_limit: bytes of a block of distances, 96 MiB unless told.
        protocol: one of ``PROTOCOLS``.
        max_rank: length of the sampled CMC under cuhk03; at most G.

    Raises:
        ValueError: if lengths or blocks do not fit, a distance is NaN, or an argument is out of range.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; choose from {', '.join(PROTOCOLS)}")
    q_pids, q_camids = _labels(q_pids, q_camids, "queries")
    g_pids, g_camids = _labels(g_pids, g_camids, "gallery images")
    derived = block_shape(len(q_pids), len(g_pids), memory_limit, whole_rows=protocol == "cuhk03")
    query_rows, gallery_rows = query_rows or derived[0], gallery_rows or derived[1]
    gallery = Gallery(g_pids, g_camids, junk_pid=junk_of(protocol), own_camera=protocol == "genid")
    blocks = Blocks(distances, len(gallery), gallery_rows)
    parts = []
    for rows in row_blocks(len(q_pids), query_rows, "query_rows"):
        tally = Tally(gallery, q_pids[rows], q_camids[rows])
        collect(tally, blocks, rows)
        tally.sort()
        count(tally, blocks, rows)
        parts.append(Ranking.of(tally, protocol))
        if protocol == "cuhk03":
            curves = sampled_cmc(blocks(rows, slice(0, len(gallery))), q_pids[rows], g_pids,
                                 q_camids[rows], g_camids, min(max_rank, len(gallery)))  # fmt: skip
            parts[-1] = replace(parts[-1], sampled_cmc=curves)
    return Ranking.concatenate(parts)


def block_shape(
    queries: int, gallery: int, memory_limit: int | None = None, *, whole_rows: bool = False
) -> tuple[int, int]:
    """Queries and gallery images of a block of float32 distances; whole rows where enough of them fit.

    Raises:
        ValueError: if the memory limit is below one byte.
    """
    memory_limit = _WORKING_MEMORY if memory_limit is None else memory_limit
    if memory_limit < 1:
        raise ValueError(f"expected memory_limit >= 1 byte, got {memory_limit}")
    rows = memory_limit // (4 * gallery)
    if whole_rows or rows >= min(_ENOUGH_ROWS, queries):
        return min(queries, max(1, rows)), gallery
    rows = min(queries, _TILE_ROWS)
    return rows, max(1, min(gallery, memory_limit // (4 * rows)))


def junk_of(protocol: str) -> int | None:
    """Identity of gallery images that a protocol leaves out of every ranking."""
    return -1 if protocol == "streid" else None


class Blocks:
    """Blocks of distances as they come from outside: checked, and the last one remembered."""

    def __init__(self, distances: Distances, gallery: int, gallery_rows: int) -> None:
        self.columns = list(row_blocks(gallery, gallery_rows, "gallery_rows"))
        self._distances, self._key, self._block = distances, None, None

    def __call__(self, rows: slice, columns: slice) -> NDArray:
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


def _labels(pids: ArrayLike, camids: ArrayLike, whose: str) -> tuple[NDArray, NDArray]:
    pids, camids = np.asarray(pids), np.asarray(camids)
    if not 0 < len(pids) == len(camids):
        raise ValueError(
            f"expected as many cameras as identities, got {len(pids)} and {len(camids)} of {whose}"
        )
    return pids, camids


def _checked(block: ArrayLike, rows: slice, columns: slice) -> NDArray:
    block, shape = np.asarray(block), (rows.stop - rows.start, columns.stop - columns.start)
    if block.shape != shape:
        raise ValueError(f"expected distances of shape {shape}, got {block.shape}")
    if np.isnan(block.min()):  # NaN compares as "not nearer": every match would rank first
        bad = np.flatnonzero(np.isnan(block).any(1))
        first = bad[0] + rows.start
        raise ValueError(
            f"expected distances without NaN, got some for {len(bad)} queries, the first is {first}"
        )
    return block


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


def label(protocol: str) -> str:
    """The name of a protocol for reports, with a warning where its figures are like no others."""
    return _ONLY_THEIRS.get(protocol, protocol)


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


def _trapezoid(place: NDArray[np.int64], ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of the precision before and after each match; before the first image of all it counts as 1."""
    before = np.where(ranks > 1, (place - 1) / np.maximum(ranks - 1, 1), 1.0)
    return (before + place / ranks) / 2
