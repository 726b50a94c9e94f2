"""L2-normalisation as a step."""

from __future__ import annotations

from dataclasses import dataclass

from torchreid_genext.retrieval._numerics import unit
from torchreid_genext.retrieval.comparison import Comparison
from torchreid_genext.retrieval.steps.base import Step, on_each

__all__ = ["Normalize"]


@dataclass(frozen=True)
class Normalize(Step):
    """L2-normalise the features of both sets."""

    name = "l2"

    def __call__(self, comparison: Comparison) -> Comparison:
        return on_each(comparison, "both", lambda images: unit(images.features))
