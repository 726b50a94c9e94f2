"""What CamStyle learns: images of one camera as others would have taken them, without pairs to learn from.

The losses are CycleGAN's: a discriminator that does not tell generated images from those of the target camera
(least squares), back to the source gives the image, and towards its own camera it stays. One task serves the
model of all cameras and the authors' model of two. Losses are means over the batch, where the authors add up
the means of both cameras; with Adam that is nearly alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from torchreid_genext import visualization
from torchreid_genext.generators.camstyle import ImagePool, least_squares
from torchreid_genext.processes import on_the_host, own_rows
from torchreid_genext.training.identity import Augment, to_float
from torchreid_genext.training.task import Phase

__all__ = ["CameraStyleTask", "EnlargedCrop", "Style", "rate_factor"]


class Style(Protocol):
    """What the task needs to know of a generator, such as `CameraStyle` or `CameraPair`.

    Attributes:
        cameras: which it knows.
        image_size: height and width.
    """

    cameras: tuple[int, ...]
    image_size: tuple[int, int]

    def __call__(self, images: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] of cameras (B,) in the style of others (B,)."""

    def generate(self, images: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """The same without gradients and with values in [-1, 1]."""


def rate_factor(epoch: int, *, constant: int = 30, decay: int = 20) -> float:
    """By what the authors multiply the learning rate in an epoch, counted from 0; a value in 0 .. 1.

    The rate falls in a straight line to zero, which their last epoch has already; the first of `decay` epochs
    less than full is the last of the `constant` ones.
    """
    return 1.0 - max(0, epoch + 2 - constant) / (decay + 1)


@dataclass(frozen=True)
class EnlargedCrop:
    """The authors' augmentation: enlarge, cut out a piece of the old size anywhere, and mirror half of them.

    Attributes:
        scale: of the enlargement; officially 286 / 256.
    """

    scale: float = 286 / 256

    def __post_init__(self) -> None:
        if not 1 <= self.scale <= 2:
            raise ValueError(f"expected a scale in 1..2, got {self.scale}")

    def __call__(self, images: Tensor, random: Generator) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to the same; every image has its own place."""
        size = tuple(images.shape[2:])
        large = [round(self.scale * side) for side in size]
        wide = F.interpolate(images, large, mode="bicubic", align_corners=False).clamp(0, 1)
        windows = wide.unfold(2, size[0], 1).unfold(3, size[1], 1)  # (B, 3, places, places, H, W)

        def draw(count: int) -> Tensor:
            return torch.rand(3, count, generator=random, device=random.device)

        mirrored, down, right = own_rows(draw, len(images), random, dim=1).to(images.device)
        places = [(draws * count).long() for draws, count in zip((down, right), windows.shape[2:4])]
        everyone = torch.arange(len(images), device=images.device)
        cut = windows[(everyone, slice(None), *places)]
        return torch.where((mirrored < 0.5)[:, None, None, None], cut.flip(-1), cut)


class CameraStyleTask:
    """Generator and discriminator, one update of each in a step.

    Args:
        style: the generator, trained in place.
        discriminator: (images, cameras) to answers (B, h, w).
        optimizer: of the generator's parameters.
        discriminator_optimizer: of the discriminator's.
        augment: of the images.
        pool: how many generated images are remembered; officially 50, and at least a batch; 0: none.
        cycle: weight of the way there and back; officially 10.
        identity: weight of staying as it is towards its own camera, times `cycle`; officially 0.5.
        examples: what is drawn in pictures: uint8 images (E, 3, H, W), and their cameras (E,).

    Raises:
        ValueError: if a weight is negative, or a camera of the examples is none of the generator's.
    """

    def __init__(
        self,
        style: Style,
        discriminator: nn.Module,
        optimizer: Optimizer,
        discriminator_optimizer: Optimizer,
        *,
        augment: Augment,
        pool: int = 50,
        cycle: float = 10.0,
        identity: float = 0.5,
        examples: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        _check_weights(cycle=cycle, identity=identity, pool=pool)
        self.modules: dict[str, nn.Module] = {
            "generator": style, "discriminator": discriminator, "pool": ImagePool(pool, style.image_size)
        }  # fmt: skip
        self.phases = {
            "generator": Phase(optimizer, ("generator",)),
            "discriminator": Phase(discriminator_optimizer, ("discriminator", "pool")),
        }
        self.augment, self.cycle, self.identity = augment, cycle, identity
        self.known, self.examples = torch.tensor(sorted(style.cameras)), examples
        self._seen: tuple[Any, Tensor | None] = None, None  # a batch and its cameras
        if examples is not None:
            self._check(examples[1])

    def loss(self, phase: str, batch: Any, random: Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        """As `Task.loss`; `batch` has uint8 `images` and their `camids`.

        Raises:
            ValueError: if a camera is none of the generator's.
        """
        source = self._source(batch)
        images = 2 * self.augment(to_float(batch.images), random) - 1
        target = self._others(source, random)
        if phase == "generator":
            return self._of_generator(images, source, target)
        return self._of_discriminator(images, source, target, random)

    def _source(self, batch: Any) -> Tensor:
        """The cameras of a batch, on the CPU: who draws what depends on them. Both phases ask, one waits."""
        if self._seen[0] is not batch:
            self._seen = batch, batch.camids.cpu()
            self._check(self._seen[1])
        return self._seen[1]

    def _others(self, source: Tensor, random: Generator) -> Tensor:
        """A camera for each image, any but its own."""
        own, host = torch.searchsorted(self.known, source), on_the_host(random)

        def draw(count: int) -> Tensor:
            return torch.randint(1, len(self.known), (count,), generator=host)

        steps = own_rows(draw, len(source), random)
        return self.known[(own + steps) % len(self.known)]

    def _of_generator(
        self, images: Tensor, source: Tensor, target: Tensor
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        style, discriminator = self.modules["generator"], self.modules["discriminator"]
        made, same = style(
            torch.cat([images, images]), torch.cat([source, source]), torch.cat([target, source])
        ).chunk(2)
        parts = {
            "adversarial": least_squares(discriminator(made, target), True),
            "cycle": _difference(style(made, target, source), images),
            "identity": _difference(same, images),
        }
        kept = parts["cycle"] + self.identity * parts["identity"]
        return parts["adversarial"] + self.cycle * kept, parts

    def _of_discriminator(
        self, images: Tensor, source: Tensor, target: Tensor, random: Generator
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        with torch.no_grad():
            made = self.modules["generator"](images, source, target)
        made, target = self.modules["pool"].exchange(made, target.to(made.device), random)
        judge = self.modules["discriminator"]
        real, fake = judge(images, source), judge(made, target)
        loss = 0.5 * (least_squares(real, True) + least_squares(fake, False))
        return loss, {"real": real.mean(), "fake": fake.mean()}

    def _check(self, cameras: Tensor) -> None:
        if unknown := sorted(set(cameras.tolist()) - set(self.known.tolist())):
            raise ValueError(f"expected images of cameras {self.known.tolist()}, got one of {unknown[0]}")

    def pictures(self, random: Generator) -> dict[str, Image.Image]:
        """As `Task.pictures`: a row for each image; first as it is, then a column for each camera."""
        if self.examples is None:
            return {}
        images, cameras = (each.to(random.device) for each in self.examples)
        shown = 2 * to_float(images) - 1
        columns = [shown]
        for camera in self.known.tolist():
            target = torch.full_like(cameras, camera)
            columns.append(self.modules["generator"].generate(shown, cameras, target))
        grid = torch.stack(columns, dim=1).cpu()
        return {"cameras": visualization.image_grid((grid.numpy() + 1) / 2)}


def _difference(made: Tensor, images: Tensor) -> Tensor:
    return (made.float() - images.float()).abs().mean()


def _check_weights(**values: float) -> None:
    for name, value in values.items():
        if value < 0:
            raise ValueError(f"expected {name} >= 0, got {value}")
