"""A training split as queries and galleries of people that nothing was learnt from."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from torchreid_genext.retrieval.rules import PROTOCOLS
from torchreid_genext.retrieval.sets import RetrievalSet, unmatched_queries

__all__ = ["Part", "folds"]

Part = tuple[RetrievalSet, RetrievalSet, RetrievalSet]  # query, gallery, and the other identities


def folds(images: RetrievalSet, number: int, *, seed: int = 0) -> Iterator[Part]:
    """Query, gallery, and the images of the other identities, once for each fold.

    Args:
        images: a training split.
        number: of folds, 2 at least.
        seed: of the choice of queries.

    Raises:
        ValueError: if there are fewer identities than folds, or a fold has no query with a match.
    """
    identities = images.pids.unique()
    if not 2 <= number <= len(identities):
        raise ValueError(f"expected 2..{len(identities)} folds, got {number}")
    for fold in range(number):
        held_out = torch.isin(images.pids, identities[fold::number])
        query, gallery = _query_and_gallery(images.select(held_out), seed + fold)
        yield query, gallery, images.select(~held_out)


def _query_and_gallery(images: RetrievalSet, seed: int) -> tuple[RetrievalSet, RetrievalSet]:
    """One image of each identity and camera to search for, all others to be searched."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    cameras = torch.zeros_like(images.pids) if images.camids is None else images.camids
    groups = torch.stack([images.pids, cameras], dim=1).unique(dim=0, return_inverse=True)[1]
    chosen = torch.empty(int(groups.max()) + 1, dtype=torch.int64)
    chosen[groups[order]] = order  # whichever comes last
    is_query = torch.zeros(len(images), dtype=torch.bool)
    is_query[chosen] = True
    query, gallery = images.select(is_query), images.select(~is_query)
    return _with_matches(query, gallery), gallery


def _with_matches(query: RetrievalSet, gallery: RetrievalSet) -> RetrievalSet:
    """Without the queries that nothing in the gallery could answer."""
    protocol = PROTOCOLS["plain" if query.camids is None else "market1501"]
    unmatched = unmatched_queries(query, gallery, protocol)
    lost = set(unmatched.absent) | set(unmatched.same_camera)
    cameras = [0] * len(query) if query.camids is None else query.camids.tolist()
    pairs = zip(query.pids.tolist(), cameras)
    kept: Tensor = torch.tensor([pair not in lost for pair in pairs])
    if not kept.any():
        raise ValueError("expected training identities with several images under two cameras, got none")
    return query.select(kept)

