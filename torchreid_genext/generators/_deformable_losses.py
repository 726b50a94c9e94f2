"""What the Deformable GAN descends: adversarial losses, and the nearest-neighbour loss on features."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_genext import checkpoints

__all__ = [
    "PREPROCESSINGS", "OrientedGradients", "VGG19Features", "deceiving_loss", "discriminating_loss",
    "nearest_neighbour_map",
]  # fmt: skip

_LEAST_PROBABILITY = 1e-7
_BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # channels and convolutions of VGG19
_LAYERS = {
    f"block{block}_conv{conv}": (block, conv)
    for block, (_, convs) in enumerate(_BLOCKS, start=1)
    for conv in range(1, convs + 1)
}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN = (123.68, 116.779, 103.939)
PREPROCESSINGS = ("torchvision", "caffe", "official")


def discriminating_loss(real: Tensor, fake: Tensor) -> Tensor:
    """How badly probabilities of being real, of any shape, tell real pictures from generated ones."""
    return -(real + _LEAST_PROBABILITY).log().mean() - (1 - fake + _LEAST_PROBABILITY).log().mean()


def deceiving_loss(fake: Tensor) -> Tensor:
    """How little generated pictures pass for real ones, from their probabilities."""
    return -(fake + _LEAST_PROBABILITY).log().mean()


def nearest_neighbour_map(real: Tensor, generated: Tensor, *, window: int = 3) -> Tensor:
    """How far each generated pixel is from the most similar real one nearby (Siarohin et al., section 3.4).

    Which one that is takes a map of distances for each place in the window, one at a time and without
    gradients; these are only taken of the distance to it.

    Args:
        real, generated: features (B, C, H, W). The real ones get no gradient.
        window: side of the square of real pixels around the place, odd; officially 3 on Market-1501 and 5 on
            DeepFashion.

    Returns:
        (B, H, W) float32, the sums over channels of absolute differences.

    Raises:
        ValueError: if the window is even.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"expected an odd window, got {window}")
    real, generated = real.detach().float(), generated.float()
    nearest = _nearest(real, generated.detach(), window)
    matched = real.flatten(2).gather(2, nearest.flatten(1)[:, None].expand(-1, real.shape[1], -1))
    return (matched.view_as(real) - generated).abs().sum(1)


@torch.no_grad()
def _nearest(real: Tensor, generated: Tensor, window: int) -> Tensor:
    """Positions (B, H, W) int64, row by row, of the most similar real pixels."""
    height, width = real.shape[2:]
    least = real.new_full((len(real), height, width), math.inf)
    places = torch.arange(height * width, device=real.device).view(height, width)
    nearest = places.expand(len(real), -1, -1).clone()
    for rows, columns in _shifts(window, height, width):
        here, there = (..., rows[0], columns[0]), (..., rows[1], columns[1])
        distance = (real[there] - generated[here]).abs_().sum(1)
        nearer = distance < least[here]
        nearest[here] = torch.where(nearer, places[there], nearest[here])
        least[here] = torch.where(nearer, distance, least[here])
    return nearest


def _shifts(
    window: int, height: int, width: int
) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Rows and columns of pixels that have a neighbour in a direction, each with those of the neighbours."""
    reach = range(-(window // 2), window // 2 + 1)
    for down, across in itertools.product(reach, reach):
        yield _overlap(down, height), _overlap(across, width)


def _overlap(shift: int, length: int) -> tuple[slice, slice]:
    most = max(length - abs(shift), 0)
    here, there = max(-shift, 0), max(shift, 0)
    return slice(here, here + most), slice(there, there + most)


class OrientedGradients(nn.Module):
    """Features without weights, at full resolution: colours, and how much they brighten in each direction.

    Args:
        directions: around the circle.
    """

    weight = 10.0  # of the loss on these features, about as strong as that of the authors on theirs

    def __init__(self, directions: int = 8) -> None:
        super().__init__()
        angles = 2 * math.pi * torch.arange(directions) / directions
        smooth, slope = torch.tensor([1.0, 2.0, 1.0]) / 4, torch.tensor([-1.0, 0.0, 1.0]) / 2
        across, down = smooth[:, None] * slope, slope[:, None] * smooth
        kernels = angles.cos()[:, None, None] * across + angles.sin()[:, None, None] * down
        self.register_buffer("kernels", kernels[:, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to (B, 3 + directions, H, W)."""
        grey = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        return torch.cat([images, F.conv2d(grey, self.kernels.to(images.dtype)).relu()], 1)


class VGG19Features(nn.Module):
    """Activations of VGG19, of random weights until `load` brings those of ImageNet.

    Args:
        layer: ``block1_conv2`` (official), or another ``block<b>_conv<c>``.
        preprocessing: what the weights expect. ``torchvision``, of unit variance; ``caffe``, 0 to 255 in the
            order blue, green, red, less the means; ``official``, that with the means of red and blue
            exchanged, as the authors have it.

    Raises:
        ValueError: if layer or preprocessing are unknown.
    """

    def __init__(self, layer: str = "block1_conv2", *, preprocessing: str = "torchvision") -> None:
        super().__init__()
        if layer not in _LAYERS:
            raise ValueError(f"unknown layer {layer!r}; choose from {', '.join(_LAYERS)}")
        if preprocessing not in PREPROCESSINGS:
            raise ValueError(
                f"unknown preprocessing {preprocessing!r}; choose from {', '.join(PREPROCESSINGS)}"
            )
        self.preprocessing = preprocessing
        # Activations of torchvision's weights are 50 to 60 times smaller than those of Caffe's
        self.weight = 0.55 if preprocessing == "torchvision" else 0.01
        self.features = nn.Sequential(*_convolutions(*_LAYERS[layer]))

    @classmethod
    def load(
        cls, path: str | Path, layer: str = "block1_conv2", *, preprocessing: str = "torchvision"
    ) -> VGG19Features:
        """Read torchvision's VGG19, of which only the first layers are kept, in evaluation mode.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it holds another network, or arguments are unknown.
        """
        network, state = cls(layer, preprocessing=preprocessing), checkpoints.safe_load(path)
        wanted = {name: state[name] for name in network.state_dict() if name in state}
        checkpoints.fill(network, wanted, path, ignore=())
        return network.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to activations (B, C, h, w) after the layer's ReLU."""
        return self.features(self.prepare(images))

    def prepare(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] as the weights expect them."""
        images = (images + 1) / 2
        if self.preprocessing == "torchvision":
            return (images - _channels(_MEAN, images)) / _channels(_STD, images)
        means = _CAFFE_MEAN if self.preprocessing == "caffe" else _CAFFE_MEAN[::-1]
        return (255 * images - _channels(means, images)).flip(1)


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]


def _convolutions(last_block: int, last_conv: int) -> Iterator[nn.Module]:
    """Layers up to a convolution and its ReLU, numbered as torchvision does.

    Its `vgg19` would draw 144 million weights for the few thousand that are kept.
    """
    inputs = 3
    for block, (width, convs) in enumerate(_BLOCKS[:last_block], start=1):
        if block > 1:
            yield nn.MaxPool2d(2)
        for _ in range(last_conv if block == last_block else convs):
            yield nn.Conv2d(inputs, width, 3, padding=1)
            yield nn.ReLU(inplace=True)
            inputs = width
