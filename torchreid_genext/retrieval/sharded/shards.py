"""Rows of one matrix, spread over processes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from torchreid_genext.retrieval.sets import RetrievalSet
from torchreid_genext.retrieval.sharded.processes import Processes

__all__ = ["Shards", "cameras_of", "visitors"]

_ROWS_A_ROUND = 8192


class Shards:
    """Who holds which rows: process 0 the first ones, process 1 those after them, and so on.

    Attributes:
        processes: that hold the rows.
        sizes: rows of each process, which may be zero.
        starts: place of the first row of each process in the whole.
        offset: that of this process.
        total: rows of all.
    """

    def __init__(self, rows: int, processes: Processes) -> None:
        self.processes, self.sizes = processes, processes.numbers(rows)
        self.starts = [sum(self.sizes[:rank]) for rank in range(len(self.sizes))]
        self.offset, self.total = self.starts[processes.rank], sum(self.sizes)

    def visits(self, *columns: Tensor) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """The shard of each process in turn, with its number, as it visits all others; all must go through.

        Args:
            columns: tensors of one row for each row of this process, of which the visitors bring theirs.
        """
        for source, size in enumerate(self.sizes):
            visiting = columns if source == self.processes.rank else tuple(
                column.new_empty(size, *column.shape[1:]) for column in columns
            )  # fmt: skip
            for column in visiting:
                self.processes.broadcast(column, source)
            yield source, visiting

    def fetch(self, column: Tensor, indices: Tensor) -> Tensor:
        """Rows of the whole, wherever they are; all processes must ask, for nothing if need be.

        Args:
            column: rows of this process (n, ...).
            indices: places in the whole, int64 (m,).

        Returns:
            Rows (m, ...) in order of ``indices``.
        """
        ends = torch.tensor(self.starts[1:] + [self.total], device=indices.device)
        owner = torch.searchsorted(ends, indices.contiguous(), right=True)
        order = owner.argsort(stable=True)
        asked = indices[order].split(torch.bincount(owner, minlength=len(self.sizes)).tolist())
        wanted = self.processes.exchange(asked)
        arrived = torch.cat(self.processes.exchange([column[some - self.offset] for some in wanted]))
        result = torch.empty_like(arrived)
        result[order] = arrived
        return result

    def rounds(self, length: int) -> Iterator[slice]:
        """Parts of a list of this process, so that each round fetches a bounded number of rows."""
        return self.processes.rounds(length, _ROWS_A_ROUND)


def visitors(images: RetrievalSet, shards: Shards) -> Iterator[tuple[int, RetrievalSet]]:
    """The images of each process in turn, with its number, as ``Shards.visits``: features and labels."""
    columns = {"features": images.features, "pids": images.pids, "camids": cameras_of(images)}
    columns |= {"frames": images.frames, "earlier": images.earlier}
    device = shards.processes.device
    columns = {name: values.to(device) for name, values in columns.items() if values is not None}
    shards.processes.same(**{"kinds of labels": tuple(columns)})
    for source, values in shards.visits(*columns.values()):
        visiting = dict(zip(columns, values))
        features, earlier = visiting["features"], visiting.pop("earlier", None)
        if earlier is not None:
            before = RetrievalSet(**visiting | {"features": earlier}).remembered()
        yield source, RetrievalSet(**visiting) if earlier is None else before.with_features(features)


def cameras_of(images: RetrievalSet) -> Tensor:
    """Camera of each image, 0 where nothing is known."""
    return torch.zeros_like(images.pids) if images.camids is None else images.camids
