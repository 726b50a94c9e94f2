"""What flows through a chain: two sets, how their images are compared, and what is known besides.

Steps that change features change the sets; steps that change how features are compared change the measure.
Distances come in blocks of query rows, so that the matrix of all of them never has to exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from torchreid_genext.retrieval.neighbours import DEFAULT_MEMORY_LIMIT
from torchreid_genext.retrieval.sets import RetrievalSet, Sightings

__all__ = ["METRICS", "Comparison", "Measure", "Metric", "distances"]

METRICS = ("euclidean", "cosine")


class Measure(Protocol):
    """How far the images of two sets are from each other."""

    bytes_per_pair: int  # of working memory, the result included

    def __call__(self, x: RetrievalSet, y: RetrievalSet) -> Tensor:
        """Distances (len(x), len(y)) float32, smaller is closer; each depends on its two images only."""


@dataclass(frozen=True)
class Metric:
    """A distance of features: ``euclidean`` (squared, as in torchreid) or ``cosine``.

    Raises:
        ValueError: if the name is unknown.
    """

    name: str = "euclidean"

    bytes_per_pair = 4

    def __post_init__(self) -> None:
        if self.name not in METRICS:
            raise ValueError(f"unknown metric {self.name!r}; choose from {', '.join(METRICS)}")

    def __call__(self, x: RetrievalSet, y: RetrievalSet) -> Tensor:
        return distances(x.features, y.features, self.name)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Query and gallery on their way through a chain.

    Attributes:
        query: what is searched for.
        gallery: what is searched.
        measure: how far two images are apart.
        train: who was where when, of the training split, for steps that learn from it.
        memory_limit: bytes of working memory; None is the library's default.
        index: how neighbours are searched, see ``neighbours.nearest``.
        reranked: final distances (B, G) of a block of query rows, once a step looked at all images together.
    """

    query: RetrievalSet
    gallery: RetrievalSet
    measure: Measure = Metric()
    train: Sightings | None = None
    memory_limit: int | None = None
    index: str = "exact"
    reranked: Callable[[slice | Tensor], Tensor] | None = None

    def with_sets(self, query: RetrievalSet, gallery: RetrievalSet) -> Comparison:
        """The same with other sets.

        Raises:
            ValueError: after re-ranking, whose distances belong to the sets that it saw.
        """
        self.check_open()
        return replace(self, query=query, gallery=gallery)

    def with_measure(self, measure: Measure) -> Comparison:
        """The same with another measure; raises as `with_sets`."""
        self.check_open()
        return replace(self, measure=measure)

    def check_open(self) -> None:
        """Raise ValueError if re-ranking has had the last word."""
        if self.reranked is not None:
            raise ValueError("expected re-ranking to be the last step, got another one after it")

    def with_reranking(self, reranked: Callable[[slice | Tensor], Tensor]) -> Comparison:
        """The same with final distances; raises as `with_sets`."""
        self.check_open()
        return replace(self, reranked=reranked)

    def distances(self, rows: slice | Tensor, columns: slice = slice(None)) -> Tensor:
        """Distances (B, b) of a block of query rows, or of some by index, to a block of the gallery."""
        if self.reranked is not None:
            return self.reranked(rows)[:, columns]
        return self.measure(self.query.select(rows), self.gallery.select(columns))

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All distances, as many query rows at a time as the memory limit allows."""
        for rows in self.row_blocks(len(self.query), len(self.gallery)):
            yield rows, self.distances(rows)

    def row_blocks(self, rows: int, columns: int) -> Iterator[slice]:
        """Slices of `rows` whose distances to `columns` images fit into the memory limit."""
        size = max(1, self.pairs_within_limit // columns)
        for start in range(0, rows, size):
            yield slice(start, min(start + size, rows))

    @property
    def search(self) -> dict[str, Any]:
        """Options of every search for neighbours."""
        return {"memory_limit": self.memory_limit, "index": self.index}

    @property
    def pairs_within_limit(self) -> int:
        """How many pairs of images can be compared at a time."""
        return max(1, (self.memory_limit or DEFAULT_MEMORY_LIMIT) // self.measure.bytes_per_pair)

    def matrix(self) -> Tensor:
        """All distances (Q, G) at once, for small sets and for what takes nothing else."""
        return torch.cat([block for _, block in self.blocks()])


def distances(query: Tensor, gallery: Tensor, metric: str = "euclidean") -> Tensor:
    """Distances (Q, G) as torchreid computes them: squared Euclidean, or one minus the cosine.

    Raises:
        ValueError: if the metric is unknown.
    """
    if metric == "cosine":
        return 1 - normalize(query) @ normalize(gallery).t()
    if metric != "euclidean":
        raise ValueError(f"unknown metric {metric!r}; choose from {', '.join(METRICS)}")
    squares = query.square().sum(1)[:, None] + gallery.square().sum(1)
    return squares.addmm_(query, gallery.t(), alpha=-2)
