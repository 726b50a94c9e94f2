"""A benchmark that several processes share, as ``torchrun`` starts them.

Each extracts its part of the images and holds its shards of both sets; chains are measured by
``retrieval.sharded``. Process 0 alone writes and prints. Pictures, rank lists and the figures of the open set
need whole sets in one process and are left out.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from torchreid_genext.benchmark.settings import Images
from torchreid_genext.retrieval import sharded
from torchreid_genext.retrieval.protocol import Report, RetrievalSet, Training
from torchreid_genext.retrieval.sharded.processes import Processes

if TYPE_CHECKING:
    from torchreid_genext.retrieval.protocol import Chain

__all__ = ["Together", "is_shared", "processes_of_torchrun"]

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def processes_of_torchrun() -> Iterator[bool]:
    """The processes that ``torchrun`` has started, as long as they work together.

    Yields:
        Whether this process is the one that prints: the first, or the only one.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) < 2 or dist.is_initialized():
        yield not is_shared() or dist.get_rank() == 0
        return
    dist.init_process_group("gloo")
    try:
        yield dist.get_rank() == 0
    finally:
        dist.destroy_process_group()


def is_shared() -> bool:
    """Whether several processes work together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class Together:
    """The processes that share a benchmark, seen from one of them; or the only one.

    Attributes:
        first: whether this one writes.
    """

    def __init__(self) -> None:
        self._processes = Processes(torch.device("cpu")) if is_shared() else None
        self.first = self._processes is None or self._processes.rank == 0

    def __bool__(self) -> bool:
        return self._processes is not None

    @contextlib.contextmanager
    def one_after_the_first(self) -> Iterator[None]:
        """What the first process writes the others find written; after a fault of it none goes on."""
        if self and not self.first:
            self._agree(True)
        good = False
        try:
            yield
            good = True
        finally:
            if self and self.first:
                self._agree(good)

    def part(self, images: Images) -> Images:
        """The share of this process of a split; the images follow each other."""
        if not self:
            return images
        rank, count = self._processes.rank, self._processes.count
        rows = range(len(images.paths) * rank // count, len(images.paths) * (rank + 1) // count)
        some = slice(rows.start, rows.stop)
        columns = {name: getattr(images, name) for name in ("paths", "pids", "camids", "frames")}
        cut = {name: None if values is None else values[some] for name, values in columns.items()}
        return replace(images, generated=images.generated and images.generated.select(list(rows)), **cut)

    def wait(self) -> None:
        """Until all processes have come here."""
        if self:
            self._agree(True)

    def sum(self, number: float) -> float:
        """Of the numbers of all processes."""
        return float(self._processes.sum(torch.tensor(number, dtype=torch.float64))) if self else number

    def united(self, texts: dict[str, str]) -> dict[str, str]:
        """The entries of all processes."""
        if not self:
            return texts
        own = torch.tensor(list((json.dumps(texts) + "\n").encode()), dtype=torch.uint8)
        lines = bytes(self._processes.gather(own).tolist()).decode().splitlines()
        return {path: why for line in lines for path, why in json.loads(line).items()}

    def rank(
        self, query: RetrievalSet, gallery: RetrievalSet, chain: Chain, train: Training | None, **options: Any
    ) -> Report:
        """The report of a chain on the shards of all processes; options as of ``sharded.evaluate``."""
        _log.info("  chain %s", chain.name)
        return sharded.evaluate(query, gallery, chain, train=train, **options)

    def _agree(self, good: bool) -> None:
        if not all(self._processes.numbers(good)):
            raise RuntimeError("expected process 0 to prepare the data, but it failed; its message says why")
