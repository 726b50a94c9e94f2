from __future__ import annotations

import sys

import pytest
import torch

from torchreid_genext.benchmark.memory import PeakMemory

MIB = 2**20


def fill(blocks: int) -> None:
    """Touch so many MiB in pieces small enough for the allocator to keep them when they are freed."""
    kept = [torch.ones(MIB // 16) for _ in range(4 * blocks)]
    del kept


def test_growth_is_what_the_work_took_even_if_it_was_freed_meanwhile() -> None:
    memory = PeakMemory()
    fill(64)
    assert 60 * MIB < memory.growth() < 100 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can set the peak back")
def test_earlier_work_hides_nothing() -> None:
    fill(96)
    memory = PeakMemory()
    fill(64)
    assert 60 * MIB < memory.growth() < 100 * MIB


def test_nothing_taken_is_no_growth() -> None:
    fill(32)
    assert PeakMemory().growth() < 8 * MIB
