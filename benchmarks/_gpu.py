"""What the parts of `gpu.py` work with: rows that are written at once, clocks, and the limits of the card."""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import json
import os
import platform
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from _gpu_profile import profiled
from _measure import rate_of_product, seconds_of
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["GIB", "TERA", "Part", "flops", "machine"]

GIB, TERA = 2**30, 1e12
PACKAGES = (
    "torch", "torchvision", "numpy", "pillow", "accelerate", "diffusers", "transformers", "torchreid",
    "safetensors", "triton", "opencv-python-headless",
)  # fmt: skip


class Part:
    """A part of the run in a process of its own.

    Args:
        name: of the part.
        file: where its results are kept; written anew after every row, whole or not at all.
        device: where it works.
        tiny: with sizes that only show that everything runs.
        seconds: until it is stopped.
        profile: whether what is timed is also done once under torch's profiler.
    """

    def __init__(
        self, name: str, file: Path, *, device: torch.device, tiny: bool, seconds: float, profile: bool
    ) -> None:
        self.file, self.device, self.tiny, self.profile = file, device, tiny, profile
        self._begun, self._end = time.perf_counter(), time.perf_counter() + seconds
        self.found: dict[str, Any] = {"part": name, "machine": machine(device), "rows": [], "errors": []}
        self.write()

    def write(self) -> None:
        self.found["seconds"] = round(time.perf_counter() - self._begun, 1)
        temporary = self.file.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.found))
        temporary.replace(self.file)

    def add(self, row: str, **figures: Any) -> None:
        self.found["rows"].append({"row": row, **figures})
        self.write()

    def left(self) -> float:
        """Seconds."""
        return self._end - time.perf_counter()

    @contextlib.contextmanager
    def trying(self, row: str) -> Iterator[None]:
        """What fails is written down, and the next row has its turn, with the memory of this one."""
        try:
            yield
        except Exception as error:
            said = f"{type(error).__name__}: {error}"[:500]
            self.found["errors"].append(
                {"row": row, "error": said, "traceback": traceback.format_exc()[-4000:]}
            )
            self.write()
        gc.collect()
        if self.device.type != "cpu":
            torch.accelerator.empty_cache()

    def timed(self, row: str, work: Callable[[], Any], turns: int = 2) -> float:
        """Seconds of the fastest turn, after as much warming up as the caller has done."""
        fastest = min(seconds_of(work, self.device) for _ in range(turns))
        if self.profile:
            self.look_into(row, work)
        return fastest

    def look_into(self, row: str, work: Callable[[], Any]) -> dict[str, float]:
        """Keep the kernels that take longest as a text, and give back the shares of their kinds."""
        shares, text = profiled(work, self.device)
        self.found.setdefault("profiles", {})[row] = text
        self.write()
        return shares

    def product(self, precision: str) -> float:
        """FLOP/s of a large product; TF32's as a precision of its own."""
        side = 256 if self.tiny else 0
        if precision != "tf32":
            return rate_of_product(precision, self.device, side)
        torch.set_float32_matmul_precision("high")
        try:
            return rate_of_product.__wrapped__("fp32", self.device, side)
        finally:
            torch.set_float32_matmul_precision("highest")

    def start_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float | None:
        """Of the device, since `start_memory`; None where it is not counted."""
        return torch.cuda.max_memory_allocated() / GIB if self.device.type == "cuda" else None


def flops(work: Callable[[], Any]) -> tuple[int, Any]:
    """Floating-point operations of products and convolutions, and the result."""
    with FlopCounterMode(display=False) as counter:
        found = work()
    return counter.get_total_flops(), found


def machine(device: torch.device) -> dict[str, Any]:
    """Card, driver and versions."""
    found: dict[str, Any] = {"python": platform.python_version(), "cores": os.cpu_count()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    if device.type != "cuda":
        return found | {
            "card": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
        }
    query = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        found["driver"], found["memory"] = answer.splitlines()[0].split(", ")
    found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return found | {"card": torch.cuda.get_device_name(device)}
