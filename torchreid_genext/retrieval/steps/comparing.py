"""Steps that change how images are compared: by time as well, or by their neighbourhoods."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from torchreid_genext.retrieval.comparison import Comparison, Metric
from torchreid_genext.retrieval.reranking import KReciprocal
from torchreid_genext.retrieval.sets import Sightings
from torchreid_genext.retrieval.spaces import FeatureSpace, RowSpace, Space
from torchreid_genext.retrieval.steps.base import check_choice
from torchreid_genext.retrieval.timing import FORMS, TimedMeasure

__all__ = ["Rerank", "SpatioTemporal"]


@dataclass(frozen=True)
class SpatioTemporal:
    """Compare images by appearance and by how likely the time between them is (ST-ReID, AAAI 2019).

    Attributes:
        form: how time joins appearance, ``ratio``, ``loglikelihood`` or ``official``: see ``timing``.
        weight: of time in the logarithmic forms.
        floor: a likelihood that no training identity has shown, > 0, in the logarithmic forms.
        alpha: slope of both factors in the official form.
        interval: frames per bin. bins: how many there are.
        sigma: of the smoothing, in bins; None: the published 50 in the official form, else 5.
    """

    form: str = "ratio"
    weight: float = 0.07
    floor: float = 1e-4
    alpha: float = 5.0
    interval: int = 100
    bins: int = 5000
    sigma: float | None = None

    name = "st"
    uses = "camera ids, time stamps"

    def __post_init__(self) -> None:
        check_choice("form", self.form, FORMS)

    def __call__(self, comparison: Comparison) -> Comparison:
        return comparison.with_measure(self.fit(comparison.train))

    def fit(self, train: Sightings | None) -> TimedMeasure:
        """The distance, learnt from a training split."""
        return TimedMeasure.fit(train, **vars(self))


@dataclass(frozen=True)
class Rerank:
    """k-reciprocal re-ranking of whatever distance the chain has come to; the last step.

    Attributes:
        k1: neighbours that may be reciprocal.
        k2: nearest images whose descriptions are averaged.
        lambda_value: share of the original distance, in 0 .. 1.
    """

    k1: int = 20
    k2: int = 6
    lambda_value: float = 0.3

    name = "rerank"
    uses = "transductive: neighbourhoods across query and gallery"

    def __call__(self, comparison: Comparison) -> Comparison:
        space, power = _space(comparison)
        reranked = KReciprocal.of(
            space, len(comparison.query), **vars(self), power=power, memory_limit=comparison.memory_limit
        )
        return comparison.with_reranking(reranked)


def _space(comparison: Comparison) -> tuple[Space, float]:
    """All images with their distances, and the power to which re-ranking raises these."""
    query, gallery, measure = comparison.query, comparison.gallery, comparison.measure
    if isinstance(measure, Metric):  # torchreid squares its distances, which are squared already
        sets = query.features, gallery.features
        return FeatureSpace.of(*sets, metric=measure.name, **comparison.search), 2
    images = query.join(gallery)

    def rows(block: slice) -> Tensor:
        return measure(images.select(block), images)

    options = {"bytes_per_pair": measure.bytes_per_pair, "memory_limit": comparison.memory_limit}
    return RowSpace(rows, len(images), **options), 1
