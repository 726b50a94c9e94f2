"""Layers that know from which camera an image is, and like which one it shall be."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_genext.generators._camstyle_networks import convolution

__all__ = ["Block", "Layer", "Tone", "enlarging", "exponential"]

_SQUARINGS, _DEGREE = 3, 12  # of the scaled exponential, and of its Taylor polynomial


class Tone(nn.Module):
    """What each camera does to colours: an invertible matrix, and an offset.

    A change of camera undoes the one and does the other, so there and back changes nothing, and neither does
    a change to the same camera. Losses that hold an image to what it was do not hold this back.
    """

    def __init__(self, cameras: int) -> None:
        super().__init__()
        self.logarithm = nn.Parameter(torch.zeros(cameras, 3, 3))
        self.offset = nn.Parameter(torch.zeros(cameras, 3))

    def forward(self, images: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Colours (B, 3, H, W) of cameras (B,), as others (B,) would have them."""
        with torch.autocast(images.device.type, enabled=False):
            logarithm, offset = self.logarithm.float(), self.offset.float()
            change = exponential(logarithm)[target] @ exponential(-logarithm)[source]
            colours = images.float().flatten(2) - offset[source][:, :, None]
            changed = change @ colours + offset[target][:, :, None]
        return changed.view_as(images).to(images.dtype)


def exponential(matrices: Tensor) -> Tensor:
    """Exponentials of small matrices (N, k, k), of norms up to about 8.

    `torch.matrix_exp` chooses its polynomial by the norm, and so lets the host wait for it.
    """
    scaled = matrices / 2**_SQUARINGS
    result = identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    for degree in range(_DEGREE, 0, -1):
        result = identity + scaled @ result / degree
    for _ in range(_SQUARINGS):
        result = result @ result
    return result


class CameraNorm(nn.Module):
    """Instance normalisation, with a scale and a shift that both cameras have a say in."""

    def __init__(self, channels: int, cameras: int) -> None:
        super().__init__()
        self.source = nn.Embedding(cameras, 2 * channels, _weight=torch.zeros(cameras, 2 * channels))
        self.target = nn.Embedding(cameras, 2 * channels, _weight=torch.zeros(cameras, 2 * channels))

    def forward(self, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
        scale, shift = (self.source(source) + self.target(target))[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, F.instance_norm(x), 1 + scale)


class Layer(nn.Module):
    """Convolve, normalise, ReLU."""

    def __init__(self, conv: nn.Module, channels: int, cameras: int) -> None:
        super().__init__()
        self.conv, self.norm = conv, CameraNorm(channels, cameras)

    def forward(self, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x), source, target))


class Block(nn.Module):
    """Add to the features what two convolutions make of them."""

    def __init__(self, width: int, cameras: int) -> None:
        super().__init__()
        self.layer = Layer(convolution(width, width, 3), width, cameras)
        self.conv, self.norm = convolution(width, width, 3), CameraNorm(width, cameras)

    def forward(self, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
        return x + self.norm(self.conv(self.layer(x, source, target)), source, target)


def enlarging(inputs: int, outputs: int) -> nn.Sequential:
    """Transposed convolutions would leave a chequered pattern."""
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), *convolution(inputs, outputs, 3))
