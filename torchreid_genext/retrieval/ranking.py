"""What the ranks of its matches say of each query, under each protocol."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from torchreid_genext.retrieval._tally import Tally

__all__ = ["PROTOCOLS", "Ranking", "label"]

PROTOCOLS = ("market1501", "cuhk03", "streid", "camstyle", "genid")
_TRAPEZOIDAL = ("streid", "camstyle")
_ONLY_THEIRS = {"genid": "genid (its authors' own, rank-k is recall: not comparable)"}
_RECALL_LENGTH = 25  # of the authors' curve


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
