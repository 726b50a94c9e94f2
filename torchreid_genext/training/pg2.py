"""What PG2 learns: first a coarse image of a person in another pose, then what it lacks.

"Pose Guided Person Image Generation" (Ma et al., NIPS 2017): each stage is a training of its own, with Adam
at 2e-5 and betas 0.5 and 0.999; stage I rests while stage II is trained against the discriminator.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from torchreid_genext import visualization
from torchreid_genext.generators.pg2 import (
    PG2,
    Discriminator,
    discriminator_loss,
    pose_maps,
    pose_mask,
    reconstruction_loss,
    refinement_loss,
)
from torchreid_genext.training.identity import to_float
from torchreid_genext.training.task import Phase

__all__ = ["StageOneTask", "StageTwoTask"]


def _pairs(batch: Any) -> tuple[Tensor, Tensor]:
    """References and targets (B, 3, H, W) in [-1, 1] of a batch."""
    return 2 * to_float(batch.images) - 1, 2 * to_float(batch.others) - 1


def _mask(generator: PG2, batch: Any) -> Tensor:
    """Where the targets' bodies are."""
    return pose_mask(batch.other_keypoints, generator.image_size, radius=generator.radius)


class StageOneTask:
    """Stage I.

    Args:
        generator: whose stage I is trained in place.
        optimizer: of that stage's parameters.
        examples: pairs to draw, as batches have them; None for no pictures.
    """

    def __init__(self, generator: PG2, optimizer: Optimizer, *, examples: Any = None) -> None:
        self.generator, self.examples = generator, examples
        self.modules: dict[str, nn.Module] = {"stage1": generator.stage1}
        self.phases = {"generator": Phase(optimizer, ("stage1",))}

    def loss(self, phase: str, batch: Any, random: Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        """As `Task.loss`; `batch` has uint8 `images`, `others` of the same people, and `other_keypoints`."""
        images, targets = _pairs(batch)
        made = self.generator.coarse(images, batch.other_keypoints)
        return reconstruction_loss(made, targets, _mask(self.generator, batch)), {}

    def pictures(self, random: Generator) -> dict[str, Image.Image]:
        """As `Task.pictures`: references, poses, stage I, and what it should be."""
        return {} if self.examples is None else {"people": _grid(self.generator, self.examples, random, 1)}


class StageTwoTask:
    """Stage II and its discriminator, while stage I is frozen.

    Args:
        generator: whose stage II is trained in place.
        discriminator: trained along; its arrangement says what it tells apart.
        optimizer: of stage II's parameters.
        discriminator_optimizer: of the discriminator's.
        reconstruction: weight of `reconstruction_loss` beside the adversarial one.
        examples: pairs to draw, as batches have them; None for no pictures.
    """

    def __init__(
        self,
        generator: PG2,
        discriminator: Discriminator,
        optimizer: Optimizer,
        discriminator_optimizer: Optimizer,
        *,
        reconstruction: float = 10.0,
        examples: Any = None,
    ) -> None:
        self.generator, self.examples, self.reconstruction = generator, examples, reconstruction
        self.modules: dict[str, nn.Module] = {
            "stage1": generator.stage1, "stage2": generator.stage2, "discriminator": discriminator
        }  # fmt: skip
        self.phases = {
            "generator": Phase(optimizer, ("stage2",)),
            "discriminator": Phase(discriminator_optimizer, ("discriminator",)),
        }
        self._seen: tuple[Any, Tensor | None] = None, None  # a batch and its coarse images

    def loss(self, phase: str, batch: Any, random: Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        """As `StageOneTask.loss`."""
        images, targets = _pairs(batch)
        coarse = self._coarse(batch, images)
        with torch.set_grad_enabled(phase == "generator"):
            refined = self.generator.refined(coarse, images)
        verdict = self.modules["discriminator"].judge(targets, images, coarse, refined)
        if phase == "discriminator":
            real, fake = (logits.float().sigmoid().mean() for logits in verdict[:2])
            return discriminator_loss(verdict), {"real": real, "fake": fake}
        mask = _mask(self.generator, batch)
        return refinement_loss(verdict.refined, refined, targets, mask, weight=self.reconstruction)

    def _coarse(self, batch: Any, images: Tensor) -> Tensor:
        """Of stage I, which both phases ask for; it is frozen, so its answer is the same."""
        if self._seen[0] is not batch:
            with torch.no_grad():
                self._seen = batch, self.generator.coarse(images, batch.other_keypoints)
        return self._seen[1]

    def pictures(self, random: Generator) -> dict[str, Image.Image]:
        """As `Task.pictures`: references, poses, stage I, stage II, and what it should be."""
        return {} if self.examples is None else {"people": _grid(self.generator, self.examples, random, 2)}


@torch.no_grad()
def _grid(generator: PG2, examples: Any, random: Generator, stages: int) -> Image.Image:
    """A column for each pair."""
    shown = type(examples)(*(each.to(random.device) for each in examples))
    images, targets = _pairs(shown)
    made = [generator.coarse(images, shown.other_keypoints)]
    if stages > 1:
        made.append(generator.refined(made[0], images))
    rows = [(each.float() + 1) / 2 for each in (images, *made, targets)]
    rows.insert(1, _drawn(generator, shown.other_keypoints))
    return visualization.image_grid(torch.stack(rows).cpu().numpy())


def _drawn(generator: PG2, keypoints: Tensor) -> Tensor:
    """What PG2 knows of poses (B, 18, 2): joints white, the body grey; (B, 3, H, W) in [0, 1]."""
    options = {"size": generator.image_size, "radius": generator.radius}
    joints = (pose_maps(keypoints, **options).amax(dim=1, keepdim=True) + 1) / 2
    return ((joints + pose_mask(keypoints, **options)) / 2).expand(-1, 3, -1, -1)
