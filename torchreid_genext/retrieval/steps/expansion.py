"""Expansion of features by their nearest in the gallery, exact and in bounded memory.

``average_query_expansion`` (AQE, Chum et al., ICCV 2007) searches with the mean of the query and what it
found first. ``alpha_query_expansion`` (Radenovic et al., TPAMI 2019) weighs what was found by
``cosine ** alpha``, so that a poor find does little harm. ``database_augmentation`` (DBA, Arandjelovic and
Zisserman, CVPR 2012) does the same to the gallery beforehand.

All functions L2-normalise what they get and what they return: similarity is the cosine, and one below zero
counts as zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchreid_genext.retrieval._numerics import full_precision, unit
from torchreid_genext.retrieval.comparison import Comparison
from torchreid_genext.retrieval.neighbours import at_most, check_features, nearest
from torchreid_genext.retrieval.steps.base import Step, option

__all__ = [
    "AlphaQueryExpansion", "AverageQueryExpansion", "DatabaseAugmentation",
    "alpha_query_expansion", "average_query_expansion", "database_augmentation", "weighted_sums",
    "weights_of",
]  # fmt: skip

_IN_CACHE = 2**20  # bytes of features gathered at a time


@dataclass(frozen=True)
class AverageQueryExpansion(Step):
    """Replace a query by the mean of itself and its k nearest gallery features (Chum et al., ICCV 2007)."""

    k: int = option(5, "gallery features", least=1)

    name = "aqe"
    uses = ("the gallery's neighbours of each query",)

    def __call__(self, comparison: Comparison) -> Comparison:
        return _expanded(comparison, self.k, 0.0)


@dataclass(frozen=True)
class AlphaQueryExpansion(Step):
    """Add to a query its k nearest gallery features, weighted by cosine to the power alpha (Radenovic, TPAMI 2019)."""

    k: int = option(5, "gallery features", least=1)
    alpha: float = option(3.0, "how fast the weight falls; 0: plain average query expansion", least=0)

    name = "alpha_qe"
    uses = AverageQueryExpansion.uses

    def __call__(self, comparison: Comparison) -> Comparison:
        return _expanded(comparison, self.k, self.alpha)


@dataclass(frozen=True)
class DatabaseAugmentation(Step):
    """Add to each gallery feature its k nearest others, weighted as by alpha_qe (database-side augmentation)."""

    k: int = option(5, "other gallery features", least=1)
    alpha: float = option(3.0, "how fast the weight falls; 0: all alike", least=0)

    name = "dba"
    uses = ("neighbours within the gallery set",)

    def __call__(self, comparison: Comparison) -> Comparison:
        query, gallery = comparison.query, comparison.gallery
        augmented = database_augmentation(gallery.features, k=self.k, alpha=self.alpha, **comparison.search)
        return comparison.with_sets(
            query.with_features(unit(query.features)), gallery.with_features(augmented)
        )


def _expanded(comparison: Comparison, k: int, alpha: float) -> Comparison:
    query, gallery = comparison.query, comparison.gallery
    expanded = alpha_query_expansion(query.features, gallery.features, k=k, alpha=alpha, **comparison.search)
    return comparison.with_sets(
        query.with_features(expanded), gallery.with_features(unit(gallery.features))
    )


def average_query_expansion(
    query: Tensor, gallery: Tensor, *, k: int = 5, memory_limit: int | None = None, index: str = "exact"
) -> Tensor:
    """Mean of each query and its k nearest gallery features.

    Args:
        query: shape (Q, D), any scale, no zero rows.
        gallery: shape (G, D), likewise.
        k: how many gallery features, >= 1; more than G means all, and is said in a warning.
        memory_limit: bytes of working memory, see ``neighbours.nearest``; normalised copies come on top.
        index: see ``neighbours.nearest``.

    Returns:
        New tensor (Q, D), float32, L2-normalised.

    Raises:
        ValueError: if ``k`` is no integer >= 1, or the features are not finite or of two widths.
    """
    return alpha_query_expansion(query, gallery, k=k, alpha=0, memory_limit=memory_limit, index=index)


@full_precision()
def alpha_query_expansion(
    query: Tensor,
    gallery: Tensor,
    *,
    k: int = 5,
    alpha: float = 3.0,
    memory_limit: int | None = None,
    index: str = "exact",
) -> Tensor:
    """Sum of each query and its k nearest gallery features, each weighted by ``max(cosine, 0) ** alpha``.

    Args:
        query: shape (Q, D), any scale, no zero rows.
        gallery: shape (G, D), likewise.
        k: how many gallery features, see ``average_query_expansion``.
        alpha: how fast the weight falls, >= 0; 0 weighs all alike, also those of negative cosine.
        memory_limit: see ``average_query_expansion``.

    Returns:
        New tensor (Q, D), float32, L2-normalised.

    Raises:
        ValueError: if ``alpha`` is out of range, or as ``average_query_expansion``.
    """
    _check_alpha(alpha)
    query, gallery = unit(check_features(query, "query")), unit(check_features(gallery, "gallery"))
    (k,) = at_most("query expansion", k=(k, len(gallery)))
    distances, indices = nearest(query, gallery, k=k, memory_limit=memory_limit, index=index)
    return unit(query + weighted_sums(gallery, indices, weights_of(distances, alpha)))


@full_precision()
def database_augmentation(
    gallery: Tensor, *, k: int = 5, alpha: float = 3.0, memory_limit: int | None = None, index: str = "exact"
) -> Tensor:
    """Sum of each gallery feature and its k nearest others, weighted as by ``alpha_query_expansion``.

    Args:
        gallery: shape (G, D), any scale, no zero rows.
        k: how many other features, >= 1; more than G - 1 means all, and is said in a warning.
        alpha: how fast the weight falls, >= 0; 0 is the mean.
        memory_limit: see ``average_query_expansion``.

    Returns:
        New tensor (G, D), float32, L2-normalised; each row is made of features as they were before. Rows of
        the same features and weights are equal, bit for bit: a sum runs by ascending index, own included.

    Raises:
        ValueError: if ``k`` or ``alpha`` is out of range, or the features are not finite.
    """
    _check_alpha(alpha)
    gallery = unit(check_features(gallery, "gallery"))
    (k,) = at_most("database augmentation", k=(k, len(gallery) - 1))
    if k == 0:
        return gallery
    distances, indices = nearest(gallery, k=k, memory_limit=memory_limit, index=index)
    own = torch.arange(len(gallery), device=gallery.device)[:, None]
    distances = torch.cat([torch.zeros_like(distances[:, :1]), distances], dim=1)
    return unit(weighted_sums(gallery, torch.cat([own, indices], dim=1), weights_of(distances, alpha)))


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha < math.inf:
        raise ValueError(f"expected alpha >= 0 and finite, got {alpha}")


def weights_of(squared_distances: Tensor, alpha: float) -> Tensor:
    """``max(cosine, 0) ** alpha`` from squared distances of unit features."""
    return (1 - squared_distances / 2).clamp_(min=0).pow_(alpha)


def weighted_sums(features: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """``sum_j w_ij f_indices[i, j]``, (N, D): by ascending index, and rounded after each product and sum."""
    indices, order = indices.sort(dim=1)
    weights = weights.gather(1, order)
    rows = max(1, _IN_CACHE // (8 * features.shape[1]))
    parts = zip(indices.split(rows), weights.split(rows))
    return torch.cat([_weighted_sum(features, *part) for part in parts])


def _weighted_sum(features: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    total = features[indices[:, 0]].mul_(weights[:, :1])
    for place in range(1, indices.shape[1]):
        total += features[indices[:, place]].mul_(weights[:, place, None])
    return total
