"""What an evaluation found, as one object that prints, compares and saves."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from torch import Tensor

from torchreid_genext.retrieval.chain import Chain
from torchreid_genext.retrieval.metrics import Ranking, label

__all__ = ["Report", "bootstrap_difference"]


@dataclass(frozen=True, eq=False)
class Report:
    """Rates are fractions in 0 .. 1, over the queries that have a match (``streid`` and ``genid``: over all).

    Attributes:
        chain: text of the chain.
        protocol: the protocol, and what the chain used beyond the pair of images that is compared.
        metric: distance.
        mAP: mean average precision; equal distances rank by gallery index.
        map_bounds: mAP with every tie read against the query, and with every tie read for it.
        cmc: share of queries with a match among the first 1 .. max_rank; under ``genid`` a recall curve.
        rank1_bounds: rank-1 with ties read against and for the query.
        mINP: mean inverse negative penalty.
        id2_query: mean identity density of the query set after the chain, smaller is denser.
        id2_gallery: the same of the gallery set.
        num_query: all queries. num_valid_queries: those with a match. num_gallery: gallery images.
        seconds: by step. peak_memory: bytes above the start, by step.
        average_precision: (Q,), NaN without a match.
        first_match_rank: (Q,), 0 without a match.
        density_query: ID2 of each query image (Q,). density_gallery: of each gallery image (G,).
    """

    chain: str
    protocol: str
    metric: str
    mAP: float
    map_bounds: tuple[float, float]
    cmc: tuple[float, ...]
    rank1_bounds: tuple[float, float]
    mINP: float
    id2_query: float
    id2_gallery: float
    num_query: int
    num_valid_queries: int
    num_gallery: int
    seconds: dict[str, float]
    peak_memory: dict[str, int]
    average_precision: np.ndarray = field(repr=False)
    first_match_rank: np.ndarray = field(repr=False)
    density_query: np.ndarray = field(repr=False)
    density_gallery: np.ndarray = field(repr=False)

    @classmethod
    def of(
        cls,
        chain: Chain,
        protocol: str,
        metric: str,
        ranking: Ranking,
        density_query: Tensor,
        density_gallery: Tensor,
        *,
        max_rank: int,
        num_gallery: int,
        seconds: dict[str, float],
        peak_memory: dict[str, int],
    ) -> Report:
        """Average what was found of each query."""
        valid, mean = ranking.valid, ranking.mean
        return cls(
            chain=chain.name,
            protocol="; ".join((label(protocol), *chain.uses)),
            metric=metric,
            mAP=ranking.mAP,
            map_bounds=(mean(ranking.pessimistic_precision), mean(ranking.optimistic_precision)),
            cmc=tuple(ranking.cmc(max_rank).tolist()),
            rank1_bounds=ranking.rank1_bounds,
            mINP=ranking.mINP,
            id2_query=float(density_query.mean()),
            id2_gallery=float(density_gallery.mean()),
            num_query=len(valid),
            num_valid_queries=int(valid.sum()),
            num_gallery=num_gallery,
            seconds=seconds,
            peak_memory=peak_memory,
            average_precision=ranking.average_precision,
            first_match_rank=ranking.first_match_rank,
            density_query=density_query.cpu().numpy(),
            density_gallery=density_gallery.cpu().numpy(),
        )

    def rank(self, k: int) -> float:
        """Share of queries with a match among the first k.

        Raises:
            ValueError: if k is not in 1 .. max_rank.
        """
        if not 1 <= k <= len(self.cmc):
            raise ValueError(f"expected k in 1..{len(self.cmc)}, got {k}")
        return self.cmc[k - 1]

    def to_json(self, *, per_query: bool = False) -> dict[str, Any]:
        """Plain Python values; the arrays of single queries and images only if asked."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        if not per_query:
            return {name: value for name, value in values.items() if not isinstance(value, np.ndarray)}
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()
        }

    def summary(self) -> str:
        """A block of a few lines for people."""
        shown = [k for k in (1, 5, 10, 20) if k <= len(self.cmc)]
        low, high = self.map_bounds
        ties = f"  (ties: {low:.2%} to {high:.2%})" if high - low > 5e-5 else ""
        return "\n".join((
            f"{self.chain}  [{self.protocol}]",
            f"  mAP {self.mAP:.2%}{ties}  mINP {self.mINP:.2%}",
            "  " + "  ".join(f"rank-{k} {self.rank(k):.2%}" for k in shown),
            f"  ID2 query {self.id2_query:.4f}, gallery {self.id2_gallery:.4f}",
            f"  {self.num_valid_queries} of {self.num_query} queries, {self.num_gallery} gallery images, "
            f"{sum(self.seconds.values()):.2f} s",
        ))  # fmt: skip


def bootstrap_difference(
    before: Report, after: Report, *, samples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """How much ``after`` gains over ``before``, with 95 % intervals over queries drawn with replacement.

    Both reports must be of the same queries: each draw takes a query's result from both.

    Returns:
        For ``mAP`` and ``rank1``: difference, lower and upper end of the interval; fractions.

    Raises:
        ValueError: if the reports are of different queries, or samples < 1.
    """
    valid = before.first_match_rank > 0
    if len(valid) != len(after.first_match_rank) or (valid != (after.first_match_rank > 0)).any():
        raise ValueError("expected two reports of the same queries, got different ones")
    if samples < 1:
        raise ValueError(f"expected samples >= 1, got {samples}")
    scores = [
        np.stack([report.average_precision[valid], (report.first_match_rank[valid] == 1).astype(float)])
        for report in (before, after)
    ]
    gains = scores[1] - scores[0]
    generator = np.random.default_rng(seed)
    draws = [gains[:, generator.integers(0, gains.shape[1], gains.shape[1])].mean(1) for _ in range(samples)]
    low, high = np.percentile(draws, (2.5, 97.5), axis=0)
    return {
        name: (float(gains[row].mean()), float(low[row]), float(high[row]))
        for row, name in enumerate(("mAP", "rank1"))
    }
