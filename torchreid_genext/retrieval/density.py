"""Identity density: how far features lie from the centre of their identity (Pose2ID, CVPR 2025, "ID^2")."""

from __future__ import annotations

import torch
from torch import Tensor

from torchreid_genext.retrieval._blocks import blocks_within, check_limit
from torchreid_genext.retrieval._numerics import from_fixed, to_fixed, unit
from torchreid_genext.retrieval.neighbours import check_features

__all__ = ["id2"]

_IN_CACHE = 2**22  # bytes of rows that are worked on at a time: twice as fast as all at once


def id2(features: Tensor, pids: Tensor, *, memory_limit: int | None = None) -> Tensor:
    """Identity density (Pose2ID, "ID^2"): squared distance of each normalised feature to its identity's mean.

    Args:
        features: shape (N, D), any scale, no zero rows.
        pids: identity of each row, shape (N,).
        memory_limit: bytes of working memory, 96 MiB unless told.

    Returns:
        Density of each row (N,), in 0 .. 4, smaller is denser; its mean is the published number. The centre
        is the mean of the normalised features and is not normalised again.

    Raises:
        ValueError: if the lengths differ or a value is not finite.
    """
    features = check_features(features)
    pids = torch.as_tensor(pids, device=features.device)
    if pids.shape != features.shape[:1]:
        raise ValueError(
            f"expected {len(features)} pids, one for each feature, got shape {tuple(pids.shape)}"
        )
    _, identity, counts = pids.unique(return_inverse=True, return_counts=True)
    order, ends = identity.argsort(stable=True), [0, *counts.cumsum(0).tolist()]
    result = features.new_empty(len(features))
    half = check_limit(memory_limit) // 2 or 1  # of the centres, and of rows
    for some in blocks_within(len(counts), 16 * features.shape[1], half):
        rows = order[ends[some.start] : ends[some.stop]]
        parts = [
            rows[part] for part in blocks_within(len(rows), 16 * features.shape[1], min(half, _IN_CACHE))
        ]
        centres = _centres(features, parts, identity - some.start, counts[some])
        for part in parts:
            result[part] = (unit(features[part]) - centres[identity[part] - some.start]).square_().sum(1)
    return result


def _centres(features: Tensor, parts: list[Tensor], identity: Tensor, counts: Tensor) -> Tensor:
    """Means (I, D) of the directions of each identity's features, of which the parts name all rows."""
    # Processors add rows of float64 twenty times as fast; not every accelerator has float64.
    dtype = torch.float64 if features.device.type == "cpu" else torch.int64
    sums = torch.zeros(len(counts), features.shape[1], dtype=dtype, device=features.device)
    for part in parts:
        sums.index_add_(0, identity[part], to_fixed(unit(features[part]), dtype))
    return from_fixed(sums).div_(counts[:, None])
