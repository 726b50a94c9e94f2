"""Identity density: how far features lie from the centre of their identity (Pose2ID, CVPR 2025, "ID^2")."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from torchreid_genext.retrieval.neighbours import check_features

__all__ = ["id2"]


def id2(features: Tensor, pids: Tensor) -> Tensor:
    """Identity density (Pose2ID, "ID^2"): squared distance of each normalised feature to its identity's mean.

    Args:
        features: shape (N, D), any scale, no zero rows.
        pids: identity of each row, shape (N,).

    Returns:
        Density of each row (N,), in 0 .. 4, smaller is denser; its mean is the published number. The centre
        is the mean of the normalised features and is not normalised again.

    Raises:
        ValueError: if the lengths differ or a value is not finite.
    """
    features = normalize(check_features(features))
    pids = torch.as_tensor(pids, device=features.device)
    if pids.shape != features.shape[:1]:
        raise ValueError(
            f"expected {len(features)} pids, one for each feature, got shape {tuple(pids.shape)}"
        )
    _, identity, counts = pids.unique(return_inverse=True, return_counts=True)
    centres = features.new_zeros(len(counts), features.shape[1]).index_add_(0, identity, features)
    centres /= counts[:, None]
    return torch.cat(
        [
            (part - centres[some]).square_().sum(1)
            for part, some in zip(features.split(8192), identity.split(8192))
        ]
    )
