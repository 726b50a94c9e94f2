"""Where the time of a piece of work goes on the device: its kernels by kind, and the longest of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from _measure import seconds_of

__all__ = ["profiled"]

LINES = 15  # of the table
KINDS = {  # the first one whose words a kernel's name has
    "copies": "nchwtonhwc|nhwctonchw|memcpy|memset|copy|catarray|transpose|aten::cat",
    "attention": "flash|fmha|sdpa|attention|softmax",
    "norms": "norm|moments|computefusedparams|welford",
    "convolutions": "conv|fprop|dgrad|wgrad|implicit|cudnn|winograd",
    "products": "gemm|gemv|cutlass|nvjet|cublas|aten::addmm|aten::mm|aten::bmm",
    "elementwise": "elementwise|silu|gelu|triton|aten::add|aten::mul",
}  # fmt: skip


def profiled(work: Callable[[], Any], device: torch.device) -> tuple[dict[str, float], str]:
    """Shares of the time by kind, host gaps among them, and the longest kernels as a table.

    Gaps are the time in which no kernel ran, if all run on one stream; the profiler itself makes some.
    """
    activity = getattr(torch.profiler.ProfilerActivity, device.type.upper())
    with torch.profiler.profile(activities=[activity]) as found:
        wall = 1e6 * seconds_of(work, device)
    kernels = sorted(_kernels(found.key_averages(), device), reverse=True)
    shares = dict.fromkeys([*KINDS, "other"], 0.0)
    for spent, _, name in kernels:
        shares[_kind(name)] += spent / wall
    shares["host gaps"] = 1 - sum(shares.values())
    shares = {kind: round(share, 4) for kind, share in shares.items()}
    return shares, _table(wall, shares, kernels)


def _kernels(events: Any, device: torch.device) -> list[tuple[float, int, str]]:
    """Microseconds, calls and name of each; without an accelerator those of operators."""
    if device.type != "cuda":
        return [(event.self_cpu_time_total, event.count, event.key) for event in events]
    return [
        (event.self_device_time_total, event.count, event.key)
        for event in events
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]


def _kind(name: str) -> str:
    return next((kind for kind, words in KINDS.items() if re.search(words, name.lower())), "other")


def _table(wall: float, shares: dict[str, float], kernels: list[tuple[float, int, str]]) -> str:
    lines = [f"{wall / 1e3:.1f} ms: " + ", ".join(f"{kind} {share:.1%}" for kind, share in shares.items())]
    lines += [
        f"{spent / wall:6.1%} {spent / 1e3:9.2f} ms {calls:7} x  {_kind(name):12}  {name[:160]}"
        for spent, calls, name in kernels[:LINES]
    ]
    return "\n".join(lines)
