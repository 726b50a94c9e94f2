"""Neighbour feature centralization: Pose2ID (Yuan et al., CVPR 2025), section 4."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchreid_genext.retrieval._blocks import blocks_within
from torchreid_genext.retrieval._numerics import unit
from torchreid_genext.retrieval.comparison import Comparison
from torchreid_genext.retrieval.neighbourhoods import (
    cross_camera_neighbours,
    nearest_by,
)
from torchreid_genext.retrieval.neighbours import at_most, check_features, nearest
from torchreid_genext.retrieval.sets import RetrievalSet
from torchreid_genext.retrieval.spatiotemporal import FORMS, TimedMeasure
from torchreid_genext.retrieval.steps.base import SIDES, Step, on_each, on_joint, option

__all__ = [
    "NEIGHBOURS", "Centralize", "add_rows", "members_in_order", "mutual_neighbours", "mutual_pairs", "nfc",
    "sum_members",
]  # fmt: skip

NEIGHBOURS = ("any", "cross_camera", "spatiotemporal", "cross_camera+spatiotemporal")


@dataclass(frozen=True)
class Centralize(Step):
    """Neighbour feature centralization of each set, or of both as one.

    The official demo L2-normalises the sums; the bare sums of the root ``NFC.py`` make images with neighbours
    longer than images without, which wrecks Euclidean ranking.
    """

    k1: int = option(2, "neighbours of each feature that are considered", least=1)
    k2: int = option(2, "how highly a neighbour must rank the feature in return", least=1)
    side: str = option("both", "joint mixes the sets (transductive), both has each alone", choices=SIDES)
    neighbours: str = option("any", "which images can be neighbours", choices=NEIGHBOURS)
    form: str = option("ratio", "of time among spatiotemporal neighbours", choices=FORMS)
    weight: float = option(0.07, "of time among them", least=0)
    sigma: float | None = option(None, "of its smoothing, as spatiotemporal.sigma", least=0)
    normalize_before: bool = option(True, "L2, so that neighbours are those by angle")
    normalize_after: bool = option(True, "L2, so that sums of many and of few compare")
    self_distance: float = option(
        float("inf"), "squared distance at which an image finds itself; official: 1000", infinite=True
    )

    name = "nfc"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neighbours != "any" and self.self_distance != float("inf"):
            raise ValueError(f"expected neighbours any with a finite self_distance, got {self.neighbours}")

    @property
    def uses(self) -> tuple[str, ...]:
        """Where neighbours are looked for, and by what besides appearance."""
        where = {
            "both": "neighbours within each set",
            "joint": "transductive: neighbours across query and gallery",
        }.get(self.side, f"neighbours within the {self.side} set")
        extra = ["camera ids"] if self.neighbours != "any" else []
        extra += ["time stamps"] if self._timed else []
        return where, *extra

    @property
    def needs(self) -> frozenset[str]:
        """Cameras and times, as far as `neighbours` asks for them."""
        needed = {"cameras"} if self.neighbours != "any" else set()
        return frozenset(needed | ({"frames", "training times"} if self._timed else set()))

    @property
    def _timed(self) -> bool:
        return "spatiotemporal" in self.neighbours

    def __call__(self, comparison: Comparison) -> Comparison:
        centralized = functools.partial(self._centralized, comparison=comparison)
        if self.side == "joint":
            return on_joint(comparison, centralized)
        return on_each(comparison, self.side, centralized, self._left_alone)

    def pairs(self, images: RetrievalSet, comparison: Comparison) -> tuple[Tensor, Tensor]:
        """Who gets whose feature added, as `mutual_neighbours` gives it.

        Args:
            images: one set as it comes to this step, or both joined.
            comparison: whose training split and limits hold.
        """
        return self._mutual(self._looked_at(images), comparison)

    def _centralized(self, images: RetrievalSet, comparison: Comparison) -> Tensor:
        images = self._looked_at(images)
        features = add_rows(images.features, *self._mutual(images, comparison))
        return unit(features) if self.normalize_after else features

    def _looked_at(self, images: RetrievalSet) -> RetrievalSet:
        return images.with_features(unit(images.features)) if self.normalize_before else images

    def measure(self, comparison: Comparison) -> TimedMeasure:
        """Distance of neighbours whom time tells apart."""
        return TimedMeasure.fit(comparison.train, form=self.form, weight=self.weight, sigma=self.sigma)

    def _mutual(self, images: RetrievalSet, comparison: Comparison) -> tuple[Tensor, Tensor]:
        if self.neighbours == "any":
            options = {"k1": self.k1, "k2": self.k2, "self_distance": self.self_distance}
            return mutual_neighbours(images.features, **options, **comparison.search)
        if self.neighbours == "cross_camera":
            lists = cross_camera_neighbours(images.features, images.camids, k=self.k1, **comparison.search)
        else:
            measure = self.measure(comparison)
            across = "cross_camera" in self.neighbours
            options = {"cross_camera": across, "memory_limit": comparison.memory_limit}
            lists = nearest_by(measure, images, k=self.k1, **options)
        return mutual_pairs(lists, self.k2)

    def _left_alone(self, images: RetrievalSet) -> Tensor:
        # The other side must stay comparable: it gets the same normalisation, but no neighbours.
        features = images.features
        return unit(features) if self.normalize_before or self.normalize_after else features


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
        k1: how many neighbours of each row are considered; more than there are means all of them, and is
            said in a warning.
        k2: how highly the neighbour must rank the row in return, likewise; beyond ``k1`` it has no further
            effect, since a neighbour that does not list the row cannot rank it.
        self_distance: squared distance at which a row finds itself. The official code sets 1000 and so counts
            a row twice where features are farther apart than that; the default leaves the row itself out.
        memory_limit: bytes of working memory, see ``neighbours.nearest``; lists and result on top.
        precision: of the search for candidates, see ``neighbours.nearest``; the result does not depend on it.
        index: ``exact``, or how faiss searches, see ``neighbours.nearest``.

    Returns:
        New tensor (N, D), float32, not normalised; a row without mutual neighbours is unchanged. Rows that
        are sums of the same features are equal, bit for bit: a sum runs by ascending index, own included.

    Raises:
        ValueError: unless ``features`` is finite and ``k1`` and ``k2`` are integers >= 1.
    """
    features = check_features(features)
    row, neighbour = mutual_neighbours(
        features, k1=k1, k2=k2, self_distance=self_distance, memory_limit=memory_limit, precision=precision,
        index=index,
    )  # fmt: skip
    return add_rows(features, row, neighbour, memory_limit=memory_limit)


