"""Appearance and time as one distance.

``official``: the logistic product of ST-ReID, see ``spatiotemporal.joint_similarity``; time breaks ties.
``loglikelihood``: ``cos + weight * log(l + floor)``, with the likelihood l of the time between the images.
``ratio``: ``cos + weight * log((l + floor) / (b + floor))``, with the density b of that time between images
of different people: what the time says of who it is, not of when the cameras were busy. Both densities are
over both directions of a pair of cameras.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import normalize

from torchreid_genext.retrieval.sets import RetrievalSet, Sightings
from torchreid_genext.retrieval.spatiotemporal import SpatioTemporalModel

__all__ = ["FORMS", "TimedMeasure"]

FORMS = ("ratio", "loglikelihood", "official")
_SIGMA = {"official": 50.0, "loglikelihood": 5.0, "ratio": 5.0}  # bins; a logarithm bears sharper curves


@dataclass(frozen=True, eq=False)
class TimedMeasure:
    """Distance ``1 - similarity`` of appearance and time.

    Attributes:
        model: how long people take between cameras.
        form: see the module.
        weight: of time in the logarithmic forms.
        floor: a likelihood that no training identity has shown is small, not zero; > 0.
        alpha: slope of both factors in the official form.
    """

    model: SpatioTemporalModel
    form: str = "ratio"
    weight: float = 0.07
    floor: float = 1e-4
    alpha: float = 5.0

    bytes_per_pair = 12

    @classmethod
    def fit(
        cls, train: Sightings | None, *, form: str = "ratio", sigma: float | None = None,
        interval: int = 100, bins: int = 5000, **options: float,
    ) -> TimedMeasure:
        """Learn from the training split.

        Args:
            train: who was where when.
            form: see the module.
            sigma: of the smoothing, in bins; None: 50 in the official form, else 5.
            interval, bins: see ``SpatioTemporalModel.fit``.
            options: the further attributes.

        Raises:
            ValueError: if there is no training split.
        """  # fmt: skip
        if train is None:
            raise ValueError("expected times of the training split for a spatio-temporal step, got none")
        sigma = _SIGMA[form] if sigma is None else sigma
        where = train.pids, train.camids, train.frames
        model = SpatioTemporalModel.fit(*where, interval=interval, bins=bins, sigma=sigma)
        return cls(model, form, **options)

    def __call__(self, x: RetrievalSet, y: RetrievalSet) -> Tensor:
        if x.frames is None or y.frames is None:
            raise ValueError("expected frames in both sets for a spatio-temporal step, got none")
        # Blocks are of few rows of x, so a normalised copy of all of y would cost more than they do.
        visual = normalize(x.features) @ y.features.t()
        visual /= y.features.norm(dim=1)
        where = x.camids, x.frames, y.camids, y.frames
        if self.form == "official":
            return 1 - visual.mul_(self.alpha).sigmoid_().mul_(self.model.lookup(*self._factors, *where))
        return visual.neg_().add_(self.model.lookup(*self._costs, *where))

    @functools.cached_property
    def _factors(self) -> tuple[Tensor, float]:
        """What time multiplies in the official form: its factor for each lag, not for each pair of images."""
        factors = 1 / (1 + 2 * (-self.alpha * self.model.curves).exp())
        return factors.float(), 1 / 3

    @functools.cached_property
    def _costs(self) -> tuple[Tensor, float]:
        """What time adds to the distance, 0 at least; and for cameras that nobody walked between."""
        if self.form == "ratio":
            logarithm = self.model.log_ratio(self.floor)
            never = float(logarithm.min())
        else:
            logarithm = (self.model.curves + self.floor).log()
            never = math.log(self.floor)
        # Distances start at 0, as re-ranking, which squares and divides them, expects.
        best = max(float(logarithm.max()), never)
        costs = self.weight * (best - logarithm) + 1
        return costs.float(), self.weight * (best - never) + 1
