"""k-reciprocal re-ranking of features that live in shards.

Each process surveys its own images, queries and gallery, against the visiting shards of all others. The lists
of neighbours and the sparse descriptions are then exchanged, since each image's description is built from its
neighbours' lists; features are not: of those a process only ever sees visiting shards, and the rows of pairs
that no list knows the distance of.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sized

import torch
import torch.distributed as dist
from torch import Tensor

from torchreid_genext.retrieval._blocks import blocks, check_limit
from torchreid_genext.retrieval._numerics import (
    full_precision,
    magnitude,
    rescaled,
    scale_of,
    unit,
)
from torchreid_genext.retrieval._reciprocal import SparseRows, expand_locally
from torchreid_genext.retrieval.comparison import METRICS
from torchreid_genext.retrieval.neighbours import check_rows, use_bf16
from torchreid_genext.retrieval.reranking import (
    KReciprocal,
    check_ranges,
    counts_of,
    encode,
)
from torchreid_genext.retrieval.sharded.neighbours import merge, nearest_in
from torchreid_genext.retrieval.sharded.processes import Processes
from torchreid_genext.retrieval.sharded.shards import Shards
from torchreid_genext.retrieval._search import Search
from torchreid_genext.retrieval._surveys import Survey
from torchreid_genext.retrieval.spaces import FeatureSpace

__all__ = ["Described", "Reranking", "k_reciprocal"]


@full_precision()
def k_reciprocal(
    q_features: Tensor,
    g_features: Tensor,
    *,
    metric: str = "euclidean",
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    memory_limit: int | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Re-ranked distances of this process's queries to the whole gallery.

    Args:
        q_features: shard of this process (q, D); it may have no rows.
        g_features: shard of this process (g, D), likewise.
        metric: see ``reranking.k_reciprocal``, as are the numbers, which count all images.
        memory_limit: bytes of working memory; lists and descriptions of all images come on top.
        group: processes that hold the shards; None is the whole world.

    Returns:
        Distances (q, G), float32, in 0 .. 1.

    Raises:
        ValueError: if an argument is out of range, on any process.
        RuntimeError: if no process group is initialised, or another process has ended.
    """
    processes = Processes(q_features.device, group)
    reranking = Reranking(
        q_features, g_features, processes,
        metric=metric, k1=k1, k2=k2, lambda_value=lambda_value, memory_limit=memory_limit,
    )  # fmt: skip
    for source, (visiting,) in reranking.query_shards.visits(reranking.query):
        block = reranking.against(source, visiting)(slice(0, len(visiting)))
        parts = [block.t() if rank == source else block.t()[:0] for rank in range(processes.count)]
        arrived = torch.cat(processes.exchange(parts))
        if source == processes.rank:
            mine = arrived.t().contiguous()
    return mine


class Described:
    """All images, queries first, of which this process has its own, and their descriptions.

    Attributes:
        processes: that hold the shards. query: images of this process. gallery: likewise.
        query_shards: who holds which queries. gallery_shards: likewise.
        num_query: queries of all processes. total: images.
    """

    def __init__(self, query: Sized, gallery: Sized, processes: Processes) -> None:
        self.query, self.gallery, self.processes = query, gallery, processes
        self.query_shards = Shards(len(query), processes)
        self.gallery_shards = Shards(len(gallery), processes)
        self.num_query = self.query_shards.total
        self.total = self.num_query + self.gallery_shards.total

    @property
    def places(self) -> tuple[slice, slice]:
        """Where this process's queries and gallery images stand among all images."""
        q, g = self.query_shards.offset, self.num_query + self.gallery_shards.offset
        return slice(q, q + len(self.query)), slice(g, g + len(self.gallery))

    def gathered(self, describe: Callable[[slice], SparseRows]) -> SparseRows:
        """Descriptions of all images, of which each process makes those of its own."""
        parts = []
        for rows in self.places:
            part = describe(rows)
            counts, columns, values = map(self.processes.gather, (part.counts, part.columns, part.values))
            parts.append(SparseRows(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), columns, values))
        return SparseRows.concatenate(parts)

    def in_order(self, values: Tensor) -> Tensor:
        """Values of this process's queries and gallery images -> those of all images, queries first."""
        parts = values.split([len(self.query), len(self.gallery)])
        return torch.cat([self.processes.gather(part) for part in parts])


