"""Time and memory of a piece of work, and plain tables of both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from torchreid_genext.benchmark.memory import PeakMemory
from torchreid_genext.precision import DTYPES

__all__ = ["MIB", "Measurement", "measure", "rate_of_product", "seconds_of", "table"]

MIB = 2**20


class Measurement:
    """Median seconds, greatest growth of resident memory in bytes, and the last result."""

    def __init__(self, seconds: float, peak: int, result: Any) -> None:
        self.seconds, self.peak, self.result = seconds, peak, result


def measure(work: Callable[[], Any], repeats: int = 1) -> Measurement:
    seconds, peaks = [], []
    for _ in range(repeats):
        memory, start = PeakMemory(), time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
        peaks.append(memory.growth())
    return Measurement(statistics.median(seconds), max(peaks), result)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows in aligned columns, the first of them the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows
    )


@cache
def rate_of_product(precision: str, device: torch.device, side: int = 0) -> float:
    """FLOP/s of a square matrix product, large unless told."""
    side = side or (8192 if device.type != "cpu" else 2048)
    a = torch.randn(side, side, device=device, dtype=DTYPES[precision])
    return 2 * side**3 / min(seconds_of(lambda: a @ a, device) for _ in range(5))


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    wait = torch.accelerator.synchronize if device.type != "cpu" else lambda: None
    wait()
    begun = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - begun
