"""The search behind `neighbours` and `spaces`: nearest and farthest rows of a block, exact, by proof.

Scores ``s = x.y - |y|^2/2`` (larger is nearer) of all pairs of a block come as upper bounds, see ``_bounds``.
What bounds leave open, a few pairs a row, is settled by exact distances of those pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from torchreid_genext.retrieval._bounds import Bf16Bounds, Fp32Bounds
from torchreid_genext.retrieval._numerics import products

__all__ = ["Addend", "Search", "squared_distances"]

_IN_CACHE = 2**20  # bytes of vectors gathered at a time
_PAIRS = 512  # settled at a time
_FEW = 32  # parts of a row that may hold its farthest; where more lie as far away, a product is faster
_PART = 64  # columns


class Addend(Protocol):
    """What comes to the squared distances of images besides, in single precision, >= 0."""

    def halves(self, rows: slice | Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Half of it (b, M) for some of the rows at a time, the columns in the order of the search."""

    def pairs(self, row: Tensor, column: Tensor) -> Tensor:
        """All of it for single pairs of images, of any shape."""


class Search:
    """One ``x`` (N, D) against one ``y`` (M, D): what is prepared once and used for each block of rows.

    Args:
        x: asks. y: is searched.
        bf16: whether bounds come from bfloat16 products.
        order: of the columns of a block, places in ``y`` (M,); results name the places.
        addend: to the squared distances.
    """

    def __init__(
        self, x: Tensor, y: Tensor, *, bf16: bool, order: Tensor | None = None, addend: Addend | None = None
    ) -> None:
        self.x, self.y, self.order, self.addend = x, y, order, addend
        self.bounds = (Bf16Bounds if bf16 else Fp32Bounds)(y if order is None else y[order])
        self._lessened: Tensor | None = None

    def rows_within(self, memory_limit: int, k: int) -> int:
        """How many rows make a block: their bounds, and what is kept of each where k are searched."""
        each = self.bounds.bytes + 1 + (0 if self.addend is None else 4)
        row = len(self.y) * each + 32 * self._width(k) + 12 * self.x.shape[1]
        return max(1, min(len(self.x), memory_limit // row))

    def block(self, rows: slice | Tensor) -> Tensor:
        """Upper bounds of the scores (B, M) of some rows, in a buffer that the next call overwrites."""
        bounds = self.bounds(self.x[rows])
        return bounds if self.addend is None else self._less_addend(bounds, rows)

    def nearest(
        self, rows: slice | Tensor, bounds: Tensor, k: int, *, most: int, first: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Squared distances and places (B, k) of the nearest, equal distances by place.

        Args:
            rows: of the block. bounds: its columns from the `first` one on; minus infinity leaves a pair out.
            k: how many. most: how many columns there are that are not left out.
        """
        x, width = self.x[rows], min(most, self._width(k))
        kept, columns = bounds.topk(width, dim=1)
        numbers = self._numbers(rows)
        distances, places = self._exact(x, numbers, self._named(columns + first), k)
        if width < most:
            lost = self._upper(kept[:, -1].float(), x) >= self.bounds.lower(x, distances[:, -1])
            for part in lost.nonzero()[:, 0].split(64):
                distances[part], places[part] = self._settle(
                    x[part], numbers[part], bounds[part].float(), distances[part], first
                )
        return distances, places

    def farthest(self, rows: slice | Tensor, bounds: Tensor) -> Tensor:
        """Squared distance (B,) to the farthest, of bounds of which none is left out."""
        x, numbers, least = self.x[rows], self._numbers(rows), _least_of_parts(bounds)
        limit = least.amin(1).float() + self.bounds.slack(x)
        limit = (limit + self.bounds.storing * limit.abs()).to(bounds.dtype)
        row, part = (least <= limit[:, None]).nonzero(as_tuple=True)
        if len(row) > _FEW * len(x):
            return torch.cat([self._measured(part).amax(1) for part in numbers.split(_PART)])
        columns = part[:, None] * _PART + torch.arange(_PART, device=x.device)
        columns.clamp_(max=bounds.shape[1] - 1)  # the last part is shorter, and its end looked at again
        place, which = (bounds[row[:, None], columns] <= limit[row, None]).nonzero(as_tuple=True)
        row, column = row[place], columns[place, which]
        distances = self._of_pairs(x, numbers, row, self._named(column))
        return torch.zeros_like(x[:, 0]).scatter_reduce_(0, row, distances, "amax")

    def _width(self, k: int) -> int:
        """Candidates that are kept of each row."""
        return min(len(self.y), k + max(self.bounds.spare, k // 2))

    def _less_addend(self, bounds: Tensor, rows: slice | Tensor) -> Tensor:
        result = bounds
        if bounds.dtype != torch.float32:
            if self._lessened is None or len(self._lessened) < len(bounds):
                self._lessened = torch.empty_like(bounds, dtype=torch.float32)
            result = self._lessened[: len(bounds)]
        for part, halves in self.addend.halves(rows):
            torch.sub(bounds[part].float(), halves, out=result[part])
        return result

    def _upper(self, stored: Tensor, x: Tensor) -> Tensor:
        """What scores (B, ...) of rows ``x`` can be at most, given their bounds in a block."""
        if self.addend is None:
            return self.bounds.upper(stored)
        return (stored.t() + self.bounds.stored_error(x)).t()  # what was stored is no longer known

    def _numbers(self, rows: slice | Tensor) -> Tensor:
        return rows if isinstance(rows, Tensor) else torch.arange(rows.start, rows.stop, device=self.x.device)

    def _named(self, columns: Tensor) -> Tensor:
        return columns if self.order is None else self.order[columns]

    def _exact(self, x: Tensor, numbers: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
        candidates = candidates.sort(dim=1).values  # so that a stable sort leaves ties in order of index
        rows = max(1, _IN_CACHE // (4 * x.shape[1] * candidates.shape[1]))
        parts = zip(x.split(rows), candidates.split(rows))
        distances = torch.cat([squared_distances(some[:, None], self.y, near) for some, near in parts])
        if self.addend is not None:
            distances += self.addend.pairs(numbers[:, None].expand_as(candidates), candidates)
        distances, order = distances.sort(dim=1, stable=True)
        return distances[:, :k], candidates.gather(1, order)[:, :k]

    def _settle(
        self, x: Tensor, numbers: Tensor, bounds: Tensor, found: Tensor, first: int
    ) -> tuple[Tensor, Tensor]:
        """Settle a few rows for which candidates were not enough: score every entry that may belong."""
        possible = self._upper(bounds, x) >= self.bounds.lower(x, found[:, -1])[:, None]
        row, column = possible.nonzero(as_tuple=True)
        column = self._named(column + first)
        distances, order = self._of_pairs(x, numbers, row, column), column.argsort()
        order = order[distances[order].argsort(stable=True)]
        order = order[row[order].argsort(stable=True)]  # by row, then distance, then index
        starts = torch.searchsorted(row, torch.arange(len(x), device=x.device))
        best = order[starts[:, None] + torch.arange(found.shape[1], device=x.device)]
        return distances[best], column[best]

    def _of_pairs(self, x: Tensor, numbers: Tensor, row: Tensor, place: Tensor) -> Tensor:
        """Exact distances of rows of a block to places in ``y``."""
        pairs = zip(row.split(_PAIRS), place.split(_PAIRS))
        distances = torch.cat([squared_distances(x[r], self.y, p) for r, p in pairs])
        return distances if self.addend is None else distances + self.addend.pairs(numbers[row], place)

    def _measured(self, rows: Tensor) -> Tensor:
        """Distances (B, M) of few rows, from products."""
        x, y = self.x[rows], self.y if self.order is None else self.y[self.order]
        squares = x.square().sum(1), y.square().sum(1)
        distances = products(x, y, times=-2, plus=squares).clamp_(min=0)
        for part, halves in () if self.addend is None else self.addend.halves(rows):
            distances[part] += 2 * halves
        return distances


def _least_of_parts(bounds: Tensor) -> Tensor:
    """The least of each part of a row, (B, parts)."""
    whole = bounds.shape[1] // _PART * _PART
    least = bounds[:, :whole].unflatten(1, (-1, _PART)).amin(2)
    return torch.cat([least, bounds[:, whole:].amin(1, keepdim=True)], 1) if whole < bounds.shape[1] else least


def squared_distances(x: Tensor, y: Tensor, indices: Tensor) -> Tensor:
    """Squared distances of ``x`` (..., D) to rows ``indices`` (...) of ``y``; equal rows, equal results."""
    gathered = y.index_select(0, indices.flatten()).view(*indices.shape, y.shape[1])
    return torch.linalg.vector_norm(gathered.sub_(x), dim=-1).square_()
