"""Nearest neighbours through faiss: exact by its flat index, approximate by inverted lists or a graph.

An exact search costs N x M products; beyond a few million rows only an index that looks at a part of the rows
is affordable. What it finds is scored again as `neighbours.nearest` scores, from the difference of the two
vectors, so that only the choice of neighbours is approximate, never their distance or order. How good the
choice is depends on the features, so each search measures its recall on a few rows, where level INFO is
logged.

faiss is an extra (``pip install faiss-cpu``). It holds a copy of the features in main memory,
and uses as many threads as ``faiss.omp_set_num_threads`` allows.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from torchreid_genext.retrieval import neighbours
from torchreid_genext.retrieval._blocks import blocks, check_count, check_limit
from torchreid_genext.retrieval._numerics import full_precision, scaled
from torchreid_genext.retrieval._search import squared_distances
from torchreid_genext.retrieval.neighbours import check_features

__all__ = ["Flat", "Graph", "INDEXES", "Index", "InvertedLists", "nearest", "recall"]

logger = logging.getLogger(__name__)

_SAMPLE = 256  # rows on which recall is measured
_POINTS_PER_LIST = 39  # fewer do not place a centre well


class Index(Protocol):
    """A way to search, with its settings."""

    def build(self, y: Tensor, width: int) -> Any:
        """A faiss index of ``y``, float32 (M, D) in main memory, ready to be asked for ``width`` rows."""


@dataclass(frozen=True)
class Flat:
    """All rows are compared, in single precision: complete but for rounding of near-ties."""

    def build(self, y: Tensor, width: int) -> Any:
        """A copy of ``y`` (M, D) that is searched as a whole; arguments as ``Index.build``."""
        index = _faiss().IndexFlatL2(y.shape[1])
        index.add(y.numpy())
        return index


@dataclass(frozen=True)
class InvertedLists:
    """Rows are kept in lists by nearest centre (IVF), and only the lists nearest to a query are read.

    Attributes:
        nlist: how many lists; None takes four times the root of the rows.
        nprobe: how many of them are read for each query; all of them is an exact search.
    """

    nlist: int | None = None
    nprobe: int = 64

    def __post_init__(self) -> None:
        check_count("nlist", 1 if self.nlist is None else self.nlist)
        check_count("nprobe", self.nprobe)

    def build(self, y: Tensor, width: int) -> Any:
        """``y`` (M, D) in the lists of centres that are learnt from it; arguments as ``Index.build``."""
        faiss = _faiss()
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(y.shape[1]), y.shape[1], self._lists(len(y)))
        index.cp.min_points_per_centroid = 1  # the user's nlist is taken without a remark on standard error
        index.cp.max_points_per_centroid = 64  # more only make training slower
        index.train(y.numpy())
        index.add(y.numpy())
        index.nprobe = min(self.nprobe, index.nlist)
        return index

    def _lists(self, rows: int) -> int:
        if self.nlist is not None:
            return min(self.nlist, rows)
        return max(1, min(4 * math.isqrt(rows), rows // _POINTS_PER_LIST))


@dataclass(frozen=True)
class Graph:
    """Rows are linked to near ones on several levels (HNSW), and a search walks along the links.

    Attributes:
        links: of each row.
        ef_construction: candidates kept while a row is linked; larger builds longer and finds more.
        ef_search: candidates kept during a search, likewise.
    """

    links: int = 32
    ef_construction: int = 80
    ef_search: int = 64

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_count(name, value)

    def build(self, y: Tensor, width: int) -> Any:
        """Links the rows of ``y`` (M, D); a search keeps ``width`` candidates at least."""
        index = _faiss().IndexHNSWFlat(y.shape[1], self.links)
        index.hnsw.efConstruction = self.ef_construction
        index.add(y.numpy())
        index.hnsw.efSearch = max(self.ef_search, width)
        return index


INDEXES = {"flat": Flat, "ivf": InvertedLists, "hnsw": Graph}


@full_precision()
def nearest(
    x: Tensor,
    y: Tensor | None = None,
    *,
    k: int,
    index: str | Index = "flat",
    chunk: int | None = None,
    memory_limit: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return about the ``k`` nearest rows of ``y`` for each row of ``x``, nearest first.

    Args:
        x: floating, shape (N, D), finite.
        y: shape (M, D); ``None`` compares ``x`` with itself and leaves each row's own entry out.
        k: how many neighbours, in ``1 .. M`` (``1 .. N - 1`` without ``y``).
        index: ``flat``, ``ivf`` or ``hnsw`` with their defaults, or an index as ``Graph(ef_search=256)``.
        chunk: rows searched at a time; ``None`` derives it from ``memory_limit``.
        memory_limit: bytes of working memory, 96 MiB unless told; the index and the results come on top.

    Returns:
        Squared Euclidean distances (N, k), float32, and indices (N, k), int64, as ``neighbours.nearest``.
        Rows for which the index finds fewer than ``k`` are searched exactly.

    Raises:
        ValueError: as ``neighbours.nearest``, or if the index is unknown.
        ImportError: if faiss is not installed.
    """
    x = check_features(x, "x")
    y_set = x if y is None else check_features(y, "y")
    neighbours.check_sizes(x, y_set, k, excluding_self=y is None)
    size = None if chunk is None else check_count("chunk", chunk)
    limit, ((x, y_set), scale) = check_limit(memory_limit), scaled(x, y_set)
    search = _Search(x, y_set, k, excluding_self=y is None, index=_named(index))
    rows = size or search.rows_within(limit)
    every = torch.arange(len(x), device=x.device)
    parts = [search(every[part]) for part in blocks(len(x), rows)]
    distances, indices = (torch.cat(column) for column in zip(*parts))
    if logger.isEnabledFor(logging.INFO):
        search.log_recall(indices)
    return (distances if scale == 1 else distances / scale / scale), indices


