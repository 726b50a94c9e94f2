"""What a chain made of query and gallery, and why: whose features were averaged, and what time added."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from torchreid_genext.retrieval.chain import Chain
from torchreid_genext.retrieval.comparison import Blended, Comparison, Measure, Metric
from torchreid_genext.retrieval.protocol import Training, compare, known
from torchreid_genext.retrieval.sets import RetrievalSet
from torchreid_genext.retrieval.spatiotemporal import TimedMeasure
from torchreid_genext.retrieval.steps.nfc import Centralize

__all__ = ["Neighbour", "Prepared", "Time", "prepare"]


class Neighbour(NamedTuple):
    """An image that was averaged with another: of the query set or of the gallery, its row there."""

    of_query: bool
    row: int


class Time(NamedTuple):
    """What time says of a pair.

    Attributes:
        lag: frames from the query to the gallery image, negative if that is earlier.
        looks: distance by appearance alone, one minus the cosine.
        joint: distance with time.
    """

    lag: int
    looks: float
    joint: float


@dataclass(frozen=True, eq=False)
class Prepared:
    """Query and gallery after a chain.

    Attributes:
        comparison: of both.
        neighbours: what was averaged with each image, by the image itself.
        seconds: that the chain took.
    """

    comparison: Comparison
    neighbours: dict[Neighbour, list[Neighbour]] = field(default_factory=dict)
    seconds: float = 0.0

    def times(self, row: int, columns: Sequence[int]) -> list[Time | None]:
        """Of a query and some gallery images; None for each where time is not part of the distance."""
        measure = _inner(self.comparison.measure)
        if not isinstance(measure, TimedMeasure):
            return [None] * len(columns)
        query = self.comparison.query.select(torch.tensor([row]))
        gallery = self.comparison.gallery
        lags = (gallery.frames - query.frames)[list(columns)].tolist()
        looks, joint = (each(query, gallery)[0].tolist() for each in (Metric("cosine"), measure))
        return [Time(lag, looks[column], joint[column]) for lag, column in zip(lags, columns)]


def _inner(measure: Measure) -> Measure:
    return measure.measure if isinstance(measure, Blended) else measure


def prepare(
    query: RetrievalSet, gallery: RetrievalSet, chain: Chain, *, train: Training | None = None, **options: Any
) -> Prepared:
    """Apply a chain, and note who is averaged with whom.

    Args:
        query, gallery: sets.
        chain: of steps.
        train: for steps that learn.
        options: further ones of ``protocol.compare``.

    Raises:
        ValueError: if the sets lack what a step needs.
    """
    start = time.perf_counter()
    chain.check_needs(known(query, gallery, train))
    comparison, neighbours = compare(query, gallery, train=train, **options), {}
    for step in chain.steps:
        if isinstance(step, Centralize):
            _note(neighbours, step, comparison)
        comparison = comparison.after(step)
    return Prepared(comparison, neighbours, time.perf_counter() - start)


def _note(found: dict[Neighbour, list[Neighbour]], step: Centralize, comparison: Comparison) -> None:
    """Add the pairs of a step to those of others."""
    for images, first in _sides(step.side, comparison):
        for row, other in zip(*(part.tolist() for part in step.pairs(images, comparison))):
            image, neighbour = (_place(first, index) for index in (row, other))
            if neighbour not in found.setdefault(image, []):
                found[image].append(neighbour)


def _sides(side: str, comparison: Comparison) -> list[tuple[RetrievalSet, int]]:
    """The sets in which a step looks, and how many of the first rows of each are queries."""
    query, gallery = comparison.query, comparison.gallery
    if side == "joint":
        return [(query.join(gallery), len(query))]
    sides = [(query, len(query))] if side in ("query", "both") and len(query) > 1 else []
    return sides + ([(gallery, 0)] if side in ("gallery", "both") else [])


def _place(first: int, index: int) -> Neighbour:
    return Neighbour(True, index) if index < first else Neighbour(False, index - first)
