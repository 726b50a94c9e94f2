"""Augmentation of whole batches, on their device: every image its own draw, no loop over images.

Images are float (B, 3, H, W) in [0, 1] unless told otherwise, and augmented before they are normalised. All
randomness comes from the generator that is handed in; it may live on another device than the images, so that
a CPU generator gives every machine the same batch. What is switched off draws nothing and copies nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from torchreid_genext.processes import own_rows

__all__ = ["Augmentation", "crop", "erase", "flip", "jitter"]

_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in the grey of ITU-R BT.601


@dataclass(frozen=True)
class Augmentation:
    """Jitter, flip, crop and erase, in this order; by default the flip alone.

    Attributes:
        flip: probability of a mirror image.
        padding: pixels by which `crop` may move an image.
        erase: probability of a hidden rectangle.
        area: of the rectangle, smallest and largest share of the image.
        aspect: of the rectangle, smallest and largest height / width.
        fill: of the rectangle: a value, or None for noise.
        brightness: how far its factor may be from 1. contrast: likewise. saturation: likewise.

    Raises:
        ValueError: if a value is out of range.
    """

    flip: float = 0.5
    padding: int = 0
    erase: float = 0.0
    area: tuple[float, float] = (0.02, 0.4)
    aspect: tuple[float, float] = (0.3, 1 / 0.3)
    fill: float | None = None
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self) -> None:
        _check_shares(flip=self.flip, erase=self.erase)
        _check_rectangle(self.area, self.aspect)
        _check_shares(brightness=self.brightness, contrast=self.contrast, saturation=self.saturation)
        if self.padding < 0:
            raise ValueError(f"expected padding >= 0 pixels, got {self.padding}")

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Augment images (B, 3, H, W), float in [0, 1]; theirs are never changed."""
        images = jitter(images, generator, brightness=self.brightness, contrast=self.contrast,
                        saturation=self.saturation)  # fmt: skip
        images = flip(images, generator, probability=self.flip)
        images = crop(images, generator, padding=self.padding)
        return erase(images, generator, probability=self.erase, area=self.area, aspect=self.aspect,
                     fill=self.fill)  # fmt: skip


def flip(images: Tensor, generator: Generator, *, probability: float = 0.5) -> Tensor:
    """Mirror some images left to right.

    Args:
        images: (B, C, H, W), of any range and kind.
        generator: gives one draw an image.
        probability: of being mirrored.

    Raises:
        ValueError: if the probability is not in 0..1.
    """
    _check_shares(probability=probability)
    if not probability:
        return images
    return torch.where(_chosen(images, generator, probability), images.flip(-1), images)


def crop(images: Tensor, generator: Generator, *, padding: int, fill: float = 0.0) -> Tensor:
    """Put a frame around each image and cut out a piece of the old size, anywhere.

    Args:
        images: (B, C, H, W), of any range and kind.
        generator: gives two draws an image.
        padding: pixels of the frame on every side.
        fill: value of the frame.

    Raises:
        ValueError: if the padding is negative.
    """
    if padding < 0:
        raise ValueError(f"expected padding >= 0 pixels, got {padding}")
    if not padding:
        return images
    height, width = images.shape[2:]
    windows = pad(images, (padding,) * 4, value=fill).unfold(2, height, 1).unfold(3, width, 1)
    down, right = own_rows(
        lambda count: torch.randint(
            2 * padding + 1, (2, count), generator=generator, device=generator.device
        ),
        len(images), generator, dim=1,
    ).to(images.device)  # fmt: skip
    return windows[torch.arange(len(images), device=images.device), :, down, right]


def erase(
    images: Tensor,
    generator: Generator,
    *,
    probability: float = 0.5,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
    fill: float | Sequence[float] | None = None,
) -> Tensor:
    """Hide a rectangle of some images (Zhong et al., "Random Erasing Data Augmentation", AAAI 2020).

    Where the paper draws again because a rectangle does not fit, here it is cut to the image.

    Args:
        images: (B, C, H, W).
        generator: gives five draws an image, and with noise one more a number.
        probability: of hiding something.
        area: smallest and largest share of the image; a rectangle has one pixel at least.
        aspect: smallest and largest height / width, drawn on a logarithmic scale.
        fill: a value, one a channel, or None for uniform noise in [0, 1), a draw a pixel and channel.

    Raises:
        ValueError: if an argument is out of range, or the images are not float.
    """
    _check_shares(probability=probability)
    _check_rectangle(area, aspect)
    if not probability:
        return images
    _check_float(images)
    chosen = _chosen(images, generator, probability)
    return torch.where(chosen & _rectangles(images, generator, area, aspect),
                       _filling(images, generator, fill), images)  # fmt: skip


