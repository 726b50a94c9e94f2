"""What an evaluation found, as one object that prints, compares and saves."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from torchreid_genext.retrieval.camera_pairs import CameraPairs, camera_pairs
from torchreid_genext.retrieval.metrics import Ranking

if TYPE_CHECKING:
    from torchreid_genext.retrieval.comparison import Comparison

__all__ = ["Interval", "Report", "bootstrap", "bootstrap_difference"]

Interval = tuple[float, float, float]  # a value, and the lower and upper end of its 95 % interval


@dataclass(frozen=True, eq=False)
class Report:
    """Rates are fractions in 0 .. 1, over the queries that the protocol counts.

    Attributes:
        chain: text of the chain.
        protocol: the protocol, and what the chain used beyond the pair of images that is compared.
        metric: distance.
        cmc: share of queries with a match among the first 1 .. max_rank; of other protocols, their curve.
        id2_query: mean identity density of the query set after the chain, smaller is denser.
        id2_gallery: the same of the gallery images of identities that are queried.
        num_gallery: gallery images.
        seconds: by step.
        ranking: what was found of each query.
        query_pids: identity of each query (Q,).
        density_query: ID2 of each query image (Q,).
        density_gallery: of each gallery image of an identity that is queried, in their order.
        cameras: mAP by camera of the query and of the match; None where cameras are not known.
    """

    chain: str
    protocol: str
    metric: str
    cmc: tuple[float, ...]
    id2_query: float
    id2_gallery: float
    num_gallery: int
    seconds: dict[str, float]
    ranking: Ranking = field(repr=False)
    query_pids: NDArray[np.int64] = field(repr=False)
    density_query: NDArray[np.float32] = field(repr=False)
    density_gallery: NDArray[np.float32] = field(repr=False)
    cameras: CameraPairs | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        comparison: Comparison,
        ranking: Ranking,
        density_query: Tensor,
        density_gallery: Tensor,
        *,
        max_rank: int,
        seconds: dict[str, float],
    ) -> Report:
        """What was found of each query after a chain."""
        uses = dict.fromkeys(use for step in comparison.steps for use in step.uses)
        return cls(
            chain="+".join(map(str, comparison.steps)) or "base",
            protocol="; ".join((ranking.protocol.label, *uses)),
            metric=comparison.measure.name,
            cmc=tuple(ranking.cmc(max_rank).tolist()),
            id2_query=float(density_query.mean()),
            id2_gallery=float(density_gallery.mean()),
            num_gallery=len(comparison.gallery),
            seconds=seconds,
            ranking=ranking,
            query_pids=comparison.query.pids.numpy(),
            density_query=density_query.cpu().numpy(),
            density_gallery=density_gallery.cpu().numpy(),
            cameras=_by_cameras(comparison, ranking),
        )

    @property
    def mAP(self) -> float:
        """Mean average precision; equal distances rank by gallery index."""
        return self.ranking.mAP

    @property
    def map_bounds(self) -> tuple[float, float]:
        """mAP with every tie read against the query, and with every tie read for it."""
        return self.ranking.map_bounds

    @property
    def rank1_bounds(self) -> tuple[float, float]:
        """Rank-1 with ties read against and for the query."""
        return self.ranking.rank1_bounds

    @property
    def mINP(self) -> float:
        """Mean inverse negative penalty."""
        return self.ranking.mINP

    @property
    def num_query(self) -> int:
        """All queries."""
        return len(self.ranking)

    @property
    def num_valid_queries(self) -> int:
        """Those with a match."""
        return int(self.ranking.valid.sum())

    @property
    def average_precision(self) -> NDArray[np.float64]:
        """Of each query (Q,), NaN without a match."""
        return self.ranking.average_precision

    @property
    def first_match_rank(self) -> NDArray[np.int64]:
        """Of each query (Q,), 0 without a match."""
        return self.ranking.first_match_rank

    def hardest(self, number: int) -> NDArray[np.int64]:
        """Rows of the queries of the lowest average precision, the lowest first."""
        return np.argsort(self.average_precision, kind="stable")[: min(number, self.num_valid_queries)]

    def easiest(self, number: int) -> NDArray[np.int64]:
        """Rows of the queries of the highest average precision, the highest first."""
        return np.argsort(-self.average_precision, kind="stable")[: min(number, self.num_valid_queries)]

    def rank(self, k: int) -> float:
        """Share of queries with a match among the first k.

        Raises:
            ValueError: if k is not in 1 .. max_rank.
        """
        if not 1 <= k <= len(self.cmc):
            raise ValueError(f"expected k in 1..{len(self.cmc)}, got {k}")
        return self.cmc[k - 1]

    def to_json(self, *, per_query: bool = False) -> dict[str, Any]:
        """Plain Python values; those of single queries and images only if asked, None where there is none."""
        names = (
            "chain", "protocol", "metric", "mAP", "map_bounds", "cmc", "rank1_bounds", "mINP", "id2_query",
            "id2_gallery", "num_query", "num_valid_queries", "num_gallery", "seconds",
        )  # fmt: skip
        arrays = ("average_precision", "first_match_rank", "density_query", "density_gallery")
        values = {name: getattr(self, name) for name in names}
        values["camera_pairs"] = self.cameras.to_json() if self.cameras else None
        return values | ({name: _plain(getattr(self, name)) for name in arrays} if per_query else {})

    def summary(self) -> str:
        """A block of a few lines for people."""
        shown = [k for k in (1, 5, 10, 20) if k <= len(self.cmc)]
        low, high = self.map_bounds
        ties = f"  (ties: {low:.2%} to {high:.2%})" if high - low > 5e-5 else ""
        return "\n".join((
            f"{self.chain}  [{self.protocol}]",
            f"  mAP {self.mAP:.2%}{ties}  mINP {self.mINP:.2%}",
            "  " + "  ".join(f"rank-{k} {self.rank(k):.2%}" for k in shown),
            f"  ID2 query {self.id2_query:.4f}, gallery {self.id2_gallery:.4f} (of queried identities)",
            f"  {self.num_valid_queries} of {self.num_query} queries, {self.num_gallery} gallery images, "
            f"{sum(self.seconds.values()):.2f} s",
        ))  # fmt: skip


def bootstrap(report: Report, *, samples: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """mAP and rank-1 with their 95 % intervals, identities drawn with replacement.

    Queries of one person are not independent, so people are drawn, each with all its queries. Every draw is
    rated as the report is: over the same denominator, with the same rank-1.

    Returns:
        For ``mAP`` and ``rank1``: value, lower and upper end of the interval; fractions.

    Raises:
        ValueError: if samples < 1.
    """
    draws = _draws(report, samples, seed)
    values = report.mAP, report.rank(1)
    return _intervals(values, _rates(report, draws))


def bootstrap_difference(
    before: Report, after: Report, *, samples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """How much ``after`` gains over ``before``, with 95 % intervals as those of ``bootstrap``.

    Both reports must be of the same queries under the same protocol: each draw takes the same people from
    both. Gains are the differences of the columns that they stand beside.

    Returns:
        For ``mAP`` and ``rank1``: difference, lower and upper end of the interval; fractions.

    Raises:
        ValueError: if the reports are of different queries or protocols, or samples < 1.
    """
    rules = before.ranking.protocol.label, after.ranking.protocol.label
    if rules[0] != rules[1]:
        raise ValueError(f"expected two reports under one protocol, got {rules[0]} and {rules[1]}")
    if not np.array_equal(before.query_pids, after.query_pids) or not np.array_equal(
        before.ranking.valid, after.ranking.valid
    ):
        raise ValueError("expected two reports of the same queries, got different ones")
    draws = _draws(before, samples, seed)
    values = after.mAP - before.mAP, after.rank(1) - before.rank(1)
    return _intervals(values, _rates(after, draws) - _rates(before, draws))


def _draws(report: Report, samples: int, seed: int) -> NDArray[np.float64]:
    """How often each identity is in each sample (samples, I)."""
    if samples < 1:
        raise ValueError(f"expected samples >= 1, got {samples}")
    people = len(np.unique(report.query_pids[report.ranking.counted]))
    generator = np.random.default_rng(seed)
    return generator.multinomial(people, np.full(people, 1 / people), size=samples).astype(np.float64)


def _rates(report: Report, draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """mAP and rank-1 (2, samples) of each sample."""
    ranking = report.ranking
    _, identity = np.unique(report.query_pids[ranking.counted], return_inverse=True)
    scores = (np.nan_to_num(ranking.average_precision), ranking.rank1, np.ones(len(ranking)))
    sums = [np.bincount(identity, weights=score[ranking.counted]) for score in scores]
    precision, rank1, queries = (draws @ column for column in sums)
    return np.stack([precision, rank1]) / queries


def _intervals(values: tuple[float, float], samples: NDArray[np.float64]) -> dict[str, Interval]:
    low, high = np.percentile(samples, (2.5, 97.5), axis=1)
    return {
        name: (float(values[row]), float(low[row]), float(high[row]))
        for row, name in enumerate(("mAP", "rank1"))
    }


def _by_cameras(comparison: Comparison, ranking: Ranking) -> CameraPairs | None:
    if comparison.query.camids is None or comparison.gallery.camids is None:
        return None
    camids = comparison.gallery.camids.numpy()[ranking.matches["index"]]
    return camera_pairs(ranking, comparison.query.camids.numpy(), camids)


def _plain(values: NDArray) -> list[float | None]:
    return [None if isinstance(value, float) and math.isnan(value) else value for value in values.tolist()]