class Reranking(Described):
    """Descriptions of all images, and the features of this process's own.

    Arguments as ``k_reciprocal``, and raises as it does.
    """

    def __init__(
        self,
        query: Tensor,
        gallery: Tensor,
        processes: Processes,
        *,
        metric: str,
        k1: int,
        k2: int,
        lambda_value: float,
        memory_limit: int | None,
    ) -> None:
        self.metric = metric
        query, gallery = processes.agreed(lambda: self._checked(query, gallery))
        options = {"metric": metric, "lambda_value": str(lambda_value), "memory_limit": str(memory_limit)}
        processes.same(width=query.shape[1], **options)
        self.scale = scale_of(max(processes.numbers(magnitude(query, gallery))))
        super().__init__(self.prepared(query), self.prepared(gallery), processes)
        check = functools.partial(check_ranges, memory_limit=memory_limit)
        processes.agreed(lambda: check(self.total, self.num_query, lambda_value))
        k1, k2 = processes.agreed(lambda: counts_of(self.total, k1, k2))
        processes.same(k1=k1, k2=k2)
        self.lambda_value, self.memory_limit = lambda_value, memory_limit
        self.survey = self._survey(max(k1 + 1, k2))
        self.vectors = self.gathered(lambda rows: self._encoded(k1, rows))
        if k2 > 1:
            options = {"memory_limit": memory_limit}
            self.vectors = self.gathered(
                lambda rows: expand_locally(self.vectors, self.survey.lists, k2, rows, **options)
            )

    def against(self, source: int, visiting: Tensor) -> KReciprocal:
        """Distances of the queries of one process, of features ``visiting``, to this process's gallery."""
        first = self.query_shards.starts[source]
        rows = slice(first, first + len(visiting))
        gallery = self.vectors[self.places[1]].fixed().transposed(self.total)
        space = FeatureSpace(visiting, self.gallery, self.memory_limit)
        return KReciprocal(
            space, self.survey.greatest[rows], self.vectors[rows].fixed(), gallery,
            self.lambda_value, 2, self.memory_limit,
        )  # fmt: skip

    def prepared(self, features: Tensor) -> Tensor:
        """Features whose squared distances are those of the metric, or twice these."""
        return unit(features) if self.metric == "cosine" else rescaled(features, self.scale)

    def _checked(self, query: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
        query, gallery = check_rows(query, "query features"), check_rows(gallery, "gallery features")
        if query.shape[1] != gallery.shape[1]:
            widths = f"{query.shape[1]} and {gallery.shape[1]}"
            raise ValueError(f"expected query and gallery features of one width, got {widths}")
        if self.metric not in METRICS:
            raise ValueError(f"unknown metric {self.metric!r}; choose from {', '.join(METRICS)}")
        return query, gallery

    def _survey(self, k: int) -> Survey:
        own = torch.cat([torch.arange(s.start, s.stop, device=self.query.device) for s in self.places])
        x = torch.cat([self.query, self.gallery])
        distances, lists = _own_first(*self._nearest(x, k), own)
        return Survey(*(self.in_order(values) for values in (distances, lists, self._greatest(x))))

    def _nearest(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest of all images, each image itself included."""
        found = []
        for features, shards, first in self._sets():
            options = {"k": min(k, shards.total), "memory_limit": self.memory_limit}
            distances, lists = nearest_in(x, features, shards, excluding_self=False, **options)
            found.append((distances, lists + first))
        return merge(found, k)

    def _sets(self) -> tuple[tuple[Tensor, Shards, int], tuple[Tensor, Shards, int]]:
        return (self.query, self.query_shards, 0), (self.gallery, self.gallery_shards, self.num_query)

    def _greatest(self, x: Tensor) -> Tensor:
        greatest = x.new_zeros(len(x))
        for features, shards, _ in self._sets():
            for _, (visiting,) in shards.visits(features):
                if not len(x) or not len(visiting):
                    continue
                search = Search(x, visiting, bf16=use_bf16(x, visiting))
                for rows in blocks(len(x), search.rows_within(check_limit(self.memory_limit), 1)):
                    farthest = search.farthest(rows, search.block(rows))
                    torch.maximum(greatest[rows], farthest, out=greatest[rows])
        return greatest

    def _encoded(self, k1: int, rows: slice) -> SparseRows:
        pairs = _Pairs(self, rows)
        vectors = encode(pairs, self.survey, k1, rows, memory_limit=self.memory_limit)
        if not pairs.asked:  # other processes may have asked, and then need this one's answer
            pairs.pairs(*torch.empty(2, 0, dtype=torch.int64, device=self.query.device))
        return vectors


class _Pairs:
    """Distances of this process's images, ``rows`` of all, to single images anywhere."""

    def __init__(self, reranking: Reranking, rows: slice) -> None:
        self.reranking, self.first, self.asked = reranking, rows.start, False
        own = reranking.places.index(rows)
        self.features = (reranking.query, reranking.gallery)[own]

    def pairs(self, row: Tensor, column: Tensor) -> Tensor:
        """As ``spaces.Space``; every process must come here as often."""
        self.asked = True
        result = self.features.new_empty(len(row))
        for features, shards, first in self.reranking._sets():
            here = ((column >= first) & (column < first + shards.total)).nonzero()[:, 0]
            for part in shards.rounds(len(here)):
                some = here[part]
                theirs = shards.fetch(features, column[some] - first)
                result[some] = (self.features[row[some] - self.first] - theirs).square_().sum(1)
        return result


def _own_first(distances: Tensor, lists: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Lists in which each image stands first, also before its duplicates."""
    others = lists != own[:, None]
    others[:, -1] &= ~others.all(1)  # behind many duplicates an image may be missing from its list
    shape = len(lists), lists.shape[1] - 1
    distances, lists = distances[others].view(shape), lists[others].view(shape)
    return torch.cat([torch.zeros_like(distances[:, :1]), distances], 1), torch.cat([own[:, None], lists], 1)
