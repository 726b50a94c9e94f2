"""Drawn skeletons of a data set in memory, one an image, as pose-conditioned generators look at them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from torchreid_genext.data.images.reading import image_size
from torchreid_genext.data.poses.drawing import draw_skeleton
from torchreid_genext.data.poses.joints import LIMBS
from torchreid_genext.data.poses.names import pose_of

__all__ = ["draw_skeletons", "pictures", "scaled"]

_log = logging.getLogger(__name__)


def scaled(pose: ArrayLike, old: Sequence[int], new: Sequence[int]) -> np.ndarray:
    """Joints of an image of one size in the same image of another.

    Args:
        pose: (K, 2) of (y, x) pixels, -1 in either coordinate where the joint is missing.
        old: height and width before. new: height and width after.

    Returns:
        (K, 2) float, -1 where the joint is missing.
    """
    points = np.asarray(pose, float)
    moved = (points + 0.5) * np.divide(
        new, old
    ) - 0.5  # pixels are areas, and a joint is in the middle of one
    return np.where((points == -1).any(axis=1, keepdims=True), -1.0, moved)


def draw_skeletons(
    paths: Sequence[str], poses: Mapping[str, ArrayLike], size: Sequence[int], *, style: str = "bold"
) -> tuple[Tensor, Tensor]:
    """Skeletons of images, as far as there are joints for them.

    Args:
        paths: files of the images, whose sizes the joints are for.
        poses: file name -> (18, 2) joints, as `read_market_annotations` gives them.
        size: height and width of the pictures.
        style: of the drawing, as in `draw_skeleton`.

    Returns:
        Pictures (N, 3, H, W) uint8, and which of them show somebody, (N,) bool; the others are black.

    Raises:
        ValueError: if not a single image has joints, or the style is unknown.
    """
    pictures = torch.zeros(len(paths), 3, *size, dtype=torch.uint8)
    shown = torch.zeros(len(paths), dtype=torch.bool)
    for row, path in enumerate(paths):
        pose = pose_of(poses, path)
        if pose is None or (np.asarray(pose) == -1).all():
            continue
        picture = draw_skeleton(scaled(pose, image_size(path), size), tuple(size), style=style)
        pictures[row], shown[row] = torch.from_numpy(np.array(picture)).permute(2, 0, 1), True
    _report(paths, shown, next(iter(poses), None))
    return pictures, shown


def pictures(poses: Mapping[str, ArrayLike], size: Sequence[int], *, style: str = "bold") -> Tensor:
    """Skeletons of poses that somebody shall be shown in.

    Args:
        poses: name -> (18, 2) joints in pixels of the pictures, as `standard_poses` gives them; at least one.
        size: height and width of the pictures.
        style: of the drawing, as in `draw_skeleton`.

    Returns:
        Pictures (N, 3, H, W) uint8, in the order of the poses.

    Raises:
        ValueError: if there is no pose, one shows no limb (it is named), or the style is unknown.
    """
    if not poses:
        raise ValueError("expected at least one pose, got none")
    drawn = {name: draw_skeleton(pose, tuple(size), style=style) for name, pose in poses.items()}
    for name, pose in poses.items():
        present = (np.asarray(pose) != -1).all(axis=1)
        if not any(present[start] and present[end] for start, end in LIMBS):
            raise ValueError(f"expected a limb, two joints that belong together, in pose {name}, got none")
    return torch.stack([torch.from_numpy(np.array(each)).permute(2, 0, 1) for each in drawn.values()])


def _report(paths: Sequence[str], shown: Tensor, known: str | None) -> None:
    missing = [path for path, seen in zip(paths, shown.tolist(), strict=True) if not seen]
    if len(missing) == len(paths):
        other = f", but of {known}" if known else ""
        raise ValueError(f"expected joints of some of {len(paths)} images, got none of {paths[0]}{other}")
    if missing:
        _log.warning("%d of %d images have no joints, such as %s", len(missing), len(paths), missing[0])
