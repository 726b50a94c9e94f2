"""What the denoiser is told: references, poses, and in which steps it is guided away from nobody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from torchreid_genext.generators.ipg.attention import Seen

__all__ = ["Condition", "Conditions", "Guidance", "Poses", "References"]


@dataclass(frozen=True)
class References:
    """Reference images as the denoiser takes them in, a row each; worth keeping, for they serve every pose.

    Attributes:
        tokens: of their identities, (R, N, width).
        nobody: tokens of a grey picture, (1, N, width), which stand for no identity.
        seen: keys and values of what the reference U-Net has seen in them.
    """

    tokens: Tensor
    nobody: Tensor
    seen: Seen

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: Tensor) -> References:
        """References in the order of these rows (N,) int64."""
        return References(self.tokens[rows], self.nobody, self.seen[rows])


@dataclass(frozen=True)
class Poses:
    """Poses as the denoiser takes them in, a row each; worth keeping, for they serve every reference.

    Attributes:
        features: (P, channels, h, w).
        height, width: of the images that are generated from them, in pixels.
    """

    features: Tensor
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: Tensor) -> Poses:
        """Poses in the order of these rows (N,) int64."""
        return Poses(self.features[rows], self.height, self.width)


class Condition(NamedTuple):
    """What the denoiser is told in a step; under guidance, of nobody first and then of the person."""

    tokens: Tensor
    pose: Tensor
    seen: Seen | None


@dataclass(frozen=True)
class Guidance:
    """When predictions are guided, and how far; up to a scale of 1 they are not."""

    scale: float
    interval: tuple[float, float]
    official: bool

    def __post_init__(self) -> None:
        start, end = self.interval
        if not 0 <= start <= end <= 1:
            raise ValueError(f"expected a guidance interval in 0..1, got {self.interval}")

    def of_step(self, step: int, steps: int) -> float | None:
        """The scale, or None."""
        start, end = self.interval
        inside = start <= step / max(steps - 1, 1) <= end
        return self.scale if self.scale > 1 and inside else None


class Conditions:
    """The conditions of steps with guidance and of those without."""

    def __init__(self, references: References, pose: Tensor, guidance: Guidance) -> None:
        nobody, people = references.nobody.expand(len(references), -1, -1), references.tokens
        self._guidance = guidance
        self._guided = Condition(torch.cat([nobody, people]), torch.cat([pose, pose]), references.seen)
        self._plain = Condition(people, pose, references.seen)
        if guidance.official and guidance.scale <= 1:
            self._plain = Condition(nobody, pose, None)

    def of_step(self, step: int, steps: int) -> tuple[Condition, float | None]:
        """What holds, and the scale of guidance if there is any."""
        scale = self._guidance.of_step(step, steps)
        return (self._plain if scale is None else self._guided), scale
