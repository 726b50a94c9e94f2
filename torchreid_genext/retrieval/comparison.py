"""What flows through a chain: two sets, how their images are compared, and what is known besides.

Steps that change features change the sets; steps that change how features are compared change the measure.
Distances come in blocks of query rows, so that the matrix of all of them never has to exist.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from torchreid_genext.retrieval._blocks import blocks_within, check_limit
from torchreid_genext.retrieval._numerics import full_precision, products, unit
from torchreid_genext.retrieval.density import id2
from torchreid_genext.retrieval.metrics import Protocol as Rules
from torchreid_genext.retrieval.metrics import protocol_named, rank_streamed
from torchreid_genext.retrieval.open_set import OpenSet, open_set
from torchreid_genext.retrieval.report import Report
from torchreid_genext.retrieval.sets import RetrievalSet, Training, unmatched_queries

if TYPE_CHECKING:
    from torchreid_genext.retrieval.steps import Step

__all__ = ["METRICS", "Blended", "Comparison", "Measure", "Metric", "distances"]

METRICS = ("euclidean", "cosine")
_HOSTS = ("l2", "rerank")  # steps that torchreid has, too: chains of these alone keep its numbers to the bit
_FAR = 16.0  # squared distance from the origin, in mean squared distances from the mean

logger = logging.getLogger(__name__)


class Measure(Protocol):
    """How far the images of two sets are from each other."""

    name: str  # for reports
    bytes_per_pair: int  # of working memory, the result included

    def __call__(self, x: RetrievalSet, y: RetrievalSet) -> Tensor:
        """Distances (len(x), len(y)) float32, smaller is closer; each depends on its two images only."""


@dataclass(frozen=True)
class Metric:
    """A distance of features: ``euclidean`` (squared, as in torchreid) or ``cosine``.

    Attributes:
        name: of the distance.
        steady: whether equal features get equal distances, wherever they stand in a block; else the digits
            are torchreid's, which differ by the last bit at the edges of odd blocks.

    Raises:
        ValueError: if the name is unknown.
    """

    name: str = "euclidean"
    steady: bool = False

    bytes_per_pair = 4

    def __post_init__(self) -> None:
        if self.name not in METRICS:
            raise ValueError(f"unknown metric {self.name!r}; choose from {', '.join(METRICS)}")

    def __call__(self, x: RetrievalSet, y: RetrievalSet) -> Tensor:
        if not self.steady:
            return distances(x.features, y.features, self.name)
        if self.name == "cosine":
            return products(unit(x.features), unit(y.features), times=-1).add_(1)
        squares = x.features.square().sum(1), y.features.square().sum(1)
        return products(x.features, y.features, times=-2, plus=squares)


@dataclass(frozen=True)
class Blended:
    """A distance of features as they are, and of those that the images know from earlier.

    Attributes:
        measure: of both.
        weight: share of the earlier features, in 0 .. 1.
    """

    measure: Measure
    weight: float

    @property
    def name(self) -> str:
        """That of the measure."""
        return self.measure.name

    @property
    def bytes_per_pair(self) -> int:
        """As the measure, beside the first distance."""
        return self.measure.bytes_per_pair + 4

    def __call__(self, x: RetrievalSet, y: RetrievalSet) -> Tensor:
        return self.measure(x, y).lerp_(self.measure(x.as_earlier(), y.as_earlier()), self.weight)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Query and gallery on their way through a chain.

    Attributes:
        query: what is searched for.
        gallery: what is searched.
        measure: how far two images are apart.
        train: the training split, for steps that learn from it.
        memory_limit: bytes of working memory; None is the library's default.
        index: how neighbours are searched, see ``neighbours.nearest``.
        reranked: final distances (B, G) of a block of query rows, once a step looked at all images together.
        steps: that were applied. seconds: what they took, by name.
    """

    query: RetrievalSet
    gallery: RetrievalSet
    measure: Measure = Metric()
    train: Training | None = None
    memory_limit: int | None = None
    index: str = "exact"
    reranked: Callable[[slice | Tensor], Tensor] | None = None
    steps: tuple[Step, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def after(self, step: Step) -> Comparison:
        """The comparison that a step makes of this one."""
        start = time.perf_counter()
        before = self._centred(step)
        if step.name not in _HOSTS and isinstance(self.measure, Metric):
            before = replace(before, measure=replace(self.measure, steady=True))
        with full_precision():
            changed = step(before)
        if step.final:  # the features themselves stay where they were
            changed = replace(self, reranked=changed.reranked)
        seconds = self.seconds.get(step.name, 0.0) + time.perf_counter() - start
        return replace(changed, steps=(*self.steps, step), seconds={**self.seconds, step.name: seconds})

    def rank(self, protocol: Rules | str = "market1501", *, max_rank: int = 50) -> Report:
        """Rank the gallery for each query.

        Args:
            protocol: what counts: a ``metrics.Protocol`` or the name of one.
            max_rank: length of the CMC curve, >= 1; at most the gallery's size.

        Returns:
            The report; rates in 0 .. 1.

        Raises:
            ValueError: if no query has a match (it says which and why), or an argument is out of range.
        """
        protocol = protocol_named(protocol)
        self._check_matches(protocol)
        start = time.perf_counter()
        comparison = self._centred()
        with full_precision():
            ranking = rank_streamed(
                comparison._block, *self._labels(),
                whole_rows=self.reranked is not None,  # re-ranking gives whole rows
                memory_limit=4 * self.pairs_within_limit, protocol=protocol, max_rank=max_rank,
            )  # fmt: skip
            asked = torch.isin(self.gallery.pids, self.query.pids)
            densities = [
                id2(images.features, images.pids, memory_limit=self.memory_limit)
                for images in (self.query, self.gallery.select(asked))
            ]
        seconds = {**self.seconds, "rank": time.perf_counter() - start}
        return Report.of(
            self, ranking, *densities, max_rank=min(max_rank, len(self.gallery)), seconds=seconds
        )

    def open_set(
        self, report: Report, *, thresholds: Mapping[float, float] | None = None, seed: int = 0
    ) -> OpenSet:
        """Decide whether pairs show one person, and whether people are in the gallery: see ``open_set``.

        Distances are computed once more.

        Args:
            report: that `rank` gave.
            thresholds: distances to look at besides, by the FPR that they stand for elsewhere.
            seed: of the choice of the identities that are left out of the gallery.

        Raises:
            ValueError: if the report is of other queries.
        """
        with full_precision():
            return open_set(self._centred(), report.ranking, thresholds=thresholds, seed=seed)

    def _labels(self) -> tuple[Any, ...]:
        """Identities and cameras of both sets, as arrays, in the order of ``rank_streamed``."""
        labels = self.query.pids, self.gallery.pids, self.query.camids, self.gallery.camids
        return tuple(None if values is None else values.numpy() for values in labels)

    def _block(self, rows: slice, columns: slice) -> Tensor:
        return self.distances(rows, columns)

    def _check_matches(self, protocol: Rules) -> None:
        if not protocol.own_camera and (self.query.camids is None or self.gallery.camids is None):
            return  # which ranking refuses
        unmatched = unmatched_queries(self.query, self.gallery, protocol)
        if len(unmatched) == len(self.query):
            raise ValueError(str(unmatched))
        if unmatched:
            logger.warning("%s; %s", unmatched, protocol.fate_of_unmatched)

    def _centred(self, coming: Step | None = None) -> Comparison:
        """The same with features around their mean, where they lie so far off that distances lose digits.

        Euclidean distances do not change by it, but for rounding. torchreid's own chains keep its digits.
        """
        final = coming is None or coming.final
        if not final or self.reranked is not None or self.measure != Metric("euclidean", steady=True):
            return self
        mean = self.gallery.features.mean(0)
        spread = sum((part - mean).square_().sum() for part in self.gallery.features.split(4096))
        if mean.square().sum() * len(self.gallery) <= _FAR * spread:
            return self
        shifted = (images.with_features(images.features - mean) for images in (self.query, self.gallery))
        return self.with_sets(*shifted)

    def with_sets(self, query: RetrievalSet, gallery: RetrievalSet) -> Comparison:
        """The same with other sets.

        Raises:
            ValueError: after re-ranking, whose distances belong to the sets that it saw.
        """
        self.check_open()
        return replace(self, query=query, gallery=gallery)

    def with_measure(self, measure: Measure) -> Comparison:
        """The same with another measure, also of what is blended; raises as `with_sets`."""
        self.check_open()
        blended = isinstance(self.measure, Blended)
        return replace(self, measure=replace(self.measure, measure=measure) if blended else measure)

    def blended(self, weight: float) -> Comparison:
        """The same, in whose distances the features as they are now keep a share; raises as `with_sets`."""
        sets = self.query.remembered(), self.gallery.remembered()
        return replace(self.with_sets(*sets), measure=Blended(self.measure, weight))

    def check_open(self) -> None:
        """Raise ValueError if re-ranking has had the last word."""
        if self.reranked is not None:
            raise ValueError("expected re-ranking to be the last step, got another one after it")

    def with_reranking(self, reranked: Callable[[slice | Tensor], Tensor]) -> Comparison:
        """The same with final distances; raises as `with_sets`."""
        self.check_open()
        return replace(self, reranked=reranked)

    @full_precision()
    def distances(self, rows: slice | Tensor, columns: slice = slice(None)) -> Tensor:
        """Distances (B, b) of a block of query rows, or of some by index, to a block of the gallery.

        Those of a gallery image whose features were zeros are infinite.
        """
        if self.reranked is not None:
            block = self.reranked(rows)[:, columns]
        else:
            block = self.measure(self.query.select(rows), self.gallery.select(columns))
        blank = self.gallery.blank[columns]
        return block.masked_fill(blank, float("inf")) if self._has_blank else block

    @functools.cached_property
    def _has_blank(self) -> bool:
        return bool(self.gallery.blank.any())

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All distances, as many query rows at a time as the memory limit allows."""
        for rows in self.row_blocks(len(self.query), len(self.gallery)):
            yield rows, self.distances(rows)

    def row_blocks(self, rows: int, columns: int) -> Iterator[slice]:
        """Slices of `rows` whose distances to `columns` images fit into the memory limit."""
        return blocks_within(rows, columns * self.measure.bytes_per_pair, self.memory_limit)

    @property
    def search(self) -> dict[str, Any]:
        """Options of every search for neighbours."""
        return {"memory_limit": self.memory_limit, "index": self.index}

    @property
    def pairs_within_limit(self) -> int:
        """How many pairs of images can be compared at a time."""
        return max(1, check_limit(self.memory_limit) // self.measure.bytes_per_pair)

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
