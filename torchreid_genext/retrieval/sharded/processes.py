"""What processes say to each other: uneven tensors, sums, and that something is wrong.

A collective call that fails, because a process has ended or did not come within the group's timeout, becomes
one RuntimeError that says so, on every process that waited for it. A bad argument on one process is told to
all before any data travel, so that nobody waits for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Processes"]


class Processes:
    """The processes of a group, seen from one of them.

    Attributes:
        group: of torch.distributed; None is the whole world.
        device: where tensors to be sent must lie.
        rank: number of this process in the group.
        count: of processes.

    Raises:
        RuntimeError: if no process group is initialised, or this process is not in the group.
    """

    def __init__(self, device: torch.device, group: dist.ProcessGroup | None = None) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise RuntimeError(
                "expected an initialised process group, got none; start the program with torchrun and call "
                "torch.distributed.init_process_group first"
            )
        self.group, self.device = group, device
        self.rank, self.count = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise RuntimeError("expected this process to be in the group, got one that it is not in")

    def agreed(self, check: Callable[[], Any]) -> Any:
        """What ``check`` returns here, if it raises no ValueError on any process.

        Raises:
            ValueError: its own on the process that raised it, one that names that process on the others.
        """
        try:
            result, problem = check(), None
        except ValueError as error:
            result, problem = None, error
        refused = [rank for rank, bad in enumerate(self.numbers(problem is not None)) if bad]
        if problem is not None:
            raise problem
        if refused:
            listed = ", ".join(map(str, refused))
            raise ValueError(f"expected good arguments on all processes, got bad ones on {listed}; see there")
        return result

    def same(self, **values: object) -> None:
        """Raise ValueError unless each value is the same on all processes; no integer: by its text."""
        for name, value in values.items():
            number = isinstance(value, int)
            found = self.numbers(value if number else _number_of(repr(value)))
            if len(set(found)) > 1:
                got = ", ".join(map(str, found)) if number else f"{value} on process {self.rank} and others"
                raise ValueError(f"expected one {name} on all processes, got {got}")

    def numbers(self, value: int) -> list[int]:
        """One integer of each process."""
        own = torch.tensor([int(value)], device=self.device)
        every = [torch.empty_like(own) for _ in range(self.count)]
        with self._in_contact():
            dist.all_gather(every, own, group=self.group)
        return [int(value) for value in every]

    def gather(self, part: Tensor) -> Tensor:
        """The parts of all processes, (n_r, ...) each, one below the other on all of them."""
        lengths = self.numbers(len(part))
        padded = part.new_zeros(max(lengths), *part.shape[1:])
        padded[: len(part)] = part
        every = [torch.empty_like(padded) for _ in lengths]
        with self._in_contact():
            dist.all_gather(every, padded, group=self.group)
        return torch.cat([some[:length] for some, length in zip(every, lengths)])

    def broadcast(self, values: Tensor, source: int) -> None:
        """Fill ``values`` with those of one process."""
        if values.numel():
            sender = dist.get_global_rank(self.group or dist.group.WORLD, source)
            with self._in_contact():
                dist.broadcast(values, sender, group=self.group)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if values.numel():
            with self._in_contact():
                dist.all_reduce(values, group=self.group)
        return values

    def exchange(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Send the r-th part, (n_r, ...), to process r; return what each process has sent here."""
        sizes = torch.tensor([len(part) for part in parts], device=self.device)
        arriving = torch.empty_like(sizes)
        with self._in_contact():
            dist.all_to_all_single(arriving, sizes, group=self.group)
        sent = torch.cat(list(parts))
        received = sent.new_empty(int(arriving.sum()), *sent.shape[1:])
        with self._in_contact():
            dist.all_to_all_single(received, sent, arriving.tolist(), sizes.tolist(), group=self.group)
        return list(received.split(arriving.tolist()))

    def rounds(self, length: int, size: int) -> Iterator[slice]:
        """Slices of ``size`` entries, as many on each process as the longest length needs; some are empty."""
        for start in range(0, max(self.numbers(length)), size):
            yield slice(min(start, length), min(start + size, length))

    @contextmanager
    def _in_contact(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError(
                f"expected {self.count} processes to work together, but process {self.rank} has lost contact "
                "with another one, which has ended or has not answered within the timeout of "
                "init_process_group; the message of the one that ended says why"
            ) from error


def _number_of(text: str) -> int:
    """A number that tells texts apart, in 63 bits."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
