"""What the Deformable GAN draws of poses: the mask of a person for evaluation, and stickmen.

All is drawn on the CPU, in float64, which some accelerators lack, and given back on the device of the joints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from torchreid_genext.generators._deformable_parts import TORSO, visible
from torchreid_genext.generators._deformable_polygons import bars, filled

__all__ = ["person_mask", "stickman"]

_BONES = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
    (1, 0), (0, 14), (14, 16), (0, 15), (15, 17), (1, 16), (1, 17), (8, 11), (11, 5), (8, 2), (16, 17),
)  # fmt: skip
# Eyes change sides: the authors count the left one first, as OpenPose does not
_STICKS = (
    ((10, 9), (9, 8), (8, 2), (2, 3), (3, 4)),
    ((13, 12), (12, 11), (11, 5), (5, 6), (6, 7)),
)
_EYES = (15, 14)
_NOSE, _SHOULDERS = 0, (2, 5)
_CLOSING = 5  # pixels
_FAINT = 0.5  # neck and face


def person_mask(keypoints: Tensor, size: Sequence[int], *, radius: float = 4.0) -> Tensor:
    """Where a person is, from their pose: the "ma mask", by which masked SSIM and scores are computed.

    Discs around joints and bars between them, closed in a square of five pixels. PG2's mask is another
    construction of the same idea.

    Args:
        keypoints: (B, 18, 2) of (y, x) pixels; negative in either coordinate for a missing joint.
        size: (height, width).
        radius: of discs, and half the width of bars, in pixels.

    Returns:
        Booleans (B, height, width).
    """
    seen, points = visible(keypoints.cpu()), keypoints.cpu().double()
    start, end = (list(joints) for joints in zip(*_BONES))
    bones = filled(bars(points[:, start], points[:, end], radius), size)
    bones &= (seen[:, start] & seen[:, end])[..., None, None]
    drawn = bones.any(1) | (_discs(points, size, radius) & seen[..., None, None]).any(1)
    return _closed(drawn).to(keypoints.device)


def _discs(points: Tensor, size: Sequence[int], radius: float) -> Tensor:
    """Pixels nearer than the radius to points (B, J, 2): (B, J, height, width)."""
    down, across = (
        (torch.arange(length, device=points.device) - points[..., axis, None]).square()
        for axis, length in enumerate(size)
    )
    return down[..., :, None] + across[..., None, :] < radius**2


def _closed(mask: Tensor) -> Tensor:
    """Dilated, then eroded."""
    options = {"kernel_size": _CLOSING, "stride": 1, "padding": _CLOSING // 2}
    grown = F.max_pool2d(mask[:, None].float(), **options)
    return -F.max_pool2d(-grown, **options)[:, 0] > 0.5


def stickman(keypoints: Tensor, size: Sequence[int]) -> Tensor:
    """The alternative to heat-maps: right limbs, left limbs, and the torso; neck and face in half-tone.

    Args:
        keypoints: (B, 18, 2) of (y, x) pixels; negative in either coordinate for a missing joint.
        size: (height, width).

    Returns:
        (B, 3, height, width) float32 in {0, 0.5, 1}.
    """
    seen, points = visible(keypoints.cpu()), keypoints.cpu().double()
    half_width = 3 * size[1] // 128
    torso = filled(points[:, TORSO], size) & seen[:, TORSO].all(-1)[:, None, None]
    sides = [_sticks(points, seen, size, half_width, limbs, eye) for limbs, eye in zip(_STICKS, _EYES)]
    return torch.stack([*sides, torso.float()], 1).to(keypoints.device)


def _sticks(
    points: Tensor, seen: Tensor, size: Sequence[int], half_width: int, limbs: Sequence, eye: int
) -> Tensor:
    start, end = (list(joints) for joints in zip(*limbs))
    strong = filled(bars(points[:, start], points[:, end], half_width), size)
    strong &= (seen[:, start] & seen[:, end])[..., None, None]
    nose, neck = points[:, _NOSE], points[:, _SHOULDERS].mean(1)
    ends = torch.stack([neck, points[:, eye]], 1)
    faint = filled(bars(nose[:, None].expand_as(ends), ends, half_width), size)
    there = torch.stack([seen[:, _SHOULDERS].all(1), seen[:, eye]], 1) & seen[:, _NOSE, None]
    faint &= there[..., None, None]
    return torch.where(faint.any(1), _FAINT, strong.any(1).float())
