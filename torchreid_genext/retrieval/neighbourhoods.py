"""Whose neighbours count: of any camera, of other cameras only, or by appearance and time together.

The nearest images of an image are mostly its own camera's, minutes apart: they add little that it does not
show itself. Neighbours from other cameras, or at a likely time, bring what another camera saw.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchreid_genext.retrieval.comparison import Measure
from torchreid_genext.retrieval.neighbours import DEFAULT_MEMORY_LIMIT, nearest
from torchreid_genext.retrieval.sets import RetrievalSet

__all__ = ["cross_camera_neighbours", "nearest_by"]


def cross_camera_neighbours(
    features: Tensor, camids: Tensor, *, k: int, memory_limit: int | None = None, index: str = "exact"
) -> Tensor:
    """Indices (N, k) of the nearest rows of other cameras, nearest first; -1 where they are fewer than k.

    Args:
        features: shape (N, D), finite.
        camids: camera of each row, integers (N,).
        k: how many neighbours, >= 1.
        memory_limit: bytes of working memory, on top of a copy of the features; see ``neighbours.nearest``.
        index: see ``neighbours.nearest``.

    Raises:
        ValueError: if k < 1 or a feature is not finite.
    """
    lists = torch.full((len(features), k), -1, dtype=torch.int64, device=features.device)
    for camera in camids.unique():
        own = (camids == camera).nonzero()[:, 0]
        others = (camids != camera).nonzero()[:, 0]
        found = min(k, len(others))
        if found:
            options = {"k": found, "memory_limit": memory_limit, "index": index}
            _, near = nearest(features[own], features[others], **options)
            lists[own, :found] = others.to(lists.device)[near]
    return lists


def nearest_by(
    measure: Measure,
    images: RetrievalSet,
    *,
    k: int,
    cross_camera: bool = False,
    memory_limit: int | None = None,
) -> Tensor:
    """Indices (N, k) of the nearest other images by any measure, nearest first; -1 where they are fewer.

    Args:
        measure: distance of two sets.
        images: shape (N, D) features, with what the measure asks for.
        k: how many neighbours, in 1 .. N - 1.
        cross_camera: leave out images of the same camera.
        memory_limit: bytes of working memory, 96 MiB unless told.

    Raises:
        ValueError: if k is out of range.
    """
    if not 1 <= k <= len(images) - 1:
        raise ValueError(f"expected k in 1..{len(images) - 1}, got {k}")
    limit = memory_limit or DEFAULT_MEMORY_LIMIT
    rows = max(1, limit // (len(images) * measure.bytes_per_pair))
    lists = [_nearest_block(measure, images, part, k, cross_camera) for part in _blocks(len(images), rows)]
    return torch.cat(lists)


def _nearest_block(measure: Measure, images: RetrievalSet, rows: slice, k: int, cross_camera: bool) -> Tensor:
    distances = measure(images.select(rows), images)
    own = torch.arange(rows.start, rows.stop)
    distances[own - rows.start, own] = torch.inf
    if cross_camera:
        distances.masked_fill_(images.camids[rows, None] == images.camids, torch.inf)
    values, lists = distances.topk(k, dim=1, largest=False)
    return lists.masked_fill_(values == torch.inf, -1)


def _blocks(total: int, rows: int) -> list[slice]:
    return [slice(start, min(start + rows, total)) for start in range(0, total, rows)]
