"""From an image back to what generated it: identity code and noise (GenerativePersonReID, "inversion").

The code of an image is a feature for re-identification. `Inverter` gives it in one pass (the authors'
Img2Id); `refine` sharpens codes by asking the frozen generator which code explains the image best;
`NoiseInverter` gives the noise in one pass (their Img2noise).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_genext.generators import _diffusion
from torchreid_genext.generators._layers import (
    UNet,
    blocks,
    check_halves,
    check_image_size,
    check_widths,
    descend,
    initialize,
)
from torchreid_genext.generators._saving import Saved
from torchreid_genext.generators.identity import OFFICIAL_WIDTHS, IdentityGenerator

__all__ = ["Inverter", "NoiseInverter", "refine"]


class Inverter(Saved):
    """Images to identity codes, officially "Img2Id".

    Args:
        widths: channels of each level; officially 48, 96, 192, 384 (12,643,808 parameters with statistics).
        depth: residual blocks a level.
        code_width: of an identity code.
        hidden: widths of the dense layers before the last.
        image_size: height and width.
        unit: give all codes the same length, sqrt(D), so that only directions tell people apart.

    Raises:
        ValueError: if widths, depth or size cannot be built.
    """

    kind = "inverter"

    def __init__(
        self,
        widths: Sequence[int] = OFFICIAL_WIDTHS,
        *,
        depth: int = 2,
        code_width: int = 32,
        hidden: Sequence[int] = (512, 128),
        image_size: Sequence[int] = (64, 32),
        unit: bool = False,
    ) -> None:
        super().__init__()
        check_widths(widths, depth)
        check_halves(image_size, len(widths) - 1)
        self.config = {
            "widths": list(widths), "depth": depth, "code_width": code_width, "hidden": list(hidden),
            "image_size": list(image_size), "unit": unit,
        }  # fmt: skip
        self.image_size, self.code_width, self.unit = tuple(image_size), code_width, unit
        self.stem = nn.Conv2d(3, widths[0], 1)
        self.down = descend(widths, depth, widths[0])
        self.mid = blocks(widths[-2], widths[-1], depth)
        pixels = image_size[0] * image_size[1] // 4 ** (len(widths) - 1)
        sizes = [pixels * widths[-1], *hidden, code_width]
        self.dense = nn.ModuleList(map(nn.Linear, sizes, sizes[1:]))
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], not normalised, to codes (B, D).

        Raises:
            ValueError: if the images have another size.
        """
        check_image_size(images, self.image_size)
        x = self.stem(images)
        for level in self.down:
            for block in level:
                x = block(x)
            x = F.avg_pool2d(x, 2)
        for block in self.mid:
            x = block(x)
        x = x.permute(0, 2, 3, 1).flatten(1)  # the order of the authors' weights
        for layer in self.dense[:-1]:
            x = F.silu(layer(x))
        code = self.dense[-1](x)
        return _of_unit_scale(code) if self.unit else code


