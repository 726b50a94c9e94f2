"""How many processes of this machine may share a work, and the random numbers of those that share a batch."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable

import torch
from torch import Generator, Tensor

__all__ = [
    "StepGenerator", "is_first", "on_the_host", "own_rows", "processes_that_pay", "share_of", "usable_cores",
]  # fmt: skip


def usable_cores() -> int:
    """Cores this process may use, which a container or job scheduler may have made fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_first() -> bool:
    """Whether this process is alone, or the first of those that torchrun has started, which speaks for all."""
    return int(os.environ.get("WORLD_SIZE", 1)) < 2 or int(os.environ.get("RANK", 0)) == 0


def processes_that_pay(pieces: int, least: int) -> int:
    """As many as torch has threads, if each gets some pieces of work; 1 where processes cannot be forked.

    Elsewhere than on Linux that is not safe, and daemons may have no children.

    Args:
        pieces: of the whole work.
        least: for which a process is worth its start.
    """
    if sys.platform != "linux" or multiprocessing.current_process().daemon:
        return 1
    return max(1, min(torch.get_num_threads(), pieces // least))


class StepGenerator(Generator):
    """Random numbers of one step, the same in all processes that take their shares of its batch.

    Attributes:
        share: this process, from 0, and how many there are.
        host: another one, on the CPU; numbers that the host must know would have to be waited for.
    """

    share: tuple[int, int] = (0, 1)
    host: Generator | None = None


def share_of(random: Generator) -> tuple[int, int]:
    """This process and how many share a batch; a plain generator is of one that is alone."""
    return getattr(random, "share", (0, 1))


def on_the_host(random: Generator) -> Generator:
    """Where to draw what the host must know, without waiting for a device."""
    return getattr(random, "host", None) or random


def own_rows(draw: Callable[[int], Tensor], count: int, random: Generator, *, dim: int = 0) -> Tensor:
    """Random numbers for the rows of this process, as one process that had the whole batch would draw them.

    Args:
        draw: number of rows -> what is drawn for them from `random`.
        count: rows of this process; all have as many.
        random: the generator; a plain one is of a process that is alone.
        dim: the dimension of rows.
    """
    rank, world = share_of(random)
    return draw(count * world).narrow(dim, rank * count, count)
