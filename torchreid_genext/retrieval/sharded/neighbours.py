"""Nearest neighbours and centralization of features that live in shards."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from torchreid_genext.retrieval import neighbours
from torchreid_genext.retrieval._blocks import check_limit
from torchreid_genext.retrieval._numerics import full_precision, magnitude, rescaled, scale_of
from torchreid_genext.retrieval.neighbours import check_rows
from torchreid_genext.retrieval.sharded.processes import Processes
from torchreid_genext.retrieval.sharded.shards import Shards
from torchreid_genext.retrieval.steps.nfc import members_in_order, sum_members

__all__ = ["merge", "nearest", "nearest_in", "nfc", "with_mutual"]


@full_precision()
def nearest(
    x: Tensor,
    y: Tensor | None = None,
    *,
    k: int,
    memory_limit: int | None = None,
    precision: str = "auto",
    group: dist.ProcessGroup | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the ``k`` nearest rows of all shards of ``y`` for each row of this process's ``x``.

    Args:
        x: shard of this process, floating, (n, D), finite; it may have no rows.
        y: its shard of another set (m, D); ``None`` compares with the shards of ``x`` and leaves each row's
            own entry out.
        k: how many neighbours, in ``1 .. M`` (``1 .. N - 1`` without ``y``), the same on all processes.
        memory_limit: bytes of working memory, see ``neighbours.nearest``; one visiting shard comes on top.
        precision: see ``neighbours.nearest``.
        group: processes that hold the shards; None is the whole world.

    Returns:
        Squared Euclidean distances (n, k), float32, and indices (n, k) in all of ``y``, int64: bit for bit
        what one process finds with all rows.

    Raises:
        ValueError: if an argument is out of range, on any process.
        RuntimeError: if no process group is initialised, or another process has ended.
    """
    processes = Processes(x.device, group)
    processes.same(compared="with itself" if y is None else "with y")
    y_own = x if y is None else y
    x, y_own = processes.agreed(
        lambda: (check_rows(x, "x"), check_rows(y_own, "y"), check_limit(memory_limit))[:2]
    )
    _check(processes, x, y_own, k)
    # One scale for all: distances of single shards may be infinite, and then their order is lost.
    scale = scale_of(max(processes.numbers(magnitude(x, y_own))))
    distances, indices = nearest_in(
        rescaled(x, scale), rescaled(y_own, scale), Shards(len(y_own), processes),
        k=k, excluding_self=y is None, memory_limit=memory_limit, precision=precision,
    )  # fmt: skip
    return distances / scale / scale, indices


def nearest_in(
    x: Tensor,
    y: Tensor,
    shards: Shards,
    *,
    k: int,
    excluding_self: bool,
    memory_limit: int | None = None,
    precision: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The same with arguments that have been checked; ``shards`` are those of ``y``.

    Raises:
        ValueError: if there are no ``k`` neighbours.
    """
    if not 1 <= k <= shards.total - excluding_self:
        raise ValueError(f"expected k in 1..{shards.total - excluding_self}, got {k}")
    width = 0 if len(x) else k
    best = x.new_empty(len(x), width), x.new_empty(len(x), width, dtype=torch.int64)
    for source, (visiting,) in shards.visits(y):
        itself = excluding_self and source == shards.processes.rank
        most = min(k, len(visiting) - itself)
        if most > 0 and len(x):
            distances, indices = neighbours.nearest(
                x, None if itself else visiting, k=most, memory_limit=memory_limit, precision=precision
            )
            best = merge([best, (distances, indices + shards.starts[source])], k)
    return best


def merge(lists: Iterable[tuple[Tensor, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    """The k best of several lists of distances and indices, of which the later hold the larger indices."""
    distances, indices = (torch.cat(columns, dim=1) for columns in zip(*lists))
    distances, order = distances.sort(dim=1, stable=True)  # so that ties stay in order of index
    return distances[:, :k], indices.gather(1, order[:, :k])


def nfc(
    features: Tensor,
    *,
    k1: int = 2,
    k2: int = 2,
    memory_limit: int | None = None,
    precision: str = "auto",
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Add to each feature of this process those of its mutual nearest neighbours in all shards.

    Args:
        features: shard of this process (n, D); arguments otherwise as ``centralization.nfc``.
        k1: neighbours considered, the same on all processes.
        k2: how highly the neighbour must rank the row in return, likewise.
        memory_limit: see ``nearest``, as are ``precision`` and ``group``.

    Returns:
        New tensor (n, D), float32: bit for bit the rows that one process would compute.

    Raises:
        ValueError, RuntimeError: as ``nearest``.
    """
    processes = Processes(features.device, group)
    own = processes.agreed(lambda: check_rows(features))
    shards = Shards(len(own), processes)
    k1, k2 = processes.agreed(lambda: _counts(shards.total, k1, k2))
    processes.same(k1=k1, k2=k2)
    if shards.total == 1:
        return own.clone()
    _, lists = nearest(own, k=k1, memory_limit=memory_limit, precision=precision, group=group)
    return with_mutual(own, lists, shards, k2)


def with_mutual(own: Tensor, lists: Tensor, shards: Shards, k2: int) -> Tensor:
    """Features of this process and the sums with those that are mutual neighbours; -1 in lists is nobody."""
    members = _members(*_mutual_pairs(lists, shards, k2), shards, lists.shape[1])

    def fetch(indices: Tensor) -> Tensor:
        rounds = shards.rounds(len(indices))
        return torch.cat([own[:0], *(shards.fetch(own, indices[part]) for part in rounds)])

    return sum_members(members, shards.total, fetch)


def _counts(total: int, k1: int, k2: int) -> list[int]:
    return neighbours.at_most(
        f"mutual neighbours of {total} images", k1=(k1, total - 1), k2=(k2, total - 1)
    )


def _members(row: Tensor, neighbour: Tensor, shards: Shards, most: int) -> Tensor:
    here = torch.arange(shards.sizes[shards.processes.rank], device=row.device) + shards.offset
    return members_in_order(here, row, neighbour, most, shards.total)


def _mutual_pairs(lists: Tensor, shards: Shards, k2: int) -> tuple[Tensor, Tensor]:
    """This process's rows, and the places of neighbours that list them in return among their first k2."""
    row = torch.arange(len(lists), device=lists.device)[:, None].expand_as(lists).flatten()
    neighbour, returned = lists.flatten(), []
    ranked = lists[:, :k2].contiguous()
    for part in shards.rounds(len(row)):
        theirs = shards.fetch(ranked, neighbour[part].clamp(min=0))
        returned.append((theirs == row[part, None] + shards.offset).any(1))
    returned = torch.cat([neighbour[:0].bool(), *returned]) & (neighbour >= 0)
    return row[returned], neighbour[returned]


def _check(processes: Processes, x: Tensor, y: Tensor, k: int) -> None:
    processes.same(k=k, **{"width of x": x.shape[1], "width of y": y.shape[1]})
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"expected x and y of one width, got {x.shape[1]} and {y.shape[1]}")
