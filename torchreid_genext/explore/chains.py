"""A chain put together by controls: which steps, and their constants."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from torchreid_genext.retrieval.chain import Chain
from torchreid_genext.retrieval.steps import STEPS, Step

__all__ = ["Controls"]


@dataclass(frozen=True)
class Controls:
    """What somebody has chosen.

    Attributes:
        cameras: take from each feature what its camera does to all.
        tracklets: first merge what one camera saw within moments.
        nfc: average with mutual neighbours. k1, k2: how many, and how mutual. neighbours: who can be one.
        time: join time to the distance. weight: of it.
        rerank: by k-reciprocal neighbours. rerank_k1: how many.
    """

    cameras: bool = False
    tracklets: bool = False
    nfc: bool = True
    k1: int = 2
    k2: int = 2
    neighbours: str = "any"
    time: bool = False
    weight: float = 0.07
    rerank: bool = False
    rerank_k1: int = 20

    def chain(self) -> Chain:
        """The steps in the order in which the package's best chains have them.

        Raises:
            ValueError: if a constant is out of range.
        """
        wanted = {
            "camera_norm": {} if self.cameras else None,
            "tracklets": {} if self.tracklets else None,
            "nfc": {"k1": self.k1, "k2": self.k2, "neighbours": self.neighbours} if self.nfc else None,
            "l2": {} if self.rerank and not self.nfc else None,
            "st": {"weight": self.weight} if self.time else None,
            "rerank": {"k1": self.rerank_k1} if self.rerank else None,
        }
        return Chain(tuple(_step(name, **fields) for name, fields in wanted.items() if fields is not None))

    @staticmethod
    def possible(known: Container[str]) -> dict[str, bool]:
        """Which switches the data allow.

        Args:
            known: what there is, keys of ``steps.base.NEEDS``.
        """
        steps = {"cameras": "camera_norm", "tracklets": "tracklets", "time": "st"}
        return {switch: all(n in known for n in _step(name).needs) for switch, name in steps.items()}


def _step(name: str, **fields: object) -> Step:
    return STEPS[name](**fields)
