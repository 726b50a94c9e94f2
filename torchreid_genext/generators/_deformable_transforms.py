"""Where parts of one pose are in another: affine transforms from the target image to the source image.

Fits are those of the authors' library: total least squares on normalised points (Hartley and Zisserman,
"Multiple View Geometry", section 4.4). Where they let infinite parameters through, a part is missing here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from torchreid_genext.generators._deformable_parts import (
    HEAD,
    TORSO,
    TRANSFORM_EXTENT,
    limb_rectangles,
    visible,
)

__all__ = ["ESTIMATORS", "fit", "part_transforms", "uniform_transform"]

ESTIMATORS = ("dlt", "least_squares")
_MIRRORED = (1, 0, 3, 2, 5, 4, 7, 6)  # limbs of the other side
_HEAD_FIT = (*HEAD, 2, 5)  # and shoulders
_UNIFORM_FIT = (*TORSO, 9, 12)  # and knees
_OUTSIDE = 1000.0  # pixels, further than any image reaches
_LEAST_AREA = 1e-10  # of points in a line, in units of their spread
_LEAST_DETERMINANT = 1e-9


def part_transforms(keypoints: Tensor, targets: Tensor, *, estimator: str = "dlt") -> Tensor:
    """Where each part of the target is in the source.

    A limb that the source lacks is taken from the limb of the other side.

    Args:
        keypoints: of the source, (B, 18, 2) of (y, x) pixels. targets: of the target, likewise.
        estimator: ``dlt`` (official) or ``least_squares``.

    Returns:
        (B, 10, 2, 3) float64 matrices from (x, y, 1) in the target to (x, y) in the source; a part that is
        missing, or has no area, comes from far outside. Never infinite.

    Raises:
        ValueError: if the estimator is unknown.
    """
    body = fit(*_joints(keypoints, targets, TORSO), estimator=estimator)
    head = fit(*_joints(keypoints, targets, _HEAD_FIT), estimator=estimator)
    seen = (visible(keypoints) & visible(targets))[:, HEAD].any(-1)
    head = torch.where(seen[:, None, None], head, _nowhere(head))
    limbs = fit(*_limbs(keypoints, targets), estimator=estimator)
    return torch.cat([body[:, None], head[:, None], limbs], 1)


def uniform_transform(keypoints: Tensor, targets: Tensor, *, estimator: str = "dlt") -> Tensor:
    """As `part_transforms`, one for the whole body, of hips, shoulders and knees: (B, 1, 2, 3)."""
    return fit(*_joints(keypoints, targets, _UNIFORM_FIT), estimator=estimator)[:, None]


class _Points(NamedTuple):
    """Corresponding points: targets and sources (..., N, 2) as (x, y), and which of them count, (..., N)."""

    target: Tensor
    source: Tensor
    counted: Tensor


def _joints(keypoints: Tensor, targets: Tensor, joints: tuple[int, ...]) -> _Points:
    source, target = keypoints[:, joints].double(), targets[:, joints].double()
    return _Points(target.flip(-1), source.flip(-1), visible(source) & visible(target))


def _limbs(keypoints: Tensor, targets: Tensor) -> _Points:
    target, wanted = limb_rectangles(targets, TRANSFORM_EXTENT)
    source, there = limb_rectangles(keypoints, TRANSFORM_EXTENT)
    source = torch.where(there[..., None, None], source, source[:, _MIRRORED])
    counted = wanted & (there | there[:, _MIRRORED])
    return _Points(target.flip(-1), source.flip(-1), counted[..., None].expand(-1, -1, 4))


def fit(target: Tensor, source: Tensor, counted: Tensor, *, estimator: str = "dlt") -> Tensor:
    """The affine transform that takes points of the target to points of the source.

    Args:
        target, source: (..., N, 2) float64 of (x, y).
        counted: which points are used, (..., N); three at least.
        estimator: ``dlt``, where points of both sides may be wrong, or ``least_squares``, where only those
            of the source are.

    Returns:
        Matrices (..., 2, 3); far outside for points that are too few or lie in a line, on either side.

    Raises:
        ValueError: if the estimator is unknown.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"unknown estimator {estimator!r}; choose from {', '.join(ESTIMATORS)}")
    to, by = _normalized(target, counted), _normalized(source, counted)
    solve = _total_least_squares if estimator == "dlt" else _least_squares
    found = solve(to.points, by.points, counted.to(target))
    linear = found[..., :2] * (to.scale / by.scale)[..., None]
    shift = by.centre + found[..., 2] / by.scale - (linear * to.centre[..., None, :]).sum(-1)
    transform = torch.cat([linear, shift[..., None]], -1)
    sound = _spread_out(to.points) & (counted.sum(-1) >= 3) & _invertible(transform)
    return torch.where(sound[..., None, None], transform, _nowhere(transform))


class _Normalized(NamedTuple):
    """(point - centre) * scale: around 0, sqrt(2) away from it in the root mean square."""

    points: Tensor  # (..., N, 2), 0 for those that do not count
    centre: Tensor  # (..., 2)
    scale: Tensor  # (..., 1)


def _normalized(points: Tensor, counted: Tensor) -> _Normalized:
    weight = counted.to(points)[..., None]
    count = weight.sum(-2).clamp_min(1)
    centre = (points * weight).sum(-2) / count
    centred = (points - centre[..., None, :]) * weight
    spread = (centred.square().sum((-1, -2))[..., None] / count).sqrt()
    scale = torch.where(spread > 0, math.sqrt(2) / spread, 1.0)
    return _Normalized(centred * scale[..., None], centre, scale)


def _total_least_squares(target: Tensor, source: Tensor, weight: Tensor) -> Tensor:
    """Normalised points (..., N, 2) to matrices (..., 2, 3) by the direct linear transform."""
    design = torch.cat([target, torch.ones_like(target[..., :1])], -1) * weight[..., None]
    nothing = torch.zeros_like(design)
    equations = torch.cat(
        [
            torch.cat([design, nothing, source[..., :1]], -1),
            torch.cat([nothing, design, source[..., 1:]], -1),
        ],
        -2,
    )
    solution = torch.linalg.svd(equations, full_matrices=False).Vh[..., -1, :]
    return (-solution[..., :6] / solution[..., 6:]).unflatten(-1, (2, 3))


def _least_squares(target: Tensor, source: Tensor, weight: Tensor) -> Tensor:
    design = torch.cat([target, torch.ones_like(target[..., :1])], -1) * weight[..., None]
    return (torch.linalg.pinv(design) @ source).mT


def _spread_out(points: Tensor) -> Tensor:
    """Whether normalised points (..., N, 2) are more than a line."""
    x, y = points.unbind(-1)
    area = x.square().sum(-1) * y.square().sum(-1) - (x * y).sum(-1).square()
    return area > _LEAST_AREA


def _invertible(transform: Tensor) -> Tensor:
    (a, b), (c, d) = (row.unbind(-1) for row in transform[..., :2].unbind(-2))
    return transform.isfinite().all(-1).all(-1) & ((a * d - b * c).abs() > _LEAST_DETERMINANT)


def _nowhere(like: Tensor) -> Tensor:
    return torch.tensor([[1.0, 0.0, _OUTSIDE], [0.0, 1.0, _OUTSIDE]]).to(like)
