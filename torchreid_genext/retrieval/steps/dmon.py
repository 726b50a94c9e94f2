"""A feature joins its neighbours, theirs, and theirs again: DMON (Yuan et al., CVPR workshops 2025)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchreid_genext.retrieval._blocks import blocks_within
from torchreid_genext.retrieval._numerics import from_fixed, full_precision, to_fixed, unit
from torchreid_genext.retrieval._search import squared_distances
from torchreid_genext.retrieval.comparison import Comparison
from torchreid_genext.retrieval.neighbours import at_most, check_features, nearest
from torchreid_genext.retrieval.sets import RetrievalSet
from torchreid_genext.retrieval.steps.base import SIDES, Step, on_each, option

__all__ = ["NeighbourMean", "dmon", "hops"]

_DECAY = (1.0, 0.5, 0.25)  # of each hop
_WIDENING = 1.5  # of the Gaussian, from hop to hop
_EPSILON = 1e-8  # of the authors, below a sum of weights


@dataclass(frozen=True)
class NeighbourMean(Step):
    """Mix each feature with those of its neighbours up to three hops away, each set on its own."""

    k1: int = option(2, "neighbours of the first hop", least=1)
    k2: int = option(2, "neighbours of each neighbour, in the second and third hop", least=1)
    sigma: float = option(0.5, "of the Gaussian weight in the first hop", above=0)
    gamma: float = option(0.75, "share of the feature itself", least=0, most=1)
    side: str = option("both", "whose features", choices=SIDES[:3])
    normalize_before: bool = option(True, "L2 of every feature")
    normalize_after: bool = option(True, "L2 of the result")

    name = "dmon"
    uses = ("neighbours within each set",)

    def __call__(self, comparison: Comparison) -> Comparison:
        def mixed(images: RetrievalSet) -> Tensor:
            numbers = {name: getattr(self, name) for name in ("k1", "k2", "sigma", "gamma")}
            result = dmon(self._before(images), **numbers, **comparison.search)
            return unit(result) if self.normalize_after else result

        return on_each(comparison, self.side, mixed, self._before)

    def _before(self, images: RetrievalSet) -> Tensor:
        return unit(images.features) if self.normalize_before else images.features


@full_precision()
def dmon(
    features: Tensor,
    *,
    k1: int = 2,
    k2: int = 2,
    sigma: float = 0.5,
    gamma: float = 0.75,
    memory_limit: int | None = None,
    index: str = "exact",
) -> Tensor:
    """Mix each feature with its neighbours, weighted by a Gaussian of their distance.

    Hop 0 of a feature are its k1 nearest; each further hop are the k2 nearest of all in the hop before. The
    weights ``exp(-d^2 / (2 (sigma 1.5^hop)^2))`` of a hop sum to 1; hops count 1, 1/2 and 1/4.

    Args:
        features: of one set, shape (N, D), of any scale.
        k1: neighbours of the first hop, >= 1; more than N - 1 means all, and is said in a warning.
        k2: neighbours of each, likewise.
        sigma: of the first hop's weight, > 0.
        gamma: share of the feature itself, in 0 .. 1.
        memory_limit: bytes of working memory, see ``neighbours.nearest``.
        index: see ``neighbours.nearest``.

    Returns:
        New tensor (N, D), float32, not normalised.

    Raises:
        ValueError: if a number is out of range, or a feature is not finite.
    """
    features = check_features(features)
    if not 0 < sigma < math.inf:
        raise ValueError(f"expected sigma > 0 and finite, got {sigma}")
    if not 0 <= gamma <= 1:
        raise ValueError(f"expected gamma in 0..1, got {gamma}")
    k1, k2 = at_most("dmon", k1=(k1, len(features) - 1), k2=(k2, len(features) - 1))
    if k1 == 0:  # a lone image
        return gamma * features
    _, lists = nearest(features, k=max(k1, k2), memory_limit=memory_limit, index=index)
    result = torch.empty_like(features)
    row_bytes = 8 * features.shape[1] * k1 * k2**2
    for rows in blocks_within(len(features), row_bytes, memory_limit):
        own = torch.arange(rows.start, rows.stop, device=features.device)
        around = hops(features, lists, own, k1, k2, sigma)
        result[rows] = gamma * features[rows] + (1 - gamma) * around
    return result


def hops(features: Tensor, lists: Tensor, rows: Tensor, k1: int, k2: int, sigma: float) -> Tensor:
    """Weighted sum (B, D) of the three hops of some rows (B,) of the features."""
    hop = lists[rows, :k1]
    total = torch.zeros_like(features[rows])
    for number, decay in enumerate(_DECAY):
        if number:
            hop = lists[hop, :k2].flatten(1)
        hop, fresh = _each_once(hop)
        squares = squared_distances(features[rows, None], features, hop)
        weights = (squares / (-2 * (sigma * _WIDENING**number) ** 2)).exp_()
        weights.masked_fill_(~fresh | (hop == rows[:, None]), 0)
        sums = from_fixed(to_fixed(weights).sum(1, keepdim=True))  # in any order, so that alike rows stay alike
        weights *= decay / (sums + _EPSILON)
        for place in range(hop.shape[1]):  # by ascending index, rounded alike in all rows
            total += features[hop[:, place]].mul_(weights[:, place, None])
    return total


def _each_once(members: Tensor) -> tuple[Tensor, Tensor]:
    """Members (B, M) of some sets in ascending order, and which of them stand for the first time."""
    members = members.sort(dim=1).values
    fresh = torch.ones_like(members, dtype=torch.bool)
    fresh[:, 1:] = members[:, 1:] != members[:, :-1]
    return members, fresh
