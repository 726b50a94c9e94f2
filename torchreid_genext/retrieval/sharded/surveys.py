"""What the images of this process see of all others, by camera: nearest, and the greatest distance.

Where a search can prove it, distances are exact, as in one process: equal ones go by place. Others come in
blocks from the measure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from torchreid_genext.retrieval._blocks import blocks_within, check_limit
from torchreid_genext.retrieval._numerics import full_precision
from torchreid_genext.retrieval._search import Search
from torchreid_genext.retrieval._surveys import Lists, found
from torchreid_genext.retrieval.comparison import Measure, Metric
from torchreid_genext.retrieval.neighbours import use_bf16
from torchreid_genext.retrieval.sets import RetrievalSet
from torchreid_genext.retrieval.sharded.neighbours import merge
from torchreid_genext.retrieval.sharded.shards import Shards, visitors
from torchreid_genext.retrieval.spaces import smallest
from torchreid_genext.retrieval.timed import is_additive, search_between

__all__ = ["Part", "Seen", "survey"]


@dataclass(frozen=True, eq=False)
class Part:
    """A set that lives in shards.

    Attributes:
        images: of this process. shards: who holds which. first: place of the first among all images.
    """

    images: RetrievalSet
    shards: Shards
    first: int = 0

    @property
    def place(self) -> int:
        """Of this process's first image among all."""
        return self.first + self.shards.offset


@full_precision()
def survey(measure: Measure, parts: list[Part], k: int, memory_limit: int | None) -> Seen:
    """The k nearest of each image of this process, under its own camera and under others.

    Args:
        measure: of distances, >= 0.
        parts: the sets that are one here, of which this process's images come one after the other.
        k: how many.
        memory_limit: bytes of working memory, 96 MiB unless told; one visiting shard comes on top.
    """
    seen = Seen.of(parts, k)
    for part in parts:
        for source, visiting in visitors(part.images, part.shards):
            start, mine = part.first + part.shards.starts[source], source == part.shards.processes.rank
            first = 0
            for own in parts:
                looks = _looks(measure, own.images, visiting, mine and own is part, k, memory_limit)
                for rows, look in looks if len(own.images) and len(visiting) else ():
                    seen.add(rows + first, start, look)
                first += len(own.images)
    return seen


@dataclass(frozen=True, eq=False)
class Seen:
    """What the images of this process (n,) have seen of others so far.

    Attributes:
        places: of the images among all.
        near: the nearest of the own camera (n, k), the image itself first; infinity where there are fewer.
        far: of other cameras.
        itself: distance of each image to itself. greatest: to the one farthest from it.
    """

    places: Tensor
    near: Lists
    far: Lists
    itself: Tensor
    greatest: Tensor

    @classmethod
    def of(cls, parts: list[Part], k: int) -> Seen:
        """Nothing yet but the images themselves."""
        device = parts[0].images.features.device
        ranges = [torch.arange(part.place, part.place + len(part.images), device=device) for part in parts]
        places = torch.cat(ranges)
        near, far = (
            (torch.full((len(places), k), math.inf, device=device), places.new_zeros(len(places), k))
            for _ in "nf"
        )
        near[0][:, 0], near[1][:, 0] = -1, places
        return cls(places, near, far, *torch.zeros(2, len(places), device=device))

    def add(self, rows: Tensor, start: int, seen: _Look) -> None:
        """What some images have seen of others, from a place on, later than all before."""
        self.greatest[rows] = torch.maximum(self.greatest[rows], seen.greatest)
        for (distances, places), (values, columns) in ((self.near, seen.near), (self.far, seen.far)):
            both = [(distances[rows], places[rows]), (values, columns + start)]
            distances[rows], places[rows] = merge(both, distances.shape[1])
        if seen.itself is not None:
            self.itself[rows] = seen.itself

    def lists(self) -> tuple[Lists, Lists]:
        """Near and far, each image first among the near ones."""
        self.near[0][:, 0] = self.itself
        return self.near, self.far


class _Look(NamedTuple):
    """What some images see of visiting ones: columns, not places; of itself, where one is among them."""

    near: Lists
    far: Lists
    greatest: Tensor
    itself: Tensor | None


def _looks(
    measure: Measure, own: RetrievalSet, visiting: RetrievalSet, same: bool, k: int, memory_limit: int | None
) -> Iterator[tuple[Tensor, _Look]]:
    """Some images of a set at a time, and what they see; `same`: the visiting set is this very one."""
    order = visiting.camids.argsort(stable=True)
    if isinstance(measure, Metric):
        features = own.features, visiting.features
        search, share = Search(*features, bf16=use_bf16(*features), order=order.to(features[0].device)), 1.0
    elif is_additive(measure):
        search, share = search_between(measure, own, visiting, order), 0.5
    else:
        yield from _by_blocks(measure, own, visiting, same, k, memory_limit)
        return
    cameras = visiting.camids[order]
    for camera in own.camids.unique().tolist():
        inside = slice(*torch.searchsorted(cameras, torch.tensor([camera, camera + 1])).tolist())
        images = (own.camids == camera).nonzero()[:, 0].to(own.features.device)
        for rows in images.split(search.rows_within(check_limit(memory_limit), k)):
            yield rows, _searched(search, share, rows, inside, same, k)


def _searched(search: Search, share: float, rows: Tensor, inside: slice, same: bool, k: int) -> _Look:
    """Images of one camera, whose others are those columns."""
    bounds, size = search.block(rows), inside.stop - inside.start
    greatest, itself = search.farthest(rows, bounds), None
    if same:
        bounds.scatter_(1, search.order.argsort()[rows, None], -math.inf)
        itself = torch.zeros_like(greatest)
        itself += 0 if search.addend is None else share * search.addend.pairs(rows, rows)
    near = found(search, rows, bounds[:, inside], k, size - same, inside.start)
    bounds[:, inside] = -math.inf
    far = found(search, rows, bounds, k, bounds.shape[1] - size)
    near, far = ((distances * share, columns) for distances, columns in (near, far))
    return _Look(near, far, greatest * share, itself)


def _by_blocks(
    measure: Measure, own: RetrievalSet, visiting: RetrievalSet, same: bool, k: int, memory_limit: int | None
) -> Iterator[tuple[Tensor, _Look]]:
    device = own.features.device
    cameras, theirs = own.camids.to(device), visiting.camids.to(device)
    for part in blocks_within(len(own), len(visiting) * (measure.bytes_per_pair + 24), memory_limit):
        block, itself = measure(own.select(part), visiting), None
        rows, inside = torch.arange(part.start, part.stop, device=device), cameras[part, None] == theirs
        greatest = block.amax(1)
        if same:
            itself = block.diagonal(part.start).clone()
            block.diagonal(part.start).fill_(math.inf)
        near, far = (
            smallest(block.masked_fill(left_out, math.inf), min(k, len(visiting)))
            for left_out in (~inside, inside)
        )
        yield rows, _Look(near, far, greatest, itself)
