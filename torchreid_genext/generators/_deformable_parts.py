"""Poses as the Deformable GAN sees them: heat-maps, ten body parts, and where each part is.

Siarohin et al., "Deformable GANs for Pose-based Human Image Generation", CVPR 2018, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchreid_genext.generators._deformable_polygons import filled

__all__ = [
    "HEAD", "HEATMAP_SIGMA", "LIMBS", "MASK_EXTENT", "PARTS", "TORSO", "TRANSFORM_EXTENT",
    "check_keypoints", "has_torso", "heatmaps", "limb_rectangles", "part_masks", "peaks", "torso_scale",
    "visible",
]  # fmt: skip

PARTS = (
    "body", "head", "right_thigh", "left_thigh", "right_shin", "left_shin",
    "right_upper_arm", "left_upper_arm", "right_forearm", "left_forearm",
)  # fmt: skip
LIMBS = (
    (8, 9),
    (11, 12),
    (9, 10),
    (12, 13),
    (2, 3),
    (5, 6),
    (3, 4),
    (6, 7),
)  # joints of the last eight parts
_LOWER = (2, 3, 6, 7)  # of these, shins and forearms
HEAD = (0, 14, 15, 16, 17)
TORSO = (8, 11, 5, 2)  # hips and shoulders, in the order of a polygon
HEATMAP_SIGMA = 6.0  # pixels, of images 128 pixels high
MASK_EXTENT, TRANSFORM_EXTENT = 0.5, 0.3  # how much longer shins and forearms are drawn
_EXTENT = 0.1  # the same of other limbs, and of every limb at its beginning
_HALF_WIDTH = 0.2  # of a limb, in lengths of the torso
_HALF_HEAD = 0.4
_SEEN = 0.1  # least height of a hill that is a joint
_JOINTS = 18


def check_keypoints(keypoints: Tensor, count: int) -> None:
    """Refuse what is not the poses of so many people.

    Raises:
        ValueError: if the shape is another than (count, 18, 2).
    """
    if tuple(keypoints.shape) != (count, _JOINTS, 2):
        raise ValueError(f"expected keypoints of shape {(count, _JOINTS, 2)}, got {tuple(keypoints.shape)}")


def visible(keypoints: Tensor) -> Tensor:
    """Which joints (..., J) of keypoints (..., J, 2) are there: neither coordinate is negative."""
    return (keypoints >= 0).all(-1)


def has_torso(keypoints: Tensor) -> Tensor:
    """Which people (...,) of keypoints (..., 18, 2) show hips and shoulders; the authors use no others."""
    return visible(keypoints)[..., TORSO].all(-1)


def heatmaps(keypoints: Tensor, size: Sequence[int], sigma: float = HEATMAP_SIGMA) -> Tensor:
    """One Gaussian hill per joint.

    Args:
        keypoints: (B, J, 2) of (y, x) pixels; negative in either coordinate for a missing joint.
        size: (height, width).
        sigma: standard deviation in pixels.

    Returns:
        (B, J, height, width) float32; 1 at the joint, all zero for a missing one.
    """
    points = keypoints.float()
    down, across = (
        torch.exp(-((torch.arange(size[axis], device=points.device) - points[..., axis, None]) ** 2)
                  / (2 * sigma**2))
        for axis in (0, 1)
    )  # fmt: skip
    return down[..., :, None] * (across * visible(points)[..., None])[..., None, :]


def peaks(maps: Tensor) -> Tensor:
    """Joints (B, J, 2) int64 of (y, x) pixels that `heatmaps` (B, J, H, W) stand for; -1 if missing."""
    height, place = maps.flatten(2).max(-1)
    width = maps.shape[-1]
    found = torch.stack([place // width, place % width], -1)
    return torch.where(height[..., None] > _SEEN, found, -1)


def torso_scale(keypoints: Tensor) -> Tensor:
    """How long the torso is: the root mean square of the ways from hip to shoulder.

    Args:
        keypoints: (B, 18, 2).

    Returns:
        (B,) float64 in pixels, of one side alone where the other is missing; 0 where both are.
    """
    hips, shoulders = keypoints[:, (8, 11)].double(), keypoints[:, (2, 5)].double()
    there = visible(hips) & visible(shoulders)
    squares = (hips - shoulders).square().sum(-1) * there
    return (squares.sum(-1) / there.sum(-1).clamp_min(1)).sqrt()


def limb_rectangles(keypoints: Tensor, extent: float) -> tuple[Tensor, Tensor]:
    """Rectangles around limbs.

    Args:
        keypoints: (B, 18, 2) of (y, x) pixels.
        extent: how far shins and forearms reach beyond their ends, as a share of their length; others reach
            a tenth.

    Returns:
        Corners (B, 8, 4, 2) float64 of (y, x) pixels, in the order of `LIMBS`; and which limbs are there,
        (B, 8).
    """
    first, last = (keypoints[:, joints].double() for joints in zip(*LIMBS))
    scale = torso_scale(keypoints)
    beyond = [extent if limb in _LOWER else _EXTENT for limb in range(len(LIMBS))]
    start = first + _EXTENT * (first - last)
    end = last + torch.tensor(beyond, dtype=last.dtype, device=last.device)[:, None] * (last - start)
    there = visible(first) & visible(last) & (scale > 0)[:, None]
    return _corners(start, end, _HALF_WIDTH * scale[:, None, None]), there


def _corners(start: Tensor, end: Tensor, half_width: Tensor) -> Tensor:
    """Of rectangles; a limb without length gets a diagonal of two pixels, which has no transform."""
    along = start - end
    length = along.norm(dim=-1, keepdim=True)
    normal = torch.stack([along[..., 1], -along[..., 0]], -1) / torch.where(length > 0, length, 1)
    normal = torch.where(length > 0, half_width * normal, 1.0)
    return torch.stack([start + normal, start - normal, end - normal, end + normal], -2)


def part_masks(keypoints: Tensor, size: Sequence[int]) -> Tensor:
    """Where the ten parts are: the body everywhere, the head in a square, limbs in rectangles.

    Args:
        keypoints: (B, 18, 2) of (y, x) pixels.
        size: (height, width).

    Returns:
        Booleans (B, 10, height, width) in the order of `PARTS`, empty for parts that are missing.
    """
    corners, there = limb_rectangles(keypoints, MASK_EXTENT)
    limbs = filled(corners, size) & there[..., None, None]
    head = _head_square(keypoints, size)[:, None]
    return torch.cat([torch.ones_like(head), head, limbs], 1)


def _head_square(keypoints: Tensor, size: Sequence[int]) -> Tensor:
    """(B, height, width), around the middle of what is seen of the head."""
    points = keypoints[:, HEAD].double()
    there = visible(points)
    count, scale = there.sum(-1), torso_scale(keypoints)
    middle = (points * there[..., None]).sum(1) / count.clamp_min(1)[:, None]
    middle, half = middle.trunc(), (_HALF_HEAD * scale).trunc()[:, None]
    down, across = (
        (places >= middle[:, axis, None] - half) & (places < middle[:, axis, None] + half)
        for axis, places in enumerate(torch.arange(length, device=points.device) for length in size)
    )
    return down[:, :, None] & across[:, None] & (count > 0)[:, None, None]
