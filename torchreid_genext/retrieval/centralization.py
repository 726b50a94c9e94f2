"""Feature centralization, training-free: Pose2ID (Yuan et al., CVPR 2025), sections 3.3 and 4.

Features of one person scatter around a centre that nobody knows. Two ways to move a feature towards it
without training: add the features of generated images of the same person (``fuse_generated``), or those of
its mutual nearest neighbours, which probably show the same person (``nfc``). ``id2`` measures what was
gained: how far features lie from the centre of their identity.

All functions return unnormalised features, as the formulas stand; ``protocol.Chain`` normalises around them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from torchreid_genext.retrieval.neighbours import check_features, nearest

__all__ = ["add_rows", "fuse_generated", "id2", "mutual_neighbours", "mutual_pairs", "nfc"]


def nfc(
    features: Tensor,
    *,
    k1: int = 2,
    k2: int = 2,
    self_distance: float = math.inf,
    memory_limit: int | None = None,
    precision: str = "auto",
    index: str = "exact",
) -> Tensor:
    """Add to each feature those of its mutual nearest neighbours ("neighbor feature centralization").

    Args:
        features: one row per image, shape (N, D), any scale.
        k1: how many neighbours of each row are considered.
        k2: how highly the neighbour must rank the row in return; beyond ``k1`` it has no further effect,
            since a neighbour that does not list the row cannot rank it.
        self_distance: squared distance at which a row finds itself. The official code sets 1000 and so counts
            a row twice where features are farther apart than that; the default leaves the row itself out.
        memory_limit: bytes of working memory, see ``neighbours.nearest``.
        precision: of the search for candidates, see ``neighbours.nearest``; the result does not depend on it.
        index: ``exact``, or how faiss searches, see ``neighbours.nearest``.

    Returns:
        New tensor (N, D), float32, not normalised; a row without mutual neighbours is unchanged.

    Raises:
        ValueError: unless ``features`` is finite and ``k1`` and ``k2`` are in ``1 .. N - 1``.
    """
    features = check_features(features)
    row, neighbour = mutual_neighbours(
        features, k1=k1, k2=k2, self_distance=self_distance, memory_limit=memory_limit, precision=precision,
        index=index,
    )  # fmt: skip
    return add_rows(features, row, neighbour)


def add_rows(features: Tensor, row: Tensor, neighbour: Tensor) -> Tensor:
    """A copy of `features` (N, D) in which row ``row[p]`` has got feature ``neighbour[p]``, for all p."""
    result = features.clone()
    for some_rows, some_neighbours in zip(row.split(8192), neighbour.split(8192)):
        result.index_add_(0, some_rows, features[some_neighbours])
    return result


def mutual_neighbours(
    features: Tensor,
    *,
    k1: int = 2,
    k2: int = 2,
    self_distance: float = math.inf,
    memory_limit: int | None = None,
    precision: str = "auto",
    index: str = "exact",
) -> tuple[Tensor, Tensor]:
    """Pairs (i, j) such that j is among the k1 nearest of i, and i among the first k2 of the k1 nearest of j.

    Returns:
        Two int64 tensors of one length, ordered by i: the rows, and the neighbour of each.

    Raises:
        ValueError: as ``nfc``.
    """
    most = len(features) - 1
    for name, value in (("k1", k1), ("k2", k2)):
        if not 1 <= value <= most:
            raise ValueError(
                f"expected {name} in 1..{most} (one less than the images of the set), got {value}"
            )
    distances, indices = nearest(
        features, k=k1, memory_limit=memory_limit, precision=precision, index=index
    )
    if self_distance != math.inf:
        indices = _with_self(distances, indices, self_distance)
    return mutual_pairs(indices, k2)


def mutual_pairs(lists: Tensor, k2: int) -> tuple[Tensor, Tensor]:
    """Pairs (i, j) such that j is in the list of i, and i among the first k2 of the list of j.

    Args:
        lists: neighbours of each row, nearest first, int64 (N, k1); -1 where a row has no more.
        k2: how highly the neighbour must rank the row, >= 1.

    Returns:
        As `mutual_neighbours`.
    """
    row = torch.arange(len(lists), device=lists.device)[:, None].expand_as(lists)
    returned = (lists[lists][:, :, :k2] == row[:, :, None]).any(2)  # (N, k1): does the neighbour list it?
    returned &= lists >= 0
    return row[returned], lists[returned]


def _with_self(distances: Tensor, indices: Tensor, self_distance: float) -> Tensor:
    """The ``k1`` nearest when each row also finds itself at a finite distance."""
    own = torch.arange(len(indices), device=indices.device)[:, None]
    distances = torch.cat([distances, torch.full_like(distances[:, :1], self_distance)], dim=1)
    order = distances.argsort(dim=1, stable=True)[:, :-1]
    return torch.cat([indices, own], dim=1).gather(1, order)


def fuse_generated(
    features: Tensor,
    generated: Tensor,
    *,
    eta: float = 1.0,
    reduce: str = "mean",
    normalize_before: bool = False,
) -> Tensor:
    """Add the features of generated images of the same person: ``f + eta * reduce_p g_p`` (Pose2ID, eq. 9).

    The paper sums over the images with eta 1; the official demo takes the mean of 8 with eta 2, on features
    that are not normalised.

    Args:
        features: of the real images, shape (N, D).
        generated: of P generated images for each, shape (N, P, D).
        eta: weight of the generated images, finite.
        reduce: ``mean`` or ``sum`` over the P images.
        normalize_before: L2-normalise every feature first, so that long ones have no louder voice.

    Returns:
        New tensor (N, D), float32, not normalised.

    Raises:
        ValueError: if the shapes do not belong together, a value is not finite, or ``reduce`` is unknown.
    """
    features = check_features(features)
    if generated.ndim != 3 or generated.shape[::2] != features.shape:
        expected = f"({features.shape[0]}, P, {features.shape[1]})"
        raise ValueError(f"expected generated features of shape {expected}, got {tuple(generated.shape)}")
    generated = check_features(generated.flatten(1), "generated features").view(generated.shape)
    if reduce not in ("mean", "sum"):
        raise ValueError(f"unknown reduce {reduce!r}; choose from mean, sum")
    if not math.isfinite(eta):
        raise ValueError(f"expected a finite eta, got {eta}")
    if normalize_before:
        features, total = normalize(features), _sum_of_directions(generated)
    else:
        total = generated.sum(1)
    return features + eta * (total / generated.shape[1] if reduce == "mean" else total)


def _sum_of_directions(generated: Tensor) -> Tensor:
    """``normalize(generated, dim=2).sum(1)`` without a second (N, P, D)."""
    lengths = torch.linalg.vector_norm(generated, dim=2).clamp_min_(1e-12)
    return torch.bmm(lengths.reciprocal_()[:, None], generated)[:, 0]


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
