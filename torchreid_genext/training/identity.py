"""What GenerativePersonReID learns, generator and code prior; and our way, without a table of identities.

Losses are means over the batch, where the authors sum over pixels and batch; with Adam that is nearly alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from torchreid_genext import visualization
from torchreid_genext.generators.identity import IdentityGenerator, denoising_loss
from torchreid_genext.generators.inverter import Inverter
from torchreid_genext.generators.prior import CodePrior, prior_loss
from torchreid_genext.processes import own_rows
from torchreid_genext.training.task import Phase

__all__ = [
    "Augment", "CrossTask", "GeneratorTask", "IdentityLosses", "PriorTask", "check_share",
    "soft_margin_triplet", "times_and_noise", "to_float",
]  # fmt: skip

Augment = Callable[[Tensor, Generator], Tensor]  # images (B, 3, H, W) in [0, 1] to the same
_SHOWN = 6  # people and noises in a picture


def to_float(images: Tensor) -> Tensor:
    """uint8 to [0, 1]."""
    return images.float() / 255


def times_and_noise(like: Tensor, random: Generator) -> tuple[Tensor, Tensor]:
    """Times (B,) in 0 .. 1, and standard normal noise of the shape of `like` (B, ...)."""
    options: dict[str, Any] = {"generator": random, "device": like.device}
    t = own_rows(lambda count: torch.rand(count, **options), len(like), random)
    return t, own_rows(lambda count: torch.randn(count, *like.shape[1:], **options), len(like), random)


def check_share(denoised: float) -> float:
    """The share of a batch that is denoised, in 0 .. 1; the least is one image."""
    if not 0 < denoised <= 1:
        raise ValueError(f"expected a share of denoised images in 0..1, without 0, got {denoised}")
    return denoised


class GeneratorTask:
    """Denoiser and table of identities, trained together.

    Args:
        generator: trained in place.
        optimizer: of its parameters.
        augment: of the images; officially the flip alone.
        loss: ``l2``, or ``l1`` (official).
        pull: weight of the mean squared code; officially 0.5 / (height width).
    """

    def __init__(
        self,
        generator: IdentityGenerator,
        optimizer: Optimizer,
        *,
        augment: Augment,
        loss: str = "l2",
        pull: float = 0.5 / 2048,
    ) -> None:
        self.modules: dict[str, nn.Module] = {"generator": generator}
        self.phases = {"denoise": Phase(optimizer, ("generator",))}
        self.augment, self.kind, self.pull = augment, loss, pull

    def loss(self, phase: str, batch: Any, random: Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        """As `Task.loss`; `batch` has uint8 `images` and their `labels`."""
        generator = self.modules["generator"]
        images = self.augment(to_float(batch.images), random)
        code = generator.table(batch.labels)
        error = denoising_loss(
            generator, images, code, *times_and_noise(images, random), loss=self.kind
        ).mean()
        size = code.square().mean()
        return error + self.pull * size, {"denoising": error, "code": size}

    def pictures(self, random: Generator) -> dict[str, Image.Image]:
        """As `Task.pictures`: people along rows, noises along columns."""
        generator = self.modules["generator"]
        return {"identities": _grid(generator, generator.trained_codes()[:_SHOWN], random)}


def _grid(generator: IdentityGenerator, codes: Tensor, random: Generator) -> Image.Image:
    """A row for each code, a column for each noise."""
    noise = torch.randn(_SHOWN, 3, *generator.image_size, generator=random, device=codes.device)
    images = generator(codes.repeat_interleave(_SHOWN, 0), noise.repeat(len(codes), 1, 1, 1))
    return visualization.image_grid(images.unflatten(0, (len(codes), _SHOWN)).cpu().numpy())


class PriorTask:
    """The distribution of codes.

    Args:
        prior: trained in place; its normaliser is fitted already.
        optimizer: of its parameters.
        generator: draws the pictures; frozen.
    """

    def __init__(self, prior: CodePrior, optimizer: Optimizer, generator: IdentityGenerator) -> None:
        self.modules: dict[str, nn.Module] = {"prior": prior, "generator": generator}
        self.phases = {"prior": Phase(optimizer, ("prior",))}

    def loss(self, phase: str, batch: Any, random: Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        """`batch` holds codes (B, D)."""
        error = prior_loss(self.modules["prior"], batch, *times_and_noise(batch, random)).mean()
        return error, {}

    def pictures(self, random: Generator) -> dict[str, Image.Image]:
        """As `Task.pictures`: people along rows, noises along columns."""
        prior, generator = self.modules["prior"], self.modules["generator"]
        noise = torch.randn(_SHOWN, prior.code_width, generator=random, device=random.device)
        return {"people": _grid(generator, prior(noise), random)}


def soft_margin_triplet(codes: Tensor, labels: Tensor, *, scale: float = 5.0) -> Tensor:
    """Triplet loss with the hardest images of the batch and a soft margin (Hermans et al., 2017).

    Args:
        codes: (B, D) of length 1, at most 2 apart.
        labels: (B,), each at least twice.
        scale: how sharply the loss bends at zero; 1 in the paper, whose distances are larger.
    """
    distance = (2 - 2 * codes @ codes.T).clamp_min(1e-6).sqrt()
    same = labels[:, None] == labels
    furthest = torch.where(same, distance, 0).amax(1)
    nearest = torch.where(same, torch.inf, distance).amin(1).clamp_max(2)
    return F.softplus(scale * (furthest - nearest)).mean()


@dataclass(frozen=True)
class IdentityLosses:
    """Losses of re-identification on codes, by a classifier behind a BatchNorm that inference leaves out.

    Attributes:
        classification: (logits (B, C), labels (B,)) -> loss.
        ranking: (codes of length 1 (B, D), labels (B,)) -> loss, such as the triplet loss.
        classification_weight: of the first. ranking_weight: of the second; 0 leaves a loss out.
    """

    classification: Callable[[Tensor, Tensor], Tensor]
    ranking: Callable[[Tensor, Tensor], Tensor]
    classification_weight: float = 1.0
    ranking_weight: float = 1.0

    def __call__(
        self, code: Tensor, labels: Tensor, classifier: nn.Module
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Codes (B, D) of labels (B,); the loss and its parts, in full precision."""
        with torch.autocast(code.device.type, enabled=False):
            code, parts = code.float(), {}
            if self.classification_weight:
                parts["classification"] = self.classification(classifier(code), labels)
            if self.ranking_weight:
                parts["ranking"] = self.ranking(F.normalize(code, dim=1), labels)
            weighted = [getattr(self, f"{name}_weight") * loss for name, loss in parts.items()]
            return sum(weighted, code.new_zeros(())), parts


