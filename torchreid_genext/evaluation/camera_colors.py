"""How far the colours of one camera's images are from another's."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["ColorStatistics", "color_distance", "color_statistics"]

_TOGETHER = 256  # images whose pixels are in memory as float64


class ColorStatistics(NamedTuple):
    """Of all pixels of some images, with values in [0, 1]: mean (3,) and covariance (3, 3), float64."""

    mean: Tensor
    covariance: Tensor


def color_statistics(images: Tensor) -> ColorStatistics:
    """Mean and population covariance of red, green and blue.

    Args:
        images: (N, 3, H, W), uint8 or float in [-1, 1].

    Raises:
        ValueError: if there are none.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
        raise ValueError(f"expected images (N, 3, H, W), got {tuple(images.shape)}")
    first, second = torch.zeros(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    for some in images.split(_TOGETHER):
        pixels = some.double().movedim(1, 0).flatten(1).cpu()
        pixels = pixels / 255 if images.dtype == torch.uint8 else (pixels + 1) / 2
        first, second = first + pixels.sum(1), second + pixels @ pixels.T
    count = images.numel() // 3
    mean = first / count
    return ColorStatistics(mean, second / count - torch.outer(mean, mean))


def color_distance(a: ColorStatistics, b: ColorStatistics) -> float:
    """Fréchet distance of two normal distributions of colours, squared as in FID (Heusel et al., 2017).

    Returns:
        |mean - mean|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), in squared units of a range of 1.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp_min(0).sqrt().sum()
    spread = a.covariance.trace() + b.covariance.trace() - 2 * shared
    return float((a.mean - b.mean).square().sum() + spread.clamp_min(0))
