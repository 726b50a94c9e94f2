"""What the Deformable GAN learns: to draw the person of one image in the pose of another image of them.

Siarohin et al., "Deformable GANs for Pose-based Human Image Generation", CVPR 2018: an adversarial loss, and
one that compares features with the most similar ones nearby, so that a pattern may lie a little aside. Adam
at 2e-4 with betas 0.5 and 0.999, 90,000 steps of 4 pairs on Market-1501. The authors draw other pairs for the
generator than for the discriminator; here both see those of the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from torchreid_genext import visualization
from torchreid_genext.generators._deformable_warp import Fetched
from torchreid_genext.generators.deformable import (
    DeformableGAN,
    Discriminator,
    OrientedGradients,
    deceiving_loss,
    discriminating_loss,
    nearest_neighbour_map,
)
from torchreid_genext.training.identity import to_float
from torchreid_genext.training.task import Batches, Phase

__all__ = ["RECONSTRUCTIONS", "DeformableTask", "with_geometry"]

RECONSTRUCTIONS = ("nearest_neighbour", "l1")
_L1_WEIGHT = 100.0


class DeformableTask:
    """Generator and discriminator, one update of each a step.

    Args:
        generator, discriminator: trained in place.
        optimizer: of the generator's parameters. discriminator_optimizer: of the discriminator's.
        reconstruction: what keeps images near the truth: ``nearest_neighbour``, or ``l1``, the mean absolute
            difference (the authors' baseline).
        features: images (B, 3, H, W) in [-1, 1] to what is compared, frozen; None for `OrientedGradients`,
            or for the images themselves if by ``l1``. Officially `VGG19Features`.
        window: side of the square in which the nearest neighbour is looked for, in pixels of the features.
        weight: of the reconstruction; None for the ``weight`` of the features, or 100 if by ``l1``, which
            officially is 0.5 on features.
        examples: pairs to draw, as batches have them; None for no pictures.

    Raises:
        ValueError: if the reconstruction is unknown.
    """

    def __init__(
        self,
        generator: DeformableGAN,
        discriminator: Discriminator,
        optimizer: Optimizer,
        discriminator_optimizer: Optimizer,
        *,
        reconstruction: str = "nearest_neighbour",
        features: nn.Module | None = None,
        window: int = 3,
        weight: float | None = None,
        examples: Any = None,
    ) -> None:
        if reconstruction not in RECONSTRUCTIONS:
            choices = ", ".join(RECONSTRUCTIONS)
            raise ValueError(f"unknown reconstruction {reconstruction!r}; choose from {choices}")
        self.nearest, self.window, self.examples = reconstruction != "l1", window, examples
        features = features or (OrientedGradients() if self.nearest else nn.Identity())
        self.weight = weight if weight is not None else features.weight if self.nearest else _L1_WEIGHT
        self.modules: dict[str, nn.Module] = {
            "generator": generator, "discriminator": discriminator, "features": features
        }  # fmt: skip
        self.phases = {
            "discriminator": Phase(discriminator_optimizer, ("discriminator",)),
            "generator": Phase(optimizer, ("generator",)),
        }

    def loss(self, phase: str, batch: Any, random: Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        """As `Task.loss`.

        Args:
            batch: uint8 `images` and `others` of the same people, and `keypoints` and `other_keypoints`,
                (B, 18, 2) of (y, x) pixels; and, if it is of `with_geometry`, the `geometry` of these.
        """
        pairs = _Pairs.of(batch)
        with torch.set_grad_enabled(phase == "generator"):
            made = self.modules["generator"](pairs.images, pairs.keypoints, pairs.targets, pairs.geometry)
        fake = self._judged(pairs, made)
        if phase == "discriminator":
            real = self._judged(pairs, pairs.others)
            return discriminating_loss(real, fake), {"real": real.mean(), "fake": fake.mean()}
        deceiving, error = deceiving_loss(fake), self._error(pairs.others, made)
        return deceiving + self.weight * error, {"adversarial": deceiving, "reconstruction": error}

    def _judged(self, pairs: _Pairs, others: Tensor) -> Tensor:
        return self.modules["discriminator"](pairs.images, pairs.keypoints, others, pairs.targets)

    def _error(self, real: Tensor, made: Tensor) -> Tensor:
        features = self.modules["features"]
        with torch.no_grad():
            wanted = features(real)
        found = features(made)
        if self.nearest:
            return nearest_neighbour_map(wanted, found, window=self.window).mean()
        return F.l1_loss(found.float(), wanted.float())

    def pictures(self, random: Generator) -> dict[str, Image.Image]:
        """As `Task.pictures`: references, poses that are wanted, what is generated, and what it should be."""
        if self.examples is None:
            return {}
        generator, pairs = self.modules["generator"], _Pairs.of(self.examples).to(random.device)
        made = generator.generate(pairs.images, pairs.keypoints, pairs.targets)
        poses = generator.draw(pairs.targets).amax(1, keepdim=True).expand_as(made)
        rows = [(pairs.images + 1) / 2, poses, (made + 1) / 2, (pairs.others + 1) / 2]
        return {"people": visualization.image_grid(torch.stack(rows).cpu().numpy())}


class _Pairs(NamedTuple):
    """Images and others (B, 3, H, W) in [-1, 1], their joints (B, 18, 2), and what is known of these."""

    images: Tensor
    keypoints: Tensor
    others: Tensor
    targets: Tensor
    geometry: Sequence[Fetched] | None = None

    @classmethod
    def of(cls, batch: Any) -> _Pairs:
        images, others = (2 * to_float(each) - 1 for each in (batch.images, batch.others))
        geometry = getattr(batch, "geometry", None)
        return cls(images, batch.keypoints, others, batch.other_keypoints, geometry)

    def to(self, device: torch.device) -> _Pairs:
        return _Pairs(*(each.to(device) for each in self[:4]))


class _Known(NamedTuple):
    """A batch of pairs, and the geometry of its poses."""

    images: Tensor
    keypoints: Tensor
    others: Tensor
    other_keypoints: Tensor
    geometry: tuple[Fetched, ...]


def with_geometry(pairs: Batches, generator: DeformableGAN) -> Batches:
    """Batches of pairs with the geometry of their poses, which both phases of a step would compute alike.

    Args:
        pairs: whose joints are on the CPU, where the geometry is computed while an accelerator has work.
        generator: whose geometry it is.
    """

    def since(first: int, rank: int, world: int) -> Iterator[_Known]:
        for batch in pairs(first, rank, world):
            geometry = generator.geometry(batch.keypoints, batch.other_keypoints)
            yield _Known(batch.images, batch.keypoints, batch.others, batch.other_keypoints, geometry)

    return since
