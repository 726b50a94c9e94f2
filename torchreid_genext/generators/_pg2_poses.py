"""What PG2 is told of a pose, a disc a joint, and where it must be right: a mask of the body.

"Pose Guided Person Image Generation" (Ma et al., NIPS 2017), section 3.1. Poses are 18 OpenPose joints as
(y, x) pixels, missing where either is negative. Positions are truncated to whole pixels, as the authors do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["BODY", "JOINTS", "RADIUS", "pose_maps", "pose_mask"]

JOINTS = 18
RADIUS = 4  # of a disc, in pixels of an image of 128 x 64
# Pairs of joints with body between them: the limbs of OpenPose, neck to ears, and the outline of the trunk.
BODY = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
    (1, 0), (0, 14), (14, 16), (0, 15), (15, 17), (1, 16), (1, 17), (8, 11), (11, 5), (8, 2), (16, 17),
)  # fmt: skip
_CLOSING = 5  # pixels, the side of the square that closes gaps


def pose_maps(
    keypoints: Tensor, size: tuple[int, int], *, radius: int = RADIUS, sigma: float | None = None
) -> Tensor:
    """One map a joint: 1 on a disc around it, -1 elsewhere and everywhere if it is missing.

    Args:
        keypoints: (B, 18, 2) of (y, x) pixels, negative where missing.
        size: (height, width) of the maps.
        radius: of the discs, in pixels.
        sigma: let the disc fall off from 1 like a Gaussian of this width; the authors wrote that, with 4, but
            did not use it.

    Returns:
        (B, 18, height, width) float32 in [-1, 1].

    Raises:
        ValueError: if the keypoints have another shape, or the radius is negative.
    """
    _check(keypoints, radius)
    points = keypoints.float().trunc()[..., None]
    down, across = ((_places(size[axis], points) - points[:, :, axis]) ** 2 for axis in (0, 1))
    distance = down[..., :, None] + across[..., None, :]
    values = 1.0 if sigma is None else 2 * torch.exp(distance / (-2 * sigma**2)) - 1
    disc = (distance <= radius**2) & _present(keypoints)[..., None, None]
    return torch.where(disc, values, -1.0)


def pose_mask(keypoints: Tensor, size: tuple[int, int], *, radius: int = RADIUS) -> Tensor:
    """Where the body is: discs along every limb with both its joints, and the gaps between them closed.

    Args:
        keypoints: (B, 18, 2) of (y, x) pixels, negative where missing.
        size: (height, width) of the mask.
        radius: of the discs, and about the distance between them, in pixels.

    Returns:
        (B, 1, height, width) float32, 1 on the body and 0 elsewhere.

    Raises:
        ValueError: if the keypoints have another shape, or the radius is not positive.
    """
    _check(keypoints, radius, least=1)
    discs = _discs(*_along_limbs(keypoints, radius, size), size, radius)
    # Pooling leaves out what is outside; the authors reflect it, which repeats pixels that are seen anyway.
    border = {"stride": 1, "padding": _CLOSING // 2}
    return -F.max_pool2d(-F.max_pool2d(discs, _CLOSING, **border), _CLOSING, **border)


def _check(keypoints: Tensor, radius: int, least: int = 0) -> None:
    if keypoints.ndim != 3 or tuple(keypoints.shape[1:]) != (JOINTS, 2):
        raise ValueError(f"expected keypoints (B, {JOINTS}, 2), got {tuple(keypoints.shape)}")
    if radius < least:
        raise ValueError(f"expected a radius >= {least}, got {radius}")


def _places(length: int, like: Tensor) -> Tensor:
    return torch.arange(length, dtype=like.dtype, device=like.device)


def _present(keypoints: Tensor) -> Tensor:
    return (keypoints >= 0).all(dim=-1)


def _along_limbs(keypoints: Tensor, radius: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Centres of discs (B, limbs, n, 2) in whole pixels, and which of them there are (B, limbs, n)."""
    start, end = (keypoints.float()[:, [limb[i] for limb in BODY], None] for i in (0, 1))
    there = _present(start) & _present(end)
    steps = ((end - start).square().sum(-1).sqrt() / radius).long()
    steps = torch.where(there, steps, 0).clamp(min=1)
    # How many there are only an accelerator knows, for which the host would wait; no image has longer limbs
    most = int(steps.max()) if steps.device.type == "cpu" else math.ceil(math.hypot(*size) / radius)
    step = torch.arange(most + 1, device=keypoints.device)
    between = start + (end - start) * step[:, None] / steps[..., None]
    centres = torch.where((step == steps)[..., None], end, between)
    shown = there & (step <= steps)
    return torch.where(shown[..., None], centres, 0).long(), shown


def _discs(centres: Tensor, shown: Tensor, size: tuple[int, int], radius: int) -> Tensor:
    """1 within the radius of any centre, (B, 1, height, width); centres may lie outside."""
    tall, wide = (side + 2 * radius for side in size)
    y, x = (centres + radius).flatten(1, -2).unbind(-1)
    seen = shown.flatten(1) & (y >= 0) & (y < tall) & (x >= 0) & (x < wide)
    marks = torch.zeros(len(centres), tall * wide + 1, device=centres.device)
    marks.scatter_(1, torch.where(seen, y * wide + x, tall * wide), 1.0)  # nobody looks at the last one
    reach = _places(2 * radius + 1, marks) - radius
    disc = (reach[:, None] ** 2 + reach**2 <= radius**2).float()
    return (F.conv2d(marks[:, :-1].reshape(-1, 1, tall, wide), disc[None, None]) > 0.5).float()
