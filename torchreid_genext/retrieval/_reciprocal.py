"""The stages of k-reciprocal encoding, on ranked lists of neighbours: sparse, and block by block.

Each stage takes what the one before returned for all images and works on a range of rows, so that processes
may share the rows and exchange the results.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchreid_genext.retrieval._blocks import blocks_within
from torchreid_genext.retrieval._numerics import from_fixed, to_fixed

__all__ = ["SparseRows", "expand_locally", "min_sums", "mutual_pairs", "reciprocal_sets"]


@dataclass(frozen=True, eq=False)
class SparseRows:
    """A matrix of which each row keeps its few entries other than zero.

    Attributes:
        starts: where each row begins, and where the last one ends, int64 (N + 1,).
        columns: of the entries, int64, ascending within a row.
        values: of the entries, float32, or integers in fixed point.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor

    @classmethod
    def of(cls, row: Tensor, column: Tensor, value: Tensor, rows: int) -> SparseRows:
        """Entries in order of their rows, of a matrix with so many rows."""
        counts = torch.bincount(row, minlength=rows)
        return cls(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), column, value)

    @classmethod
    def concatenate(cls, parts: list[SparseRows]) -> SparseRows:
        """One matrix below the other."""
        counts = torch.cat([part.counts for part in parts])
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(starts, *(torch.cat([getattr(x, name) for x in parts]) for name in ("columns", "values")))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def counts(self) -> Tensor:
        """Entries of each row (N,)."""
        return self.starts.diff()

    def __getitem__(self, rows: slice | Tensor) -> SparseRows:
        if isinstance(rows, Tensor):
            place, entries = self.entries(rows)
            return SparseRows.of(place, self.columns[entries], self.values[entries], len(rows))
        start, stop, _ = rows.indices(len(self))
        starts = self.starts[start : stop + 1]
        entries = slice(int(starts[0]), int(starts[-1]))
        return SparseRows(starts - starts[0], self.columns[entries], self.values[entries])

    def entries(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Of some rows (M,): the place in `rows` that each entry belongs to, and where the entry stands."""
        counts = self.counts[rows]
        place = torch.repeat_interleave(counts)
        ahead = self.starts[rows] - (counts.cumsum(0) - counts)
        return place, ahead[place] + torch.arange(len(place), device=place.device)

    def fixed(self) -> SparseRows:
        """The same with values in fixed point, int32, as `min_sums` adds them."""
        return replace(self, values=to_fixed(self.values, torch.int32))

    def transposed(self, columns: int) -> SparseRows:
        """Rows become columns, of which there were so many."""
        row, order = torch.repeat_interleave(self.counts), self.columns.argsort(stable=True)
        return SparseRows.of(self.columns[order], row[order], self.values[order], columns)


def reciprocal_sets(
    lists: Tensor, k1: int, rows: slice, *, memory_limit: int | None = None
) -> tuple[Tensor, Tensor]:
    """The expanded k-reciprocal neighbours of each image (Zhong et al., eq. 2 to 4).

    Two images are k-reciprocal neighbours if each lists the other among its first k1 + 1. To an image's set
    come the sets for half of k1 of those neighbours whose own set lies in it by more than two thirds.

    Args:
        lists: of each image its nearest, itself included, shape (N, W) with W > k1.
        k1: how many neighbours count, besides the image itself.
        rows: images to find the sets of.
        memory_limit: bytes of working memory, 96 MiB unless told.

    Returns:
        Two int64 tensors of one length, ordered by image, then neighbour: the image, and the neighbour.
    """
    whole, half = lists[:, : k1 + 1].contiguous(), lists[:, : round(k1 / 2) + 1].contiguous()
    mutual_half = _mutual(half, slice(0, len(half)), memory_limit)
    row_bytes = len(lists) + 40 * whole.shape[1] * half.shape[1]
    keys = [
        _expanded(whole, half, mutual_half, part, _mutual(whole, part, memory_limit))
        for part in blocks_within(rows, row_bytes, memory_limit)
    ]
    keys = torch.cat(keys or [lists.new_empty(0)])  # no row, in a shard without images
    return keys.div(len(lists), rounding_mode="floor"), keys.remainder(len(lists))


def mutual_pairs(
    lists: Tensor, distances: Tensor, *, memory_limit: int | None = None
) -> tuple[Tensor, Tensor]:
    """Images that list each other.

    Args:
        lists: of each image some others, (N, W). distances: to them.
        memory_limit: bytes of working memory, 96 MiB unless told.

    Returns:
        Keys ``image * N + listed`` (P,), and the distances of these pairs.
    """
    mutual = _mutual(lists, slice(0, len(lists)), memory_limit)
    keys = torch.arange(len(lists), device=lists.device)[:, None] * len(lists) + lists
    return keys[mutual], distances[mutual]


def _mutual(lists: Tensor, rows: slice, memory_limit: int | None) -> Tensor:
    """Whether each listed image lists the row in return, (B, W)."""
    parts = []
    for part in blocks_within(rows, 10 * lists.shape[1] ** 2, memory_limit):
        own = torch.arange(part.start, part.stop, device=lists.device)
        parts.append((lists[lists[part]] == own[:, None, None]).any(2))
    return torch.cat(parts)


def _expanded(whole: Tensor, half: Tensor, mutual_half: Tensor, rows: slice, mutual: Tensor) -> Tensor:
    """Members of a block's sets as ascending keys ``image * N + neighbour``."""
    listed = whole[rows]
    candidates = half[listed]  # (B, k1 + 1, k1 / 2 + 1)
    counted = mutual_half[listed] & mutual[:, :, None]
    inside = torch.zeros(len(listed), len(whole), dtype=torch.bool, device=whole.device)
    inside.scatter_(1, listed, mutual)
    shared = counted & inside.gather(1, candidates.flatten(1)).view_as(candidates)
    counted &= (3 * shared.sum(2) > 2 * counted.sum(2))[:, :, None]
    first = torch.arange(rows.start, rows.stop, device=whole.device)[:, None] * len(whole)
    keys = torch.cat([(first + listed)[mutual], (first[:, :, None] + candidates)[counted]])
    return keys.sort().values.unique_consecutive()


def expand_locally(
    vectors: SparseRows, lists: Tensor, k2: int, rows: slice, *, memory_limit: int | None = None
) -> SparseRows:
    """Replace each image's vector by the mean of those of its k2 nearest (Zhong et al., eq. 11).

    Args:
        vectors: of all N images.
        lists: of each image its nearest, itself included, shape (N, W) with W >= k2.
        k2: how many vectors are averaged.
        rows: images to return the means of.
        memory_limit: bytes of working memory, 96 MiB unless told.
    """
    row_bytes = 64 * k2 * int(vectors.counts.max())
    parts = list(blocks_within(rows, row_bytes, memory_limit)) or [rows]  # none, in a shard without images
    return SparseRows.concatenate([_means(vectors, lists[part, :k2]) for part in parts])


def _means(vectors: SparseRows, lists: Tensor) -> SparseRows:
    rows, k2 = lists.shape
    place, entry = vectors.entries(lists.flatten())
    keys = place.div(k2, rounding_mode="floor") * len(vectors) + vectors.columns[entry]
    keys, order = keys.sort()
    keys, kept = keys.unique_consecutive(return_inverse=True)
    sums = torch.zeros_like(keys).index_add_(0, kept, to_fixed(vectors.values[entry[order]]))
    row = keys.div(len(vectors), rounding_mode="floor")
    return SparseRows.of(row, keys.remainder(len(vectors)), from_fixed(sums) / k2, rows)


def min_sums(vectors: SparseRows, others: SparseRows, width: int) -> Tensor:
    """Sums of the smaller of two entries, over the columns that two rows share.

    Args:
        vectors: B rows of sums of at most 1, in fixed point.
        others: M rows, likewise, transposed: of each column, which rows have an entry there.
        width: M.

    Returns:
        Sums (B, M), float32.
    """
    row = torch.repeat_interleave(vectors.counts)
    place, entry = others.entries(vectors.columns)
    smaller = torch.minimum(vectors.values[place], others.values[entry])
    sums = smaller.new_zeros(len(vectors) * width)
    sums.index_add_(0, row[place] * width + others.columns[entry], smaller)
    return from_fixed(sums).view(-1, width)
