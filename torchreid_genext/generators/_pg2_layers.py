"""What PG2's networks are made of: 3 x 3 convolutions with the borders of TensorFlow, and ReLU."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_genext.generators._layers import check_halves

__all__ = ["Halving", "Residual", "conv", "doubled", "levels", "two_convs"]

_LEAST_HEIGHT = 32  # of an image, which leaves stage II one level


def levels(image_size: Sequence[int]) -> int:
    """Of stage I: the deepest one is 8 pixels high if the image's height is a power of two.

    Raises:
        ValueError: if the size (height, width) does not halve evenly from level to level, or is too small.
    """
    if image_size[0] < _LEAST_HEIGHT:
        raise ValueError(f"expected images {_LEAST_HEIGHT} pixels high at least, got {tuple(image_size)}")
    count = image_size[0].bit_length() - 3
    check_halves(image_size, count - 1)
    return count


def conv(inputs: int, outputs: int, kernel: int = 3) -> nn.Conv2d:
    """A convolution that keeps height and width."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


def two_convs(inputs: int, outputs: int) -> nn.Sequential:
    """Twice a convolution and ReLU."""
    return nn.Sequential(conv(inputs, outputs), nn.ReLU(), conv(outputs, outputs), nn.ReLU())


def doubled(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2 H, 2 W), every pixel four times."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


class Halving(nn.Conv2d):
    """A convolution with stride 2 and TensorFlow's border "SAME", whose larger part is below and right."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__(inputs, outputs, kernel, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / 2, W / 2), rounded up."""
        missing = [self.kernel_size[0] - 2 + side % 2 for side in x.shape[2:]]
        (top, bottom), (left, right) = ((each // 2, each - each // 2) for each in missing)
        return super().forward(F.pad(x, (left, right, top, bottom)))


class Residual(nn.Module):
    """Two convolutions, added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = two_convs(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> (B, width, H, W)."""
        return x + self.convs(x)
