"""People from identity codes: the conditional diffusion model of GenerativePersonReID.

A denoiser (U-Net) is told how much noise there is and who the person is; who they are is a code, a row of a
table that is trained along with it. "Generative Person Re-identification" (asperti/GenerativePersonReID).

Departures, each an option with the official behaviour beside it: the denoiser predicts v and not the noise,
whose L1 loss leaves codes unused (``prediction="eps"`` is official); training averages the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_genext.generators import _diffusion
from torchreid_genext.generators._diffusion import AngleSchedule, Estimate, Normalizer, Rates
from torchreid_genext.generators._layers import UNet, check_halves, check_image_size
from torchreid_genext.generators._saving import Saved

__all__ = [
    "OFFICIAL_WIDTHS", "IdentityDenoiser", "IdentityGenerator", "IdentityTable", "appearance_codes",
    "denoising_loss", "interpolate",
]  # fmt: skip

OFFICIAL_WIDTHS = (48, 96, 192, 384)
_LOSSES = {"l1": F.l1_loss, "l2": F.mse_loss}


class IdentityDenoiser(nn.Module):
    """The U-Net under an identity code.

    Args:
        widths: channels of each level; officially 48, 96, 192, 384 (9,841,539 parameters with statistics).
        depth: residual blocks a level.
        code_width: of an identity code.
        embedding_width: of the sinusoidal embedding of the noise variance.
    """

    def __init__(
        self,
        widths: Sequence[int] = OFFICIAL_WIDTHS,
        *,
        depth: int = 2,
        code_width: int = 32,
        embedding_width: int = 64,
    ) -> None:
        super().__init__()
        self.embedding_width = embedding_width
        self.unet = UNet(widths, depth=depth, code=code_width, context=embedding_width)

    def forward(self, noisy: Tensor, variance: Tensor, code: Tensor) -> Tensor:
        """Noisy images (B, 3, H, W), noise variances (B,), codes (B, D) to the prediction (B, 3, H, W)."""
        return self.unet(noisy, code, _diffusion.sinusoidal(variance, self.embedding_width))


class IdentityTable(nn.Embedding):
    """A code for each identity; rows of identities that are never trained keep their small random values.

    Args:
        identities: how many rows. width: of a code.
    """

    def __init__(self, identities: int, width: int = 32) -> None:
        super().__init__(identities, width)
        nn.init.uniform_(self.weight, -0.05, 0.05)

    def forward(self, labels: Tensor) -> Tensor:
        """Labels (B,) int64 to codes (B, D).

        Raises:
            ValueError: if a label is outside the table.
        """
        outside = (labels < 0) | (labels >= self.num_embeddings)
        if outside.any():
            offender = labels[outside][0].item()
            raise ValueError(f"expected identities in 0..{self.num_embeddings - 1}, got {offender}")
        return super().forward(labels)


class IdentityGenerator(Saved):
    """Images from identity codes and noise: denoiser, table, normaliser and schedule as one.

    Args:
        identities: rows of the table.
        image_size: height and width, each a multiple of 2 for every level but the deepest.
        mean, variance: of the training images' channels in [0, 1], (3,) each.
        prediction: what the denoiser's output means: ``v``, ``eps`` (official) or ``signal``.
        max_signal_rate, min_signal_rate: of `AngleSchedule`.
        widths, depth, code_width, embedding_width: of `IdentityDenoiser`.

    Raises:
        ValueError: if the prediction is unknown or the size does not halve evenly.
    """

    kind = "identity"

    def __init__(
        self,
        identities: int,
        *,
        image_size: tuple[int, int] = (64, 32),
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        variance: Sequence[float] = (0.0625, 0.0625, 0.0625),
        prediction: str = "v",
        max_signal_rate: float = 0.95,
        min_signal_rate: float = 0.02,
        widths: Sequence[int] = OFFICIAL_WIDTHS,
        depth: int = 2,
        code_width: int = 32,
        embedding_width: int = 64,
    ) -> None:
        super().__init__()
        _diffusion.check_prediction(prediction)
        check_halves(image_size, len(widths) - 1)
        self.prediction, self.image_size = prediction, tuple(image_size)
        self.schedule = AngleSchedule(max_signal_rate, min_signal_rate)
        self.denoiser = IdentityDenoiser(
            widths, depth=depth, code_width=code_width, embedding_width=embedding_width
        )
        self.table = IdentityTable(identities, code_width)
        self.normalizer = Normalizer(torch.tensor(mean).float(), torch.tensor(variance).float())
        self.register_buffer("trained", torch.ones(identities, dtype=torch.bool))
        self.config = {
            "identities": identities, "image_size": list(image_size),
            "mean": list(mean), "variance": list(variance), "prediction": prediction,
            "max_signal_rate": max_signal_rate, "min_signal_rate": min_signal_rate,
            "widths": list(widths), "depth": depth,
            "code_width": code_width, "embedding_width": embedding_width,
        }  # fmt: skip

    @property
    def code_width(self) -> int:
        """Numbers in an identity code."""
        return self.table.embedding_dim

    def noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Standard normal (count, 3, H, W), image by image, so that each depends on its place only."""
        device = self.table.weight.device
        drawn = [torch.randn(3, *self.image_size, generator=generator) for _ in range(count)]
        return torch.stack(drawn).to(device)

    def denoise(self, noisy: Tensor, rates: Rates, code: Tensor) -> Estimate:
        """Noisy normalised images (B, 3, H, W) under rates (B,) and codes (B, D), taken apart."""
        output = self.denoiser(noisy, rates.noise**2, code).float()
        return _diffusion.estimate(self.prediction, output, noisy, rates)

    def forward(self, code: Tensor, noise: Tensor, *, steps: int = 10) -> Tensor:
        """Draw people.

        Args:
            code: identity codes, (B, D).
            noise: standard normal, (B, 3, H, W); decides on everything but the identity.
            steps: of the sampler; officially 10.

        Returns:
            Images (B, 3, H, W) in [0, 1].

        Raises:
            ValueError: if the noise is not of the size of the images, or there is no step.
        """
        return self.to_images(self.generate_normalized(code, noise, steps=steps))

    def generate_normalized(self, code: Tensor, noise: Tensor, *, steps: int = 10) -> Tensor:
        """As `forward`, before it is denormalised and clipped."""
        check_image_size(noise, self.image_size)
        return _diffusion.sample(lambda x, rates: self.denoise(x, rates, code), noise, steps, self.schedule)

    def invert(self, images: Tensor, code: Tensor, *, steps: int = 10) -> Tensor:
        """The noise (B, 3, H, W) from which images (B, 3, H, W) in [0, 1] come back under their codes (B, D).

        Raises:
            ValueError: if the images have another size, or there is no step.
        """
        check_image_size(images, self.image_size)
        x = self.normalizer(images)
        return _diffusion.invert(lambda x, rates: self.denoise(x, rates, code), x, steps, self.schedule)

    def to_images(self, normalized: Tensor) -> Tensor:
        """Normalised images to [0, 1]."""
        return self.normalizer.inverse(normalized).clamp(0, 1)

    def trained_codes(self) -> Tensor:
        """Codes (T, D) of the identities in `trained`, a mask (identities,) that training sets."""
        return self.table.weight.detach()[self.trained]


