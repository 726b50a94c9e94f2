"""How many processes of this machine may share a work: the one rule of all rooms."""

from __future__ import annotations

import multiprocessing
import os
import sys

import torch

__all__ = ["processes_that_pay", "usable_cores"]


def usable_cores() -> int:
    """Cores this process may use, which a container or job scheduler may have made fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
