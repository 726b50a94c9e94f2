"""Two processes that train together, as ``accelerate launch`` starts them."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["in_two_processes"]


def in_two_processes(work: Callable[..., Any], *arguments: Any) -> None:
    """Call `work` with 0 and with 1, and the arguments, in a process each; both must end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_one_of_two, args=(rank, port, work, arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]


def _one_of_two(rank: int, port: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    if torch.accelerator.is_available():  # elsewhere it goes without saying
        os.environ["ACCELERATE_USE_CPU"] = "1"
    work(rank, *arguments)
