"""Poses as networks look at them: heat-maps of joints, and pictures of skeletons."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw
from torch import Tensor

from torchreid_genext.data.poses.joints import LIMBS, checked_pose

__all__ = ["COLOURS", "HEATMAP_SIGMA", "STYLES", "draw_skeleton", "heatmaps"]

COLOURS = (
    (255, 0, 0),
    (255, 85, 0),
    (255, 170, 0),
    (255, 255, 0),
    (170, 255, 0),
    (85, 255, 0),
    (0, 255, 0),
    (0, 255, 85),
    (0, 255, 170),
    (0, 255, 255),
    (0, 170, 255),
    (0, 85, 255),
    (0, 0, 255),
    (85, 0, 255),
    (170, 0, 255),
    (255, 0, 255),
    (255, 0, 170),
    (255, 0, 85),
)
HEATMAP_SIGMA = 6.0
STYLES = ("bold", "official")
_LIMB_BRIGHTNESS = 0.6


def heatmaps(poses: ArrayLike | Tensor, size: tuple[int, int], *, sigma: float = HEATMAP_SIGMA) -> Tensor:
    """One Gaussian hill per joint.

    Args:
        poses: (..., 18, 2) of (y, x) pixels, -1 in either coordinate for a missing joint.
        size: (height, width) of the maps.
        sigma: standard deviation of the hills in pixels.

    Returns:
        (..., 18, height, width) float32 in [0, 1]; 1 at the joint, an all-zero map for a missing one.

    Raises:
        ValueError: if the last axis is not (y, x), or sigma is not positive.
    """
    points = torch.as_tensor(poses).to(torch.float32)
    if points.ndim < 2 or points.shape[-1] != 2:
        raise ValueError(f"expected poses of shape (..., joints, 2), got {tuple(points.shape)}")
    if not sigma > 0:
        raise ValueError(f"expected sigma > 0, got {sigma}")
    down, across = (_hill(points[..., axis], size[axis], sigma) for axis in (0, 1))
    present = (points != -1).all(dim=-1)
    return down[..., :, None] * across[..., None, :] * present[..., None, None]


def draw_skeleton(
    pose: ArrayLike, size: tuple[int, int], *, thickness: int | None = None, style: str = "bold"
) -> Image.Image:
    """The usual OpenPose picture: coloured limbs and joints on black.

    Args:
        pose: (18, 2) of (y, x) pixels, -1 missing.
        size: (height, width) of the picture.
        thickness: width of a limb in pixels; by default a thirty-second of the height, of the official style
            a sixty-fourth.
        style: ``bold``, or ``official`` as Pose2ID's standard poses are drawn: thinner limbs with joints that
            stand out, in the whole pixels of OpenCV's ellipses and discs. Those pictures are 128 x 64; where
            others are asked for, networks that know them expect a picture of that size, enlarged.

    Returns:
        An RGB image.

    Raises:
        ValueError: if the pose is not (18, 2), or the style is unknown.
    """
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}; choose from {', '.join(STYLES)}")
    points, (share, limb, joint) = checked_pose(pose), _BRUSHES[style]
    thick = thickness if thickness is not None else max(1, round(size[0] / share))
    image = Image.new("RGB", (size[1], size[0]))
    draw = ImageDraw.Draw(image)
    present = (points != -1).all(axis=1)
    for (start, end), colour in zip(LIMBS, COLOURS):
        if present[start] and present[end]:
            dimmed = tuple(int(_LIMB_BRIGHTNESS * c) for c in colour)
            draw.polygon(limb(points[start], points[end], thick / 2), dimmed)
    for centre, colour in zip(points[present], np.asarray(COLOURS)[present]):
        joint(draw, centre, thick, tuple(int(c) for c in colour))
    return image


def _hill(centres: Tensor, length: int, sigma: float) -> Tensor:
    """exp(-(i - centre)^2 / 2 sigma^2) along one axis, (..., length)."""
    places = torch.arange(length, dtype=torch.float32, device=centres.device)
    return torch.exp(-((places - centres[..., None]) ** 2) / (2 * sigma**2))


def _lens(start: np.ndarray, end: np.ndarray, half: float) -> list[tuple[float, float]]:
    """An ellipse from joint to joint, as OpenPose draws its limbs."""
    (y0, x0), (y1, x1) = start, end
    length, angle = math.hypot(x1 - x0, y1 - y0) / 2, math.atan2(y1 - y0, x1 - x0)
    cos, sin, turns = math.cos(angle), math.sin(angle), [2 * math.pi * i / 24 for i in range(24)]
    along, aside = [length * math.cos(t) for t in turns], [half * math.sin(t) for t in turns]
    return [
        ((x0 + x1) / 2 + u * cos - v * sin, (y0 + y1) / 2 + u * sin + v * cos) for u, v in zip(along, aside)
    ]


def _whole_lens(start: np.ndarray, end: np.ndarray, half: float) -> list[int]:
    """The same of whole pixels and degrees, as OpenCV is given it and gives it back: x, y, x, y, ..."""
    (y0, x0), (y1, x1) = start, end
    angle = math.radians(int(math.degrees(math.atan2(y0 - y1, x0 - x1))))
    along = int(math.hypot(x1 - x0, y1 - y0) / 2) * _CIRCLE[0]
    aside = max(1, int(half)) * _CIRCLE[1]
    x = int((x0 + x1) / 2) + along * math.cos(angle) - aside * math.sin(angle)
    y = int((y0 + y1) / 2) + along * math.sin(angle) + aside * math.cos(angle)
    return np.rint(np.stack([x, y], axis=1)).astype(int).ravel().tolist()


def _round_joint(draw: ImageDraw.ImageDraw, centre: np.ndarray, thick: int, colour: tuple[int, ...]) -> None:
    y, x = centre
    draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), colour)


def _whole_joint(draw: ImageDraw.ImageDraw, centre: np.ndarray, radius: int, colour: tuple[int, ...]) -> None:
    """All pixels within the radius of one."""
    y, x = (int(place) for place in centre)
    for down in range(-radius, radius + 1):
        reach = math.isqrt(radius**2 - down**2)
        draw.line((x - reach, y + down, x + reach, y + down), colour)


_CIRCLE = np.stack([turn(np.radians(np.arange(360))) for turn in (np.cos, np.sin)])
# Per style: the height of a picture by the width of a limb, and what draws limbs and joints.
_BRUSHES = {"bold": (32, _lens, _round_joint), "official": (64, _whole_lens, _whole_joint)}
