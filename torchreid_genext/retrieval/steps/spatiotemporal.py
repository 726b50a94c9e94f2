"""Time joins the distance: ST-ReID (Wang et al., AAAI 2019) as a step."""

from __future__ import annotations

from dataclasses import dataclass

from torchreid_genext.retrieval.comparison import Comparison
from torchreid_genext.retrieval.sets import Sightings
from torchreid_genext.retrieval.spatiotemporal import FORMS, TimedMeasure
from torchreid_genext.retrieval.steps.base import check_choice

__all__ = ["SpatioTemporal"]


@dataclass(frozen=True)
class SpatioTemporal:
    """Compare images by appearance and by how likely the time between them is (ST-ReID, AAAI 2019).

    Attributes:
        form: how time joins appearance, ``ratio``, ``loglikelihood`` or ``official``: see ``retrieval.spatiotemporal``.
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
