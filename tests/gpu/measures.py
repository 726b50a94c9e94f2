"""What tests of an accelerator have in common: by how much tensors differ, and memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["assert_near", "memory_growth"]


def assert_near(found: Tensor, wanted: Tensor, share: float, what: str = "") -> None:
    """Refuse a norm of the difference beyond a share of what is wanted, and say how large it is."""
    found, wanted = found.detach().cpu().double(), wanted.detach().cpu().double()
    difference = float((found - wanted).norm() / wanted.norm())
    largest = float((found - wanted).abs().max())
    assert difference <= share, f"{what}: relative difference {difference:.3g}, largest {largest:.3g}"


def memory_growth(work: Callable[[], Any]) -> int:
    """Bytes of the accelerator above the start, at the worst moment."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