def _rectangles(
    images: Tensor, generator: Generator, area: tuple[float, float], aspect: tuple[float, float]
) -> Tensor:
    """One rectangle an image, (B, 1, H, W) true inside."""
    size, shape, down, right = _uniform(images, generator, 4)
    height, width = images.shape[2:]
    pixels = (area[0] + size * (area[1] - area[0])) * height * width
    ratio = torch.exp(math.log(aspect[0]) + shape * math.log(aspect[1] / aspect[0]))
    rows = _within(height, (pixels * ratio).sqrt(), down)
    columns = _within(width, (pixels / ratio).sqrt(), right)
    return rows[:, None, :, None] & columns[:, None, None, :]


def _within(length: int, extent: Tensor, place: Tensor) -> Tensor:
    """Which of `length` pixels lie in a stretch of each image, (B, length); `place` in [0, 1) moves it."""
    extent = extent.round().clamp(1, length)
    start = (place * (length - extent + 1)).floor()
    pixel = torch.arange(length, device=place.device)
    return (pixel >= start[:, None]) & (pixel < (start + extent)[:, None])


def _filling(images: Tensor, generator: Generator, fill: float | Sequence[float] | None) -> Tensor:
    if fill is None:
        def draw(count: int) -> Tensor:
            return torch.rand(count, *images.shape[1:], generator=generator, device=generator.device)

        noise = own_rows(draw, len(images), generator)
        return noise.to(images.device, images.dtype)
    return torch.as_tensor(fill, dtype=images.dtype, device=images.device).reshape(-1, 1, 1)


def jitter(
    images: Tensor,
    generator: Generator,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
) -> Tensor:
    """Change brightness, then contrast, then saturation, each by a factor an image, and clip after each.

    Contrast is the distance from the image's mean grey, saturation the distance from each pixel's grey.

    Args:
        images: (B, 3, H, W) float in [0, 1].
        generator: gives one draw an image for each of the three that is above 0.
        brightness: its factor lies in 1 - brightness .. 1 + brightness; 0..1.
        contrast: likewise.
        saturation: likewise.

    Raises:
        ValueError: if an amount is not in 0..1, or the images are not float.
    """
    _check_shares(brightness=brightness, contrast=contrast, saturation=saturation)
    if brightness or contrast or saturation:
        _check_float(images)
    if brightness:
        images = _blend(images, images.new_zeros(()), _factor(images, generator, brightness))
    if contrast:
        mean = _grey(images).mean((2, 3), keepdim=True)
        images = _blend(images, mean, _factor(images, generator, contrast))
    if saturation:
        images = _blend(images, _grey(images), _factor(images, generator, saturation))
    return images


def _grey(images: Tensor) -> Tensor:
    return sum(weight * channel for weight, channel in zip(_LUMA, images.split(1, dim=1)))


def _blend(images: Tensor, plain: Tensor, factor: Tensor) -> Tensor:
    return torch.addcmul((1 - factor) * plain, images, factor).clamp_(0, 1)


def _factor(images: Tensor, generator: Generator, amount: float) -> Tensor:
    (draws,) = _uniform(images, generator, 1)
    return (1 + amount * (2 * draws - 1)).to(images.dtype)[:, None, None, None]


def _chosen(images: Tensor, generator: Generator, probability: float) -> Tensor:
    (draws,) = _uniform(images, generator, 1)
    return (draws < probability)[:, None, None, None]


def _uniform(images: Tensor, generator: Generator, number: int) -> Tensor:
    """Draws (number, B) in [0, 1), on the device of the images."""

    def draw(count: int) -> Tensor:
        return torch.rand(number, count, generator=generator, device=generator.device)

    return own_rows(draw, len(images), generator, dim=1).to(images.device)


def _check_shares(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"expected {name} in 0..1, got {value}")


def _check_float(images: Tensor) -> None:
    if not images.is_floating_point():
        raise ValueError(f"expected float images in [0, 1], got {images.dtype}")


def _check_rectangle(area: tuple[float, float], aspect: tuple[float, float]) -> None:
    if not 0 <= area[0] <= area[1] <= 1:
        raise ValueError(f"expected area as a smaller and a larger share in 0..1, got {area}")
    if not 0 < aspect[0] <= aspect[1]:
        raise ValueError(f"expected aspect as a smaller and a larger ratio above 0, got {aspect}")