class CrossTask:
    """Encoder and denoiser together, without a table: the code comes from another image of the same person.

    What the two images share is the person, so nothing else can pass through the code. Pose, light and
    background of the image that is denoised must come from its own noisy version.

    Args:
        inverter, generator: trained in place; the generator's table is not used.
        classifier: codes to logits, trained along.
        optimizer: of the parameters of all three.
        augment: of the images that the encoder sees. flip: of those that are denoised.
        denoised: share of the batch that is denoised, in 0 .. 1; the rest trains the code only.
        denoising: weight of the denoising loss.
        losses: of re-identification; None for none.
        examples: uint8 images (N, 3, H, W) of N people, whose codes are drawn in the pictures.
    """

    def __init__(
        self,
        inverter: Inverter,
        generator: IdentityGenerator,
        classifier: nn.Module,
        optimizer: Optimizer,
        *,
        augment: Augment,
        flip: Augment,
        denoised: float = 1.0,
        denoising: float = 1.0,
        losses: IdentityLosses | None = None,
        examples: Tensor,
    ) -> None:
        self.modules: dict[str, nn.Module] = {
            "inverter": inverter, "generator": generator, "classifier": classifier
        }  # fmt: skip
        self.phases = {"cross": Phase(optimizer, ("inverter", "generator", "classifier"))}
        self.augment, self.flip, self.losses = augment, flip, losses
        self.denoised, self.denoising, self.examples = check_share(denoised), denoising, examples

    def loss(self, phase: str, batch: Any, random: Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        """`batch` has `others`, a second image of each person."""
        code, own = self._codes(batch, random)
        count = max(1, round(self.denoised * len(code)))  # batches are in random order
        images = self.flip(to_float(batch.images[:count]), random)
        times = times_and_noise(images, random)
        error = denoising_loss(self.modules["generator"], images, code[:count], *times).mean()
        if self.losses is None:
            return self.denoising * error, {"denoising": error}
        labels = torch.cat([batch.labels, batch.labels])
        loss, parts = self.losses(torch.cat([code, own]), labels, self.modules["classifier"])
        return self.denoising * error + loss, {"denoising": error, **parts}

    def _codes(self, batch: Any, random: Generator) -> tuple[Tensor, Tensor]:
        """Of the others, and of the images if losses of re-identification are to compare both."""
        shown = batch.others if self.losses is None else torch.cat([batch.others, batch.images])
        code = self.modules["inverter"](self.augment(to_float(shown), random)).float()
        return code[: len(batch.others)], code[len(batch.others) :]

    def pictures(self, random: Generator) -> dict[str, Image.Image]:
        """As `Task.pictures`: people along rows, noises along columns."""
        generator, shown = self.modules["generator"], to_float(self.examples.to(random.device))
        people = _grid(generator, self.modules["inverter"](shown), random)
        return {"people": people, "examples": visualization.image_grid(shown[:, None].cpu().numpy())}
