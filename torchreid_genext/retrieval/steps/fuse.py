"""Generated images join the real ones: Pose2ID (Yuan et al., CVPR 2025), section 3.3."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from torchreid_genext.retrieval._blocks import blocks_within
from torchreid_genext.retrieval._numerics import unit
from torchreid_genext.retrieval.comparison import Comparison
from torchreid_genext.retrieval.neighbours import check_features
from torchreid_genext.retrieval.sets import RetrievalSet
from torchreid_genext.retrieval.steps.base import SIDES, Step, on_each, option

__all__ = ["Fuse", "fuse_generated"]

_IN_CACHE = 2**20  # bytes of directions made at a time


@dataclass(frozen=True)
class Fuse(Step):
    """Add features of generated images to those of the real ones; ``fuse(eta=2)+l2+nfc`` is Pose2ID's."""

    eta: float = option(1.0, "weight of the generated images")
    reduce: str = option("mean", "over the poses", choices=("mean", "sum"))
    side: str = option("both", "whose images", choices=SIDES[:3])
    normalize_before: bool = option(False, "L2 of every feature, so that long ones have no louder voice")

    name = "fuse"
    uses = ("generated images",)

    @property
    def sides(self) -> tuple[str, ...]:
        """Which sets need generated features."""
        return ("query", "gallery") if self.side == "both" else (self.side,)

    @property
    def needs(self) -> frozenset[str]:
        """Generated features of its sides."""
        return frozenset(f"generated {side}" for side in self.sides)

    def __call__(self, comparison: Comparison) -> Comparison:
        return on_each(comparison, self.side, self._fused, self._left_alone)

    def _fused(self, images: RetrievalSet) -> Tensor:
        if not len(images):  # a shard may have no image
            return images.features
        return fuse_generated(
            images.features,
            images.generated,
            eta=self.eta,
            reduce=self.reduce,
            normalize_before=self.normalize_before,
        )

    def _left_alone(self, images: RetrievalSet) -> Tensor:
        return unit(images.features) if self.normalize_before else images.features


def fuse_generated(
    features: Tensor,
    generated: Tensor,
    *,
    eta: float = 1.0,
    reduce: str = "mean",
    normalize_before: bool = False,
) -> Tensor:
    """Add the features of generated images of the same person: ``f + eta * reduce_p g_p`` (Pose2ID, eq. 9).

    The paper sums over the images with eta 1; the official demo takes the mean of 8 with eta 2, on features
    that are not normalised.

    Args:
        features: of the real images, shape (N, D).
        generated: of P generated images for each, shape (N, P, D).
        eta: weight of the generated images, finite.
        reduce: ``mean`` or ``sum`` over the P images.
        normalize_before: L2-normalise every feature first, so that long ones have no louder voice.

    Returns:
        New tensor (N, D), float32, not normalised.

    Raises:
        ValueError: if the shapes do not belong together, a value is not finite, or ``reduce`` is unknown.
    """
    features = check_features(features)
    if generated.ndim != 3 or generated.shape[::2] != features.shape:
        expected = f"({features.shape[0]}, P, {features.shape[1]})"
        raise ValueError(f"expected generated features of shape {expected}, got {tuple(generated.shape)}")
    generated = check_features(generated.flatten(1), "generated features").view(generated.shape)
    if reduce not in ("mean", "sum"):
        raise ValueError(f"unknown reduce {reduce!r}; choose from mean, sum")
    if not math.isfinite(eta):
        raise ValueError(f"expected a finite eta, got {eta}")
    if normalize_before:
        features, total = unit(features), _sum_of_directions(generated)
    else:
        total = generated.sum(1)
    return features + eta * (total / generated.shape[1] if reduce == "mean" else total)


def _sum_of_directions(generated: Tensor) -> Tensor:
    """``unit(generated).sum(1)`` without a second (N, P, D)."""
    total = generated.new_empty(len(generated), generated.shape[2])
    for rows in blocks_within(len(generated), 8 * generated[0].numel(), _IN_CACHE):
        total[rows] = unit(generated[rows]).sum(1)
    return total
