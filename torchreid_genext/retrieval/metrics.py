"""CMC, mAP and mINP without sorting the gallery.

All three depend only on the ranks of a query's matches, and a rank is a count: how many gallery images are
nearer. So each match costs one comparison with the row of distances, which no sort can beat as long as
matches are few.

Ties are defined: equal distances rank by gallery index, as a stable sort would have it. How much depends on
that is known as well: ``Ranking`` also holds the average precision when all ties are read against the query,
and for it.

Protocols: ``market1501`` leaves out gallery images of the query's own identity and camera (Zheng et al., ICCV
2015); ``cuhk03`` leaves out the same and computes the CMC over one random image per identity, ten times (Li
et al., CVPR 2014).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["PROTOCOLS", "Ranking", "evaluate_rank", "rank_matches"]

PROTOCOLS = ("market1501", "cuhk03")
_CUHK03_REPEATS = 10


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
    """

    average_precision: NDArray[np.float64]
    pessimistic_precision: NDArray[np.float64]
    optimistic_precision: NDArray[np.float64]
    first_match_rank: NDArray[np.int64]
    pessimistic_first_rank: NDArray[np.int64]
    optimistic_first_rank: NDArray[np.int64]
    inverse_negative_penalty: NDArray[np.float64]
    sampled_cmc: NDArray[np.float32] | None = None

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(Q,) whether the query has a match."""
        return self.first_match_rank > 0

    def cmc(self, max_rank: int) -> NDArray[np.float32]:
        """Share of valid queries that have a match among the first 1 .. max_rank, shape (max_rank,)."""
        if self.sampled_cmc is not None:
            return self.sampled_cmc[self.valid].mean(0, dtype=np.float64).astype(np.float32)
        first = np.bincount(
            np.minimum(self.first_match_rank[self.valid], max_rank + 1), minlength=max_rank + 2
        )
        return (first.cumsum()[1:-1] / max(1, self.valid.sum())).astype(np.float32)

    @staticmethod
    def concatenate(parts: list[Ranking]) -> Ranking:
        """One ranking of all queries from those of consecutive blocks."""
        columns = {name: [getattr(part, name) for part in parts] for name in Ranking.__dataclass_fields__}
        return Ranking(**{name: None if c[0] is None else np.concatenate(c) for name, c in columns.items()})


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
    return ranking.cmc(max_rank), float(np.nanmean(ranking.average_precision))


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
    distances, (q_pids, q_camids, g_pids, g_camids) = _checked(distances, q_pids, q_camids, g_pids, g_camids)
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; choose from {', '.join(PROTOCOLS)}")
    members = _members(g_pids)
    rows = [
        _rank_query(row, members.get(pid, _NOBODY), g_camids, camid)
        for row, pid, camid in zip(distances, q_pids.tolist(), q_camids.tolist())
    ]
    ranking = Ranking(*(np.array(column) for column in zip(*rows)))
    if protocol == "market1501":
        return ranking
    sampled = _sampled_cmc(distances, q_pids, g_pids, q_camids, g_camids, min(max_rank, len(g_pids)))
    return Ranking(**{**vars(ranking), "sampled_cmc": sampled})


_NOBODY = np.empty(0, dtype=np.int64)
_WITHOUT_MATCH = (np.nan, np.nan, np.nan, 0, 0, 0, np.nan)


def _checked(distances: ArrayLike, *labels: ArrayLike) -> tuple[NDArray, list[NDArray]]:
    distances, labels = np.asarray(distances), [np.asarray(values) for values in labels]
    lengths = tuple(len(values) for values in labels)
    if (
        distances.ndim != 2
        or 0 in distances.shape
        or lengths != (distances.shape[:1] * 2 + distances.shape[1:] * 2)
    ):
        raise ValueError(
            "expected distances (Q, G) with Q, G >= 1 and as many labels, "
            f"got {distances.shape} with {lengths[0]} and {lengths[1]} query, "
            f"{lengths[2]} and {lengths[3]} gallery labels"
        )
    if np.isnan(distances.min()):  # NaN compares as "not nearer": every match would rank first
        bad = np.flatnonzero(np.isnan(distances).any(1))
        raise ValueError(
            f"expected distances without NaN, got some for {len(bad)} queries, the first is {bad[0]}"
        )
    return distances, labels


def _members(g_pids: NDArray) -> dict[int, NDArray[np.int64]]:
    """Gallery indices of each identity, ascending."""
    order = np.argsort(g_pids, kind="stable")
    pids, starts = np.unique(g_pids[order], return_index=True)
    return dict(zip(pids.tolist(), np.split(order, starts[1:])))


def _rank_query(row: NDArray, own: NDArray[np.int64], g_camids: NDArray, camid: int) -> tuple:
    same_camera = g_camids[own] == camid
    matches, left_out = own[~same_camera], own[same_camera]
    if not len(matches):
        return _WITHOUT_MATCH
    matches = matches[np.argsort(row[matches], kind="stable")]
    values, place = row[matches], np.arange(1, len(matches) + 1)
    near = row[row <= values[-1]]  # all that can be ranked before the last match
    nearer = _count(np.less, near, values) - _count_pairs(np.less, row[left_out], values)
    not_farther = _count(np.less_equal, near, values) - _count_pairs(np.less_equal, row[left_out], values)
    optimistic = nearer - np.searchsorted(values, values, "left") + place
    pessimistic = not_farther - np.searchsorted(values, values, "right") + place
    if (pessimistic == optimistic).all():
        precision, first = _precision(place, optimistic), optimistic[0]
        return precision, precision, precision, first, first, first, len(matches) / optimistic[-1]
    ranks = optimistic + _tied_non_matches_before(row, matches, values, own)
    readings = ranks, pessimistic, optimistic
    precisions = (_precision(place, reading) for reading in readings)
    return (*precisions, *(reading[0] for reading in readings), len(matches) / ranks[-1])


def _precision(place: NDArray[np.int64], ranks: NDArray[np.int64]) -> float:
    """Average precision of the first, second, ... match at these ranks."""
    return (place / ranks).sum() / len(ranks)


def _count(compare: np.ufunc, row: NDArray, values: NDArray) -> NDArray[np.int64]:
    """For each value, how many entries of the row it holds for; a few values at a time stay in cache."""
    blocks = (compare(row, values[start : start + 16, None]) for start in range(0, len(values), 16))
    return np.array([np.count_nonzero(hits) for block in blocks for hits in block])


def _count_pairs(compare: np.ufunc, few: NDArray, values: NDArray) -> NDArray[np.int64]:
    return compare(few, values[:, None]).sum(1)


def _tied_non_matches_before(
    row: NDArray, matches: NDArray, values: NDArray, own: NDArray
) -> NDArray[np.int64]:
    """For each match, how many images of other identities have the same distance and a smaller index."""
    before = np.zeros(len(matches), dtype=np.int64)
    for value in np.unique(values):
        tied = np.setdiff1d(np.flatnonzero(row == value), own, assume_unique=True)
        here = values == value
        before[here] = np.searchsorted(tied, matches[here])
    return before


def _sampled_cmc(
    distances: NDArray, q_pids: NDArray, g_pids: NDArray, q_camids: NDArray, g_camids: NDArray, max_rank: int
) -> NDArray[np.float32]:
    """CMC (Q, max_rank) over one random image of each gallery identity, mean of ten draws."""
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
    for _ in range(_CUHK03_REPEATS):
        drawn = np.empty(len(counts), dtype=np.int64)
        for index in appearance:
            drawn[index] = np.random.choice(places[index])
        rank = int((drawn < drawn[own]).sum())
        curve[rank:] += 1
    return curve / _CUHK03_REPEATS
