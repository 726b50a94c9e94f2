"""Whose neighbours count: of any camera, of other cameras only, or by appearance and time together.

The nearest images of an image are mostly its own camera's, minutes apart: they add little that it does not
show itself. Neighbours from other cameras, or at a likely time, bring what another camera saw.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchreid_genext.retrieval._blocks import blocks
from torchreid_genext.retrieval.comparison import Measure
from torchreid_genext.retrieval.neighbours import DEFAULT_MEMORY_LIMIT, nearest
from torchreid_genext.retrieval.sets import RetrievalSet
from torchreid_genext.retrieval.timed import TimedSpace, is_additive

__all__ = ["cross_camera_neighbours", "nearest_by"]


def cross_camera_neighbours(
    features: Tensor, camids: Tensor, *, k: int, memory_limit: int | None = None, index: str = "exact"
) -> Tensor:
    """Indices (N, k) of the at most k nearest rows of other cameras, nearest first; -1 where they are fewer.

    Args:
        features: shape (N, D), finite.
        camids: camera of each row, integers (N,).
        k: how many neighbours, >= 1.
        memory_limit: bytes of working memory, on top of a copy of the features; see ``neighbours.nearest``.
        index: see ``neighbours.nearest``.

    Raises:
        ValueError: if k < 1, there is not a camera for each row, or a feature is not finite.
    """
    _check_k(k)
    if len(camids) != len(features):
        raise ValueError(f"expected a camera for each row of features, got {len(camids)} for {len(features)}")
    lists = torch.full((len(features), k), -1, dtype=torch.int64, device=features.device)
    camids = camids.cpu()  # where sizes do not make the host wait
    for camera in camids.unique():
        own, others = (rows.nonzero()[:, 0].to(lists.device) for rows in (camids == camera, camids != camera))
        found = min(k, len(others))
        if found:
            options = {"k": found, "memory_limit": memory_limit, "index": index}
            _, near = nearest(features[own], features[others], **options)
            lists[own, :found] = others[near]
    return lists


def nearest_by(
    measure: Measure,
    images: RetrievalSet,
    *,
    k: int,
    cross_camera: bool = False,
    memory_limit: int | None = None,
) -> Tensor:
    """Indices (N, k) of the at most k nearest other images by any measure, nearest first; -1 where fewer.

    Args:
        measure: distance of two sets.
        images: shape (N, D) features, with what the measure asks for.
        k: how many neighbours, >= 1.
        cross_camera: leave out images of the same camera.
        memory_limit: bytes of working memory, 96 MiB unless told.

    Raises:
        ValueError: if k < 1.
    """
    _check_k(k)
    if is_additive(measure):
        space = TimedSpace.of(images, measure, memory_limit=memory_limit)
        return space.nearest_others(k, images.camids if cross_camera else None)
    size = len(images)
    camids = images.camids.to(images.features.device) if cross_camera else None
    lists = torch.full((size, k), -1, dtype=torch.int64, device=images.features.device)
    limit = DEFAULT_MEMORY_LIMIT if memory_limit is None else memory_limit
    for rows in blocks(size, max(1, limit // (size * measure.bytes_per_pair))):
        lists[rows, :size] = _nearest_block(measure, images, rows, min(k, size), camids)
    return lists


def _nearest_block(
    measure: Measure, images: RetrievalSet, rows: slice, k: int, camids: Tensor | None
) -> Tensor:
    with torch.autocast(images.features.device.type, enabled=False):  # distances need all digits
        distances = measure(images.select(rows), images)
    distances.diagonal(rows.start).fill_(torch.inf)
    if camids is not None:
        distances.masked_fill_(camids[rows, None] == camids, torch.inf)
    values, lists = distances.topk(k, dim=1, largest=False)
    return lists.masked_fill_(values == torch.inf, -1)


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"expected k >= 1, got {k}")
