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
    """In which steps predictions are guided, and what is made of them; up to a scale of 1 they are not.

    Attributes:
        interval: share of the steps, from the first at 0 to the last at 1.
        rescale: how far the spread of a guided prediction goes back to that of the person's, 0 .. 1.

    Raises:
        ValueError: if one is out of its range.
    """

    interval: tuple[float, float]
    rescale: float

    def __post_init__(self) -> None:
        start, end = self.interval
        if not 0 <= start <= end <= 1:
            raise ValueError(f"expected a guidance interval in 0..1, got {self.interval}")
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"expected guidance_rescale in 0..1, got {self.rescale}")

    def holds(self, scale: float, step: int, steps: int) -> bool:
        """Whether a step is guided."""
        start, end = self.interval
        return scale > 1 and start <= step / max(steps - 1, 1) <= end

    def of(self, predicted: Tensor, scale: float) -> Tensor:
        """From predictions (2 B, C, h, w), for nobody and then for the person, the guided (B, C, h, w)."""
        nobody, person = predicted.chunk(2)
        guided = nobody + scale * (person - nobody)
        if not self.rescale:
            return guided
        spread, wanted = (each.std(dim=(1, 2, 3), keepdim=True) for each in (guided, person))
        return self.rescale * (guided * wanted / spread) + (1 - self.rescale) * guided


class Conditions:
    """The conditions of steps with guidance and of those without.

    Args:
        references: one for each image.
        pose: features (B, channels, h, w).
        unseen: without guidance, tell of nobody and not of the person.

    Attributes:
        tokens: of nobody and of the people, (2, B, N, width); a callback may leave the people's alone.
    """

    def __init__(self, references: References, pose: Tensor, *, unseen: bool) -> None:
        people = references.tokens
        self.tokens = torch.stack([references.nobody.expand_as(people), people])
        self._pose, self._twice, self._seen = pose, torch.cat([pose, pose]), references.seen
        self._unseen = unseen

    def guided(self) -> Condition:
        """Of nobody, and then of the people."""
        nobody, people = self.tokens[0], self.tokens[-1]
        return Condition(torch.cat([nobody, people]), self._twice, self._seen)

    def plain(self) -> Condition:
        """Of the people alone."""
        if self._unseen:
            return Condition(self.tokens[0], self._pose, None)
        return Condition(self.tokens[-1], self._pose, self._seen)
