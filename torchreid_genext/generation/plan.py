"""What filling a store will cost, told before it starts: two batches are made and measured."""

from __future__ import annotations

import contextlib
import io
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from torchreid_genext.data.images.reading import UNREADABLE
from torchreid_genext.generation.survey import is_of_the_system
from torchreid_genext.generation.work import Work, units_of

__all__ = ["Plan", "plan"]

Generate = Callable[[list[Work]], Sequence[Image.Image]]

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
    generate: Generate,
    *,
    batch_size: int,
    processes: int = 1,
) -> Plan:
    """Make the first batch, and the next one or the same again, to say what all will cost.

    References that cannot be read are passed over.

    Args:
        missing: works to be made, at least one.
        present: how many are there already.
        generate: makes them; it may keep what it makes.
        batch_size: images at a time.
        processes: that will share the work with a thread each; with one, it has all threads.

    Raises:
        ValueError: if there is nothing to make, or no reference can be read.
    """
    if not missing:
        raise ValueError("expected something to make, got nothing")
    with _threads_of_each(processes):
        works, flops = _counted(missing, generate, batch_size)  # the first time, which also fills caches
        batch = works[batch_size : 2 * batch_size]
        batch = batch if len(batch) == batch_size else works[:batch_size]
        pictures, seconds = _timed(batch, works, generate)
    disk = sum(map(_bytes_on_disk, pictures)) / len(pictures)
    return Plan(len(missing), present, flops, seconds, disk, _largest_memory(), processes)


def _counted(missing: Sequence[Work], generate: Generate, batch_size: int) -> tuple[list[Work], float]:
    """Works without those that cannot be read at their beginning, and the FLOPs of one."""
    works = list(missing)
    while batch := works[:batch_size]:
        try:
            with FlopCounterMode(display=False) as counter:
                generate(batch)
            return works, counter.get_total_flops() / len(batch)
        except UNREADABLE as error:
            works = _without_unreadable(works, batch, generate, error)
    raise ValueError(f"expected references that can be read, got {len(missing)} pictures of others")


def _timed(batch: list[Work], works: list[Work], generate: Generate) -> tuple[Sequence[Image.Image], float]:
    """Pictures of a batch, and the seconds that one took; of the first batch if this one cannot be read."""
    for each in (batch, works[: len(batch)]):
        begun = time.perf_counter()
        with contextlib.suppress(*UNREADABLE):
            pictures = generate(each)
            return pictures, (time.perf_counter() - begun) / len(each)
    raise ValueError(f"expected a generator that makes again what it made, got none of {len(batch)} pictures")


def _without_unreadable(
    works: list[Work], batch: list[Work], generate: Generate, error: Exception
) -> list[Work]:
    """Without the references of a batch that fail alone; if none does, it is another error."""
    bad = {unit[0].reference for unit in units_of(batch) if not _is_drawable(unit, generate)}
    if not bad or is_of_the_system(error):
        raise error
    return [work for work in works if work.reference not in bad]


def _is_drawable(unit: list[Work], generate: Generate) -> bool:
    try:
        generate(unit)
    except UNREADABLE:
        return False
    return True


@contextlib.contextmanager
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
