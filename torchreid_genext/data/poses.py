"""Body poses as 18 OpenPose joints: annotation files, heat-maps and skeleton pictures.

A pose is an (18, 2) array of (y, x) pixels; -1 in either coordinate means that the joint is missing. Files
are those of Deformable GANs and PG2 on Market-1501 (Siarohin et al., CVPR 2018; Ma et al., NIPS 2017); those
of other programs are in `pose_files`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from os import PathLike

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from torchreid_genext import checkpoints

JOINTS = (
    "nose",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
)
LIMBS = (
    (1, 2),
    (1, 5),
    (2, 3),
    (3, 4),
    (5, 6),
    (6, 7),
    (1, 8),
    (8, 9),
    (9, 10),
    (1, 11),
    (11, 12),
    (12, 13),
    (1, 0),
    (0, 14),
    (14, 16),
    (0, 15),
    (15, 17),
)
# OpenPose walks around the colour wheel, one step a joint
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
_HEADER = "name:keypoints_y:keypoints_x"
_LIMB_BRIGHTNESS = 0.6


def read_market_annotations(path: str | PathLike[str]) -> dict[str, NDArray[np.int64]]:
    """Read the joints of every image of an annotation file.

    Args:
        path: lines of ``name: [18 y]: [18 x]`` under the header ``name:keypoints_y:keypoints_x``; a fourth
            field is allowed.

    Returns:
        File name to (18, 2) array of (y, x) pixels, -1 where the joint is missing. In a file with a fourth
        field (SynthReID's ``poses_full.csv``) hidden joints have their true position, which may lie outside
        the image.

    Raises:
        ValueError: if the header or a line is malformed; the message names the line.
    """
    return {name: np.stack([y, x], axis=1) for name, y, x, _ in _rows(path)}


def read_visibility(path: str | PathLike[str]) -> dict[str, NDArray[np.bool_]]:
    """Read which joints of every image can be seen.

    Args:
        path: as in `read_market_annotations`.

    Returns:
        File name to (18,) array: the fourth field where there is one, else whether the joint is annotated.

    Raises:
        ValueError: as in `read_market_annotations`.
    """
    return {
        name: seen.astype(bool) if seen is not None else (y >= 0) & (x >= 0)
        for name, y, x, seen in _rows(path)
    }


def write_market_annotations(
    path: str | PathLike[str], poses: Mapping[str, ArrayLike], visible: Mapping[str, ArrayLike] | None = None
) -> None:
    """Write an annotation file that `read_market_annotations` reads back, whole or not at all.

    Args:
        path: file to write.
        poses: file name to (18, 2) array of (y, x) pixels; rounded to whole pixels.
        visible: file name to (18,) flags; with it a fourth field ``[18 flags]`` is written.

    Raises:
        ValueError: if a pose is not (18, 2).
    """
    header = _HEADER if visible is None else _HEADER + ":visible"
    lines = [
        header,
        *(_line(name, pose, None if visible is None else visible[name]) for name, pose in poses.items()),
    ]
    checkpoints.write_text(os.fspath(path), "\n".join(lines) + "\n")


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
    points, (share, limb, joint) = _checked(pose), _BRUSHES[style]
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


def _rows(path: str | PathLike[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray | None]]:
    with open(path, encoding="utf-8") as file:
        header = file.readline().strip()
        if header not in (_HEADER, _HEADER + ":visible"):
            raise ValueError(f"expected the header {_HEADER!r} in {os.fspath(path)}, got {header!r}")
        for number, line in enumerate(file, start=2):
            if line.strip():
                yield _row(line, f"{os.fspath(path)}, line {number}", header.count(":") + 1)


def _row(line: str, where: str, fields: int) -> tuple[str, np.ndarray, np.ndarray, np.ndarray | None]:
    name, *lists = (field.strip() for field in line.split(":"))
    if len(lists) != fields - 1:
        raise ValueError(f"expected {fields} fields in {where}, got {len(lists) + 1}")
    y, x, *seen = (_integers(field, where) for field in lists)
    return name, y, x, seen[0] if seen else None


def _integers(field: str, where: str) -> np.ndarray:
    try:
        values = json.loads(field)
    except json.JSONDecodeError:
        values = None
    if not isinstance(values, list) or len(values) != len(JOINTS) or not all(type(v) is int for v in values):
        raise ValueError(f"expected a list of {len(JOINTS)} whole numbers in {where}, got {field!r}")
    return np.array(values, np.int64)


def _line(name: str, pose: ArrayLike, seen: ArrayLike | None) -> str:
    whole = np.rint(_checked(pose)).astype(np.int64)
    fields = [name, *(json.dumps(axis.tolist()) for axis in whole.T)]
    if seen is not None:
        fields.append(json.dumps(np.asarray(seen).astype(int).tolist()))
    return ": ".join(fields)


def _checked(pose: ArrayLike) -> np.ndarray:
    points = np.asarray(pose)
    if points.shape != (len(JOINTS), 2):
        raise ValueError(f"expected a pose of shape ({len(JOINTS)}, 2), got {points.shape}")
    return points


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
