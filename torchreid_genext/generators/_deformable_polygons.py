"""Polygons filled pixel by pixel, as skimage fills them, for many polygons at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["bars", "filled"]

_VERTEX = 1e-12  # how near a corner a pixel counts as that corner


def filled(polygons: Tensor, size: Sequence[int]) -> Tensor:
    """Pixels in a polygon, on its edges and on its corners.

    A ray leaves the pixel to either side; crossings are counted as in O'Rourke, "Computational Geometry in
    C", section 7.4. All arithmetic is in float64 and in the order of skimage's ``grid_points_in_poly``, so
    that pixels that only rounding puts inside or outside are the same.

    Args:
        polygons: corners in order, (..., V, 2) of (y, x) pixels.
        size: (height, width).

    Returns:
        Booleans (..., height, width).
    """
    corners = polygons.double().reshape(-1, *polygons.shape[-2:])
    near = _bounding_boxes(corners, size)
    which, row, column = near.nonzero(as_tuple=True)
    y, x = ((corners[which, :, axis] - place[:, None]).unbind(-1) for axis, place in enumerate((row, column)))
    corner, right, left = (torch.zeros_like(row, dtype=torch.bool) for _ in range(3))
    for end in range(len(y)):
        corner |= (y[end].abs() < _VERTEX) & (x[end].abs() < _VERTEX)
        side = y[end] * x[end - 1] - y[end - 1] * x[end]
        right ^= _crossed(x[end] > 0, x[end - 1] > 0, side > 0, side < 0)
        left ^= _crossed(x[end] >= 0, x[end - 1] >= 0, side < 0, side > 0)
    inside = corner | right | left  # the two differ on edges only
    return near.masked_scatter(near, inside).view(*polygons.shape[:-2], *size)


def _bounding_boxes(corners: Tensor, size: Sequence[int]) -> Tensor:
    """Pixels that may be inside, (K, height, width), of polygons (K, V, 2)."""
    first, last = corners.amin(1).floor(), corners.amax(1).ceil()
    down, across = (
        (places >= first[:, axis, None]) & (places <= last[:, axis, None])
        for axis, places in enumerate(torch.arange(length, device=corners.device) for length in size)
    )
    return down[:, :, None] & across[:, None]


def _crossed(after: Tensor, before: Tensor, rising: Tensor, falling: Tensor) -> Tensor:
    """Whether an edge from one side of a column to the other meets the ray, by the way that it goes."""
    return (~after & before & rising) | (after & ~before & falling)


def bars(start: Tensor, end: Tensor, half_width: float) -> Tensor:
    """Rectangles around straight lines.

    Args:
        start, end: (..., 2) of (y, x) pixels.
        half_width: pixels to either side.

    Returns:
        Corners (..., 4, 2) float64; those of a line without length are all alike.
    """
    start, end = start.double(), end.double()
    along = start - end
    normal = torch.stack([-along[..., 1], along[..., 0]], -1)
    length = along.norm(dim=-1, keepdim=True)
    normal = half_width * normal / torch.where(length > 0, length, 1)
    return torch.stack([start + normal, start - normal, end - normal, end + normal], -2)
