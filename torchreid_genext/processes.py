"""How many processes of this machine may share a work."""

from __future__ import annotations

import multiprocessing
import sys

import torch

__all__ = ["processes_that_pay"]


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
