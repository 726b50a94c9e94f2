"""Appearance and time as one distance.

``official``: the logistic product of ST-ReID, see ``spatiotemporal.joint_similarity``; time breaks ties.
``loglikelihood``: ``cos + weight * log(l + 1e-5)``, with the likelihood l of the time between the images.
``ratio``: ``cos + weight * log((l + 1e-5) / (b + 1e-5))``, with the density b of that time between images of
different people: what time tells about *who* it is, free of when the cameras were busy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from torchreid_genext.retrieval.sets import RetrievalSet, Sightings
from torchreid_genext.retrieval.spatiotemporal import SpatioTemporalModel, joint_similarity

__all__ = ["FORMS", "TimedMeasure"]

FORMS = ("official", "loglikelihood")
_FLOOR = 1e-5  # a likelihood that no training identity has shown is small, not zero


@dataclass(frozen=True, eq=False)
class TimedMeasure:
    """Distance ``1 - similarity`` of appearance and time.

    Attributes:
        model: how long people take between cameras.
        form: see the module.
        weight: of time in the logarithmic forms.
        alpha: slope of both factors in the official form.
    """

    model: SpatioTemporalModel
    form: str = "loglikelihood"
    weight: float = 0.05
    alpha: float = 5.0

    bytes_per_pair = 48

    @classmethod
    def fit(
        cls,
        train: Sightings | None,
        *,
        form: str = "loglikelihood",
        weight: float = 0.05,
        alpha: float = 5.0,
        **settings: float,
    ) -> TimedMeasure:
        """Learn from the training split; `settings` are those of ``SpatioTemporalModel.fit``.

        Raises:
            ValueError: if there is no training split.
        """
        if train is None:
            raise ValueError("expected times of the training split for a spatio-temporal step, got none")
        model = SpatioTemporalModel.fit(train.pids, train.camids, train.frames, **settings)
        return cls(model, form, weight, alpha)

    def __call__(self, x: RetrievalSet, y: RetrievalSet) -> Tensor:
        if x.frames is None or y.frames is None:
            raise ValueError("expected frames in both sets for a spatio-temporal step, got none")
        visual = normalize(x.features) @ normalize(y.features).t()
        where = x.camids, x.frames, y.camids, y.frames
        if self.form == "official":
            return 1 - joint_similarity(visual, self.model.likelihood(*where)).float()
        curves = self.weight * (self.model.curves + _FLOOR).log()
        floor = self.weight * torch.tensor(_FLOOR).log()
        return 1 - visual.add_(self.model.lookup(curves.float(), float(floor), *where))
