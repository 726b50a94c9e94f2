"""Encoder, decoder and normalisation of the Deformable GAN (Siarohin et al., CVPR 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Decoder", "Down", "Encoder", "ScalarNorm", "Up", "initialize"]

_DROPPED = 3  # blocks of the decoder that forget at random
_SLOPE = 0.2


class ScalarNorm(nn.Module):
    """Each image less its mean, by its standard deviation, over places and channels; one scale and shift.

    That of keras_contrib as the authors call it; not `nn.InstanceNorm2d`, which takes channels one by one.
    """

    def __init__(self, eps: float = 1e-3) -> None:
        super().__init__()
        self.eps = eps
        self.weight, self.bias = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        values = x.float()
        centred = values - values.mean((1, 2, 3), keepdim=True)
        # A root has no gradient at 0, where an image is of one value
        spread = centred.square().mean((1, 2, 3), keepdim=True).clamp_min(1e-12).sqrt()
        return (centred * (self.weight / (spread + self.eps)) + self.bias).to(x.dtype)


class Down(nn.Module):
    """Half the resolution."""

    def __init__(self, inputs: int, outputs: int, *, normalize: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
        self.norm = ScalarNorm() if normalize else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(F.leaky_relu(x, _SLOPE)))


class Up(nn.Module):
    """Twice the resolution."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
        self.norm, self.dropout = ScalarNorm(), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.norm(self.conv(x.relu())))


class Encoder(nn.Module):
    """Features of each level, the full resolution first."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(inputs, widths[0], 3, padding=1)
        last = len(widths) - 1
        self.down = nn.ModuleList(
            Down(i, o, normalize=level < last) for level, (i, o) in enumerate(zip(widths, widths[1:]), 1)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        features = [self.stem(x)]
        for level in self.down:
            features.append(level(features[-1]))
        return features


class Decoder(nn.Module):
    """From features of each level, the full resolution first, to an image."""

    def __init__(self, skips: Sequence[int], widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        deepest, *others = reversed(skips)
        inputs = [deepest, *(width + skip for width, skip in zip(widths, others))]
        self.up = nn.ModuleList(
            Up(i, o, dropout if level < _DROPPED else 0.0) for level, (i, o) in enumerate(zip(inputs, widths))
        )
        self.head = nn.Conv2d(inputs[-1], 3, 3, padding=1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x, *skips = reversed(features)
        for level, skip in zip(self.up, skips):
            x = torch.cat([level(x), skip], 1)
        return self.head(x.relu()).tanh()


def initialize(network: nn.Module) -> None:
    """Glorot's uniform weights and no biases, as Keras would give them."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
