"""What filling a store will cost, told before it starts: one batch is made and measured."""

from __future__ import annotations

import io
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from torchreid_genext.generation.work import Work

__all__ = ["Plan", "plan"]

_FILE_SYSTEM_BLOCK = 4096  # bytes, of which every file takes whole ones


@dataclass(frozen=True)
class Plan:
    """The cost of pictures that are still to be made.

    Attributes:
        images: how many there are. present: how many more are in the store already.
        flops: of one image, multiplications and additions counted apart, in matrix products and convolutions.
        seconds: of one image, in batches, in one process.
        disk: bytes of one image with its entry.
        memory: largest so far, in bytes: of the process, or of the accelerator's allocations.
        processes: that share the work, each as fast as one alone.
    """

    images: int
    present: int
    flops: float
    seconds: float
    disk: float
    memory: int
    processes: int = 1

    def __str__(self) -> str:
        hours, seconds = divmod(self.images * self.seconds / self.processes, 3600)
        several = self.processes > 1
        rate = f"{self.processes / self.seconds:.3g} images/s"
        workers = f"{self.processes} processes" if several else "one process"
        lines = {
            "images": f"{self.images:,} to make, {self.present:,} are there",
            "FLOPs": f"{self.images * self.flops:.3g} ({self.flops / 1e9:.3g} GFLOP an image)",
            "time": f"{hours:.0f} h {seconds // 60:.0f} min ({rate} in {workers})",
            "disk": f"{self.images * self.disk / 2**20:,.0f} MiB ({self.disk / 1024:.1f} KiB an image)",
            "memory": f"{self.memory / 2**20:,.0f} MiB at most" + " in each" * several,
        }
        return "\n".join(f"{name:>7}: {value}" for name, value in lines.items())


def plan(
    missing: Sequence[Work],
    present: int,
    generate: Callable[[list[Work]], Sequence[Image.Image]],
    *,
    batch_size: int,
    processes: int = 1,
) -> Plan:
    """Make one batch, which is thrown away, to say what all will cost.

    Args:
        missing: works to be made, at least one.
        present: how many are there already.
        generate: makes them.
        batch_size: images at a time.
        processes: that will share the work with a thread each; with one, it has all threads.

    Raises:
        ValueError: if there is nothing to make.
    """
    if not missing:
        raise ValueError("expected something to make, got nothing")
    batch = list(missing[:batch_size])
    with _threads_of_each(processes):
        with FlopCounterMode(display=False) as counter:
            generate(batch)  # the first time, which also fills caches
        begun = time.perf_counter()
        pictures = generate(batch)
        seconds = (time.perf_counter() - begun) / len(batch)
    disk = sum(map(_bytes_on_disk, pictures)) / len(batch)
    flops = counter.get_total_flops() / len(batch)
    return Plan(len(missing), present, flops, seconds, disk, _largest_memory(), processes)


@contextmanager
def _threads_of_each(processes: int) -> Iterator[None]:
    """What torch has while one of several processes is measured."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if processes > 1 else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _bytes_on_disk(picture: Image.Image) -> int:
    """Of a PNG, and of an entry, in whole blocks."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return -(-file.tell() // _FILE_SYSTEM_BLOCK) * _FILE_SYSTEM_BLOCK + _FILE_SYSTEM_BLOCK


def _largest_memory() -> int:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
