"""How alike two images are, per image and differentiable: mean absolute error and structural similarity."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["l1", "ssim"]

_WINDOW, _SIGMA = 11, 1.5  # of the Gaussian window of Wang et al. (2004), in pixels
_STABILITY = (0.01**2, 0.03**2)  # their constants, for a range of 1


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference (B,) of images (B, C, H, W)."""
    _check_pair(a, b)
    return (a - b).abs().mean(dim=(1, 2, 3))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (Wang et al., 2004) of images (B, C, H, W) in [0, 1].

    Returns:
        (B,), at most 1: the mean over channels and over all places where the window lies inside.

    Raises:
        ValueError: if the shapes differ, or images are smaller than the window of 11 x 11 pixels.
    """
    _check_pair(a, b)
    if min(a.shape[2:]) < _WINDOW:
        raise ValueError(f"expected images of {_WINDOW} x {_WINDOW} pixels at least, got {tuple(a.shape)}")
    mean_a, mean_b, aa, bb, ab = _blurred(torch.stack([a, b, a * a, b * b, a * b]))
    first, second = _STABILITY
    lights = (2 * mean_a * mean_b + first) / (mean_a**2 + mean_b**2 + first)
    spread = aa - mean_a**2 + bb - mean_b**2
    shapes = (2 * (ab - mean_a * mean_b) + second) / (spread + second)
    return (lights * shapes).mean(dim=(1, 2, 3))


def _blurred(x: Tensor) -> Tensor:
    """(..., H, W) under the window, (..., H - 10, W - 10)."""
    places = torch.arange(_WINDOW, device=x.device, dtype=x.dtype) - _WINDOW // 2
    window = (-0.5 * (places / _SIGMA) ** 2).exp()
    window = window / window.sum()
    flat = x.reshape(-1, 1, *x.shape[-2:])
    flat = F.conv2d(F.conv2d(flat, window.reshape(1, 1, 1, -1)), window.reshape(1, 1, -1, 1))
    return flat.reshape(*x.shape[:-2], *flat.shape[-2:])


def _check_pair(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(f"expected two batches (B, C, H, W), got {tuple(a.shape)} and {tuple(b.shape)}")
