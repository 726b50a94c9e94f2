"""Time joins the distance: ST-ReID (Wang et al., AAAI 2019) as a step."""

from __future__ import annotations

from dataclasses import dataclass

from torchreid_genext.retrieval.comparison import Comparison
from torchreid_genext.retrieval.sets import Training
from torchreid_genext.retrieval.spatiotemporal import FORMS, TimedMeasure
from torchreid_genext.retrieval.steps.base import Step, option

__all__ = ["SpatioTemporal"]


@dataclass(frozen=True)
class SpatioTemporal(Step):
    """Compare images by appearance and by how likely the time between them is."""

    form: str = option("ratio", "how time joins appearance", choices=FORMS)
    weight: float = option(0.07, "of time, in the logarithmic forms", least=0)
    floor: float = option(1e-4, "likelihood of what no training identity has shown, there", above=0)
    alpha: float = option(5.0, "slope of both factors in the official form", above=0)
    interval: int = option(100, "frames per bin", least=1)
    bins: int = option(5000, "how many; longer lags count in the last", least=1)
    sigma: float | None = option(None, "of the smoothing, in bins; None: 50 if official, else 5", least=0)

    name = "st"
    measures = True
    uses = ("camera ids", "time stamps")
    needs = frozenset({"cameras", "frames", "training times"})

    def __call__(self, comparison: Comparison) -> Comparison:
        return comparison.with_measure(self.fit(comparison.train))

    def fit(self, train: Training | None) -> TimedMeasure:
        """The distance, learnt from a training split."""
        return TimedMeasure.fit(train, **vars(self))