class NoiseInverter(Saved):
    """Images to the noise that the generator would make them of, officially "Img2noise".

    Args:
        widths, depth: as of `Inverter`; officially 9,577,683 parameters with statistics.
        image_size: height and width.

    Raises:
        ValueError: as of `Inverter`.
    """

    kind = "noise_inverter"

    def __init__(
        self,
        widths: Sequence[int] = OFFICIAL_WIDTHS,
        *,
        depth: int = 2,
        image_size: Sequence[int] = (64, 32),
    ) -> None:
        super().__init__()
        self.config = {"widths": list(widths), "depth": depth, "image_size": list(image_size)}
        self.image_size = tuple(image_size)
        self.unet = UNet(widths, depth=depth)
        check_halves(image_size, len(widths) - 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to noise of their shape.

        Raises:
            ValueError: if the images have another size.
        """
        check_image_size(images, self.image_size)
        return self.unet(images)


@torch.inference_mode(False)  # extractors switch it on, and nothing inside it has a gradient
@torch.no_grad()
def refine(
    generator: IdentityGenerator,
    images: Tensor,
    code: Tensor,
    *,
    steps: int = 5,
    step_size: float = 0.01,
    times: Sequence[float] = (0.3, 0.5),
    draws: int = 1,
    seed: int = 0,
    pull: float = 0.0,
    unit: bool = False,
) -> Tensor:
    """Codes under which the frozen generator denoises the images best, found by gradient descent (Adam).

    Every image is its own problem: the result does not depend on the batch. Noise is the same for all images
    and all steps, so the error falls from step to step and not by luck.

    Args:
        generator: in evaluation mode; it is not changed.
        images: (B, 3, H, W) in [0, 1].
        code: to start from, (B, D), such as an `Inverter`'s.
        steps: of the descent; 0 returns the codes.
        step_size: of Adam.
        times: of the diffusion at which images are denoised, each in 0 .. 1.
        draws: noises for each time, at least 1.
        seed: of the noises.
        pull: weight of the squared distance to the first code.
        unit: give codes the length sqrt(D) after each step, for inverters that do so.

    Returns:
        Codes (B, D), not attached to a graph.

    Raises:
        ValueError: if the generator is being trained, a time is outside 0 .. 1 or there is none, there is no
            draw, or the images have another size.
    """
    _check_problem(generator, images, times, draws)
    problem = _Denoising(generator, images, times, draws, seed)
    found = code.clone()
    moments = torch.zeros_like(found), torch.zeros_like(found)
    for step in range(1, steps + 1):
        gradient = problem.gradient(found) + 2 * pull * (found - code)
        found = found - step_size * _adam(gradient, moments, step)
        found = _of_unit_scale(found) if unit else found
    return found


def _of_unit_scale(code: Tensor) -> Tensor:
    """Codes (B, D) with a mean square of 1."""
    return F.normalize(code.float(), dim=1) * code.shape[1] ** 0.5


def _check_problem(generator: IdentityGenerator, images: Tensor, times: Sequence[float], draws: int) -> None:
    check_image_size(images, generator.image_size)
    if generator.training:
        raise ValueError("expected a generator in evaluation mode, got one in training mode")
    if not times or not all(0 <= t <= 1 for t in times):
        raise ValueError(f"expected times in 0..1, got {list(times)}")
    if draws < 1:
        raise ValueError(f"expected at least one draw of noise, got {draws}")


class _Denoising:
    """Noisy versions of images, and how the error of denoising them changes with the code."""

    def __init__(
        self, generator: IdentityGenerator, images: Tensor, times: Sequence[float], draws: int, seed: int
    ) -> None:
        self.generator, self.copies = generator, len(times) * draws
        random = torch.Generator().manual_seed(seed)
        noise = torch.randn(self.copies, 1, *images.shape[1:], generator=random).to(images)
        t = torch.tensor(times, device=images.device).repeat(draws)[:, None].expand(-1, len(images)).flatten()
        x = generator.normalizer(images).expand(self.copies, *images.shape).flatten(0, 1)
        noise = noise.expand(-1, len(images), -1, -1, -1).flatten(0, 1)
        self.rates = generator.schedule(t)
        self.noisy = self.rates.mix(x, noise)
        self.target = _diffusion.target(generator.prediction, x, noise, self.rates)

    def gradient(self, code: Tensor) -> Tensor:
        with torch.enable_grad():
            code = code.detach().requires_grad_()
            output = self.generator.denoiser(self.noisy, self.rates.noise**2, code.repeat(self.copies, 1))
            error = (output.float() - self.target).square().mean(dim=(1, 2, 3)).sum() / self.copies
            return torch.autograd.grad(error, code)[0]


def _adam(gradient: Tensor, moments: tuple[Tensor, Tensor], step: int) -> Tensor:
    """The direction of Adam; per image and dimension, so that images stay apart. `moments` are updated."""
    first, second = moments
    first.lerp_(gradient, 0.1)
    second.lerp_(gradient.square(), 0.001)
    return first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-12)