def appearance_codes(averages: Tensor, width: int) -> Tensor:
    """Codes to start from: how people look on average, in principal components.

    Codes that start at random say nothing, so for long a denoiser learns to do without them.

    Args:
        averages: the mean image of each person, (P, 3, H, W).
        width: of a code.

    Returns:
        (P, width) with a mean square of 1; components beyond those that P people have are 0.
    """
    small = F.adaptive_avg_pool2d(averages.float(), (16, 8)).flatten(1)
    left, strength, _ = torch.linalg.svd(small - small.mean(0), full_matrices=False)
    components = (left * strength)[:, :width]
    components = F.pad(components, (0, width - components.shape[1]))
    return components / components.square().mean().sqrt().clamp_min(1e-12)


def denoising_loss(
    generator: IdentityGenerator, images: Tensor, code: Tensor, t: Tensor, noise: Tensor, *, loss: str = "l2"
) -> Tensor:
    """How badly people are told from noise, per image (B,): the mean over pixels and channels.

    Args:
        images: (B, 3, H, W) in [0, 1]. code: (B, D).
        t: times in 0 .. 1, (B,); noise: standard normal, (B, 3, H, W).
        loss: ``l1`` (official) or ``l2``.

    Raises:
        ValueError: if the loss is unknown, or the images have another size.
    """
    if loss not in _LOSSES:
        raise ValueError(f"unknown loss {loss!r}; choose from {', '.join(_LOSSES)}")
    check_image_size(images, generator.image_size)
    x, rates = generator.normalizer(images), generator.schedule(t)
    output = generator.denoiser(rates.mix(x, noise), rates.noise**2, code).float()
    wanted = _diffusion.target(generator.prediction, x, noise, rates)
    return _LOSSES[loss](output, wanted, reduction="none").mean(dim=(1, 2, 3))


def interpolate(first: Tensor, second: Tensor, share: Tensor, *, spherical: bool = False) -> Tensor:
    """Codes on the way from one person to another.

    Args:
        first, second: (D,).
        share: how far the way has gone, (N,); 0 is `first`, 1 is `second`.
        spherical: along the arc between the directions, with lengths in between, and not the straight line,
            whose middle is shorter than its ends (Shoemake, 1985).

    Returns:
        (N, D).
    """
    share = share[:, None]
    if not spherical:
        return first + share * (second - first)
    lengths = first.norm() + share * (second.norm() - first.norm())
    ends = F.normalize(first, dim=0), F.normalize(second, dim=0)
    angle = (ends[0] @ ends[1]).clamp(-1, 1).acos().clamp(1e-4, torch.pi - 1e-4)
    arc = ((1 - share) * angle).sin() * ends[0] + (share * angle).sin() * ends[1]
    return lengths * F.normalize(arc, dim=1)
