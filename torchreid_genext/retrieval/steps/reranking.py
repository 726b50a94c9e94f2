"""Re-ranking as steps: k-reciprocal (Zhong et al., CVPR 2017) and CA-Jaccard (Chen et al., CVPR 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchreid_genext.retrieval.comparison import Comparison, Metric
from torchreid_genext.retrieval.reranking import KReciprocal
from torchreid_genext.retrieval.spaces import FeatureSpace, RowSpace, Space
from torchreid_genext.retrieval.steps.base import Step, option
from torchreid_genext.retrieval.timed import TimedSpace, is_additive

__all__ = ["CameraJaccard", "Rerank"]


@dataclass(frozen=True)
class Rerank(Step):
    """k-reciprocal re-ranking of whatever distance the chain has come to; the last step."""

    k1: int = option(20, "neighbours that may be reciprocal", least=1)
    k2: int = option(6, "nearest images whose descriptions are averaged", least=1)
    lambda_value: float = option(0.3, "share of the original distance", least=0, most=1)

    name = "rerank"
    final = True
    uses = ("transductive: neighbourhoods across query and gallery",)

    def __call__(self, comparison: Comparison) -> Comparison:
        space, power = _space(comparison)
        reranked = KReciprocal.of(
            space, len(comparison.query), **vars(self), power=power, memory_limit=comparison.memory_limit
        )
        return comparison.with_reranking(reranked)


@dataclass(frozen=True)
class CameraJaccard(Step):
    """Re-ranking of whatever distance the chain has come to, neighbours by camera; the last step."""

    k1_intra: int = option(5, "neighbours of the own camera that may be reciprocal", least=1)
    k1_inter: int = option(20, "neighbours of other cameras that may be reciprocal", least=1)
    k2_intra: int = option(2, "nearest of the own camera whose descriptions are averaged", least=1)
    k2_inter: int = option(4, "nearest of other cameras whose descriptions are averaged", least=1)
    lambda_value: float = option(0.3, "share of the original distance", least=0, most=1)

    name = "ca_jaccard"
    final = True
    uses = (*Rerank.uses, "camera ids")
    needs = frozenset({"cameras"})

    def __call__(self, comparison: Comparison) -> Comparison:
        query, gallery = comparison.query, comparison.gallery
        space, _ = _space(comparison)
        cameras = torch.cat([query.camids, gallery.camids])
        reranked = KReciprocal.of_cameras(
            space, cameras, len(query), **vars(self), memory_limit=comparison.memory_limit
        )
        return comparison.with_reranking(reranked)


def _space(comparison: Comparison) -> tuple[Space, float]:
    """All images with their distances, and the power to which re-ranking raises these."""
    query, gallery, measure = comparison.query, comparison.gallery, comparison.measure
    if isinstance(measure, Metric):  # torchreid squares its distances, which are squared already
        sets = query.features, gallery.features
        return FeatureSpace.of(*sets, metric=measure.name, **comparison.search), 2
    images = query.join(gallery)
    if is_additive(measure):
        return TimedSpace.of(images, measure, memory_limit=comparison.memory_limit), 1

    def rows(block: slice) -> Tensor:
        return measure(images.select(block), images)

    options = {"bytes_per_pair": measure.bytes_per_pair, "memory_limit": comparison.memory_limit}
    return RowSpace(rows, len(images), **options), 1
