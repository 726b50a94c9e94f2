"""Two distances of one chain as one: of the features as they are halfway, and as they are in the end."""

from __future__ import annotations

from dataclasses import dataclass

from torchreid_genext.retrieval.comparison import Comparison
from torchreid_genext.retrieval.steps.base import Step, option

__all__ = ["Blend"]


@dataclass(frozen=True)
class Blend(Step):
    """Let the distance of the features as they are here have a share in the distance of the whole chain.

    Steps that gather neighbours find more of a person, and put a neighbour before the person now and then; the
    distance without them knows better who comes first. The measure is one: a later ``st`` joins both.
    """

    weight: float = option(0.35, "share of the features as they are here", least=0, most=1)

    name = "blend"

    def __call__(self, comparison: Comparison) -> Comparison:
        return comparison.blended(self.weight)