def recall(found: Tensor, expected: Tensor) -> float:
    """Share of the true neighbours that were found, in 0 .. 1.

    Args:
        found: indices (N, k).
        expected: indices (N, k) of an exact search.

    Raises:
        ValueError: if the shapes differ.
    """
    if found.shape != expected.shape or found.ndim != 2:
        raise ValueError(
            f"expected two lists of one shape (N, k), got {tuple(found.shape)} and {tuple(expected.shape)}"
        )
    pairs = zip(found.split(4096), expected.split(4096))
    hits = sum(int((some[:, :, None] == true[:, None]).any(1).sum()) for some, true in pairs)
    return hits / found.numel()


class _Search:
    """One ``x`` against one ``y`` through one index."""

    def __init__(self, x: Tensor, y: Tensor, k: int, *, excluding_self: bool, index: Index) -> None:
        self.x, self.y, self.k, self.excluding_self = x, y, k, excluding_self
        self.width = min(len(y), k + excluding_self + max(3, k))  # spare ones: faiss rounds, and breaks ties
        self.index, self.built = index, index.build(y.cpu(), self.width)

    def rows_within(self, memory_limit: int) -> int:
        row = self.width * (4 * self.x.shape[1] + 64)
        return max(1, min(len(self.x), memory_limit // row))

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        _, found = self.built.search(self.x[rows].cpu().numpy(), self.width)
        candidates = torch.from_numpy(found).to(self.x.device)
        absent = candidates < 0  # faiss says -1 where it has found no more
        if self.excluding_self:
            absent |= candidates == rows[:, None]
        candidates = candidates.masked_fill(absent, len(self.y)).sort(dim=1).values  # ties in order of index
        distances, indices = self._scored(rows, candidates)
        short = distances[:, -1] == math.inf
        if short.any():
            distances[short], indices[short] = self.exactly(rows[short])
        return distances, indices

    def _scored(self, rows: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        known = candidates.clamp(max=len(self.y) - 1)
        distances = squared_distances(self.x[rows][:, None], self.y, known)
        distances.masked_fill_(candidates == len(self.y), math.inf)
        distances, order = distances.sort(dim=1, stable=True)
        return distances[:, : self.k], known.gather(1, order)[:, : self.k]

    def exactly(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The true neighbours of some rows."""
        distances, indices = neighbours.nearest(self.x[rows], self.y, k=self.k + self.excluding_self)
        if not self.excluding_self:
            return distances, indices
        kept = indices != rows[:, None]
        kept[:, -1] &= ~kept.all(1)  # a row with many equals may not be in its own list
        return distances[kept].view(-1, self.k), indices[kept].view(-1, self.k)

    def log_recall(self, indices: Tensor) -> None:
        rows = torch.linspace(0, len(self.x) - 1, min(_SAMPLE, len(self.x)), device=self.x.device).long()
        share = recall(indices[rows], self.exactly(rows)[1])
        logger.info("%s found %.2f %% of the %d nearest, measured on %d of %d rows",
                    self.index, 100 * share, self.k, len(rows), len(self.x))  # fmt: skip


def _named(index: str | Index) -> Index:
    if not isinstance(index, str):
        return index
    if index not in INDEXES:
        raise ValueError(f"unknown index {index!r}; choose from exact, {', '.join(INDEXES)}")
    return INDEXES[index]()


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "expected faiss for the indexes flat, ivf and hnsw, got none; pip install faiss-cpu"
        ) from error
    return faiss