def add_rows(
    features: Tensor, row: Tensor, neighbour: Tensor, *, memory_limit: int | None = None
) -> Tensor:
    """A copy of `features` (N, D) in which row ``row[p]`` has got feature ``neighbour[p]``, for all p.

    Args:
        row: ascending, int64 (P,).
        neighbour: of each row, int64 (P,).
        memory_limit: bytes of working memory, on top of the result.
    """
    counts = torch.bincount(row, minlength=len(features))
    ends, most = [0, *counts.cumsum(0).tolist()], int(counts.max())
    result = torch.empty_like(features)
    for rows in blocks_within(len(features), 12 * features.shape[1] + 48 * (most + 1), memory_limit):
        pairs = slice(ends[rows.start], ends[rows.stop])
        own = torch.arange(rows.start, rows.stop, device=row.device)
        members = members_in_order(own, row[pairs] - rows.start, neighbour[pairs], most, len(features))
        result[rows] = sum_members(members, len(features), features.__getitem__)
    return result


def members_in_order(own: Tensor, row: Tensor, neighbour: Tensor, most: int, nobody: int) -> Tensor:
    """The neighbours of each row and itself, by ascending index, int64 (B, most + 1).

    Args:
        own: index of each row (B,).
        row: ascending places among the rows (P,).
        neighbour: their neighbours' indices (P,), `most` for one row at most.
        nobody: what fills up short rows, larger than any index.
    """
    counts = torch.bincount(row, minlength=len(own))
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    members = own.new_full((len(own), most + 1), nobody)
    members[:, most] = own
    members[row, place] = neighbour
    return members.sort(dim=1).values


def sum_members(members: Tensor, nobody: int, fetch: Callable[[Tensor], Tensor]) -> Tensor:
    """Sums (B, D) of what is fetched for the members of each row, one after the other from left to right.

    The order alone decides on the bits, on any device: no row is added to twice in one call.
    """
    total = fetch(members[:, 0])
    for column in members[:, 1:].unbind(1):
        some = (column < nobody).nonzero()[:, 0]
        total.index_add_(0, some, fetch(column[some]))
    return total


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
        Two int64 tensors of one length, ordered by i: the rows, and the neighbour of each. A set of one image
        has none.

    Raises:
        ValueError: as ``nfc``.
    """
    features = check_features(features)
    most = len(features) - 1
    k1, k2 = at_most(f"mutual neighbours of {most + 1} images", k1=(k1, most), k2=(k2, most))
    if most == 0:
        return tuple(torch.empty(2, 0, dtype=torch.int64, device=features.device))
    distances, indices = nearest(
        features, k=k1, memory_limit=memory_limit, precision=precision, index=index
    )
    if self_distance != math.inf:
        indices = _with_self(distances, indices, self_distance)
    return mutual_pairs(indices, k2, memory_limit=memory_limit)


def mutual_pairs(lists: Tensor, k2: int, *, memory_limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Pairs (i, j) such that j is in the list of i, and i among the first k2 of the list of j.

    Args:
        lists: neighbours of each row, nearest first, int64 (N, k1); -1 where a row has no more.
        k2: how highly the neighbour must rank the row, >= 1.
        memory_limit: bytes of working memory, 96 MiB unless told.

    Returns:
        As `mutual_neighbours`.
    """
    row = torch.arange(len(lists), device=lists.device)[:, None].expand_as(lists)
    returned, ranked = lists >= 0, lists[:, :k2].contiguous()
    for part in blocks_within(len(lists), 10 * lists.shape[1] * ranked.shape[1], memory_limit):
        returned[part] &= (ranked[lists[part]] == row[part, :, None]).any(2)  # does the neighbour list it?
    return row[returned], lists[returned]


def _with_self(distances: Tensor, indices: Tensor, self_distance: float) -> Tensor:
    """The ``k1`` nearest when each row also finds itself at a finite distance."""
    own = torch.arange(len(indices), device=indices.device)[:, None]
    distances = torch.cat([distances, torch.full_like(distances[:, :1], self_distance)], dim=1)
    order = distances.argsort(dim=1, stable=True)[:, :-1]
    return torch.cat([indices, own], dim=1).gather(1, order)
