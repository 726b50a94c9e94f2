"""Building blocks of GenerativePersonReID's networks: residual blocks, and the U-Net made of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "ResidualBlock", "UNet", "blocks", "check_halves", "check_image_size", "check_widths", "descend",
    "initialize",
]  # fmt: skip


class ResidualBlock(nn.Module):
    """Normalise, convolve, SiLU, convolve, add the input.

    The normalisation (BatchNorm) has no parameters; neither a second one nor an activation follows the sum.

    Args:
        inputs: channels that come in; if not as many as `outputs`, a 1 x 1 convolution changes their number.
        outputs: channels that go out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.bn = nn.BatchNorm2d(inputs, eps=1e-3, momentum=0.01, affine=False)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        return self.shortcut(x) + self.conv2(F.silu(self.conv1(self.bn(x))))


def blocks(inputs: int, outputs: int, depth: int) -> nn.ModuleList:
    """`depth` residual blocks, one after the other."""
    return nn.ModuleList(ResidualBlock(inputs if i == 0 else outputs, outputs) for i in range(depth))


def descend(widths: Sequence[int], depth: int, stem: int, code: int = 0) -> nn.ModuleList:
    """Blocks of every level but the deepest; `code` channels join after each halving of the resolution."""
    inputs = [stem, *(width + code for width in widths[:-2])]
    return nn.ModuleList(blocks(i, o, depth) for i, o in zip(inputs, widths[:-1]))


class UNet(nn.Module):
    """The U-Net of GenerativePersonReID; an image in, an image out.

    Args:
        widths: channels of each level, the full resolution first; each halves height and width.
        depth: residual blocks a level.
        code: width of a vector that joins as constant channels at the input and after each halving; 0: none.
        context: width of another vector that joins at the input; 0 for none.
        channels: of the image.
    """

    def __init__(
        self, widths: Sequence[int], *, depth: int = 2, code: int = 0, context: int = 0, channels: int = 3
    ) -> None:
        super().__init__()
        check_widths(widths, depth)
        self.stem = nn.Conv2d(channels, widths[0], 1)
        self.down = descend(widths, depth, widths[0] + context + code, code)
        self.mid = blocks(widths[-2] + code, widths[-1], depth)
        self.up = nn.ModuleList(
            nn.ModuleList(ResidualBlock((below if i == 0 else width) + width, width) for i in range(depth))
            for below, width in zip(widths[:0:-1], widths[-2::-1])
        )
        self.head = nn.Conv2d(widths[0], channels, 1)
        initialize(self)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor, code: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W), with (B, code) and (B, context) where these have a width, to (B, C, H, W)."""
        skips: list[Tensor] = []
        x = _join(_join(self.stem(x), context), code)
        for level in self.down:
            for block in level:
                skips.append(x := block(x))
            x = _join(F.avg_pool2d(x, 2), code)
        for block in self.mid:
            x = block(x)
        for level in self.up:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            for block in level:
                x = block(torch.cat([x, skips.pop()], dim=1))
        return self.head(x)


def _join(x: Tensor, vector: Tensor | None) -> Tensor:
    """Append a vector (B, D) as constant channels to (B, C, H, W)."""
    if vector is None:
        return x
    constant = vector.to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[2:])
    return torch.cat([x, constant.contiguous(memory_format=_layout(x))], dim=1)


def _layout(x: Tensor) -> torch.memory_format:
    """Joined to what has no layout of its own, x would lose its, and the network a third of its speed."""
    in_last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if in_last else torch.contiguous_format


def check_widths(widths: Sequence[int], depth: int) -> None:
    """Refuse networks without a level to descend from, or without blocks."""
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"expected two or more positive widths, got {tuple(widths)}")
    if depth < 1:
        raise ValueError(f"expected at least one block a level, got {depth}")


def check_halves(size: Sequence[int], times: int) -> None:
    """Refuse an image size (height, width) that does not halve evenly so many times."""
    if len(size) != 2 or any(side < 1 or side % 2**times for side in size):
        raise ValueError(f"expected an image size in multiples of {2**times}, got {tuple(size)}")


def check_image_size(x: Tensor, size: tuple[int, int]) -> None:
    """Refuse images of another height and width than (B, 3, *size)."""
    if x.ndim != 4 or tuple(x.shape[1:]) != (3, *size):
        raise ValueError(f"expected images (B, 3, {size[0]}, {size[1]}), got {tuple(x.shape)}")


def initialize(module: nn.Module) -> None:
    """Glorot's uniform weights and no biases, as Keras would give them."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
