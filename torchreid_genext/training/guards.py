"""Against losses that are no numbers, and against interruptions in the middle of an update."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Buffers", "Diverged", "LossWatch", "interruption_deferred", "termination_as_interruption"]

_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM)


class Diverged(ValueError):
    """A loss or a weight has become infinite or not a number."""


class LossWatch:
    """Remembers the first step with a loss that is not finite.

    A single process on the CPU says so at once, before its weights are touched. An accelerator would have to
    be waited for in every step, and other processes would wait for one that stops: there `check` says it.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._at_once = accelerator.device.type == "cpu" and accelerator.num_processes == 1
        self._first = torch.full((), -1, device=accelerator.device)

    def see(self, loss: Tensor, step: int) -> None:
        """Look at a loss.

        Raises:
            Diverged: if it is not finite and this is known already.
        """
        bad = ~torch.isfinite(loss.detach())
        if self._at_once:
            if bad:
                raise _diverged(step)
        else:
            self._first = torch.where(bad & (self._first < 0), step, self._first)

    def check(self) -> None:
        """Say what has been seen, in all processes alike; to be called by all.

        Raises:
            Diverged: if a loss was not finite; names the step, counted from 1.
        """
        if not self._at_once:
            first = self._accelerator.gather(self._first[None])
            if len(bad := first[first >= 0]):
                raise _diverged(int(bad.min()))


def _diverged(step: int) -> Diverged:
    return Diverged(f"expected a finite loss, got one that is infinite or not a number in step {step + 1}")


class Buffers:
    """The buffers of modules as they were before a step, since a loss that fails has already changed them."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        found = {id(buffer): buffer for module in modules for buffer in module.buffers()}
        self._groups = _by_dtype(found)
        self._kept = [[tensor.clone() for tensor in group] for group in self._groups]
        self._valid = False

    @torch.no_grad()
    def keep(self) -> None:
        """Remember the buffers as they are."""
        for kept, group in zip(self._kept, self._groups):
            torch._foreach_copy_(kept, group)
        self._valid = True

    def forget(self) -> None:
        """The step is done: there is nothing to restore."""
        self._valid = False

    @torch.no_grad()
    def restore(self) -> None:
        """Bring back what `keep` remembered, unless it is forgotten."""
        for kept, group in zip(self._kept, self._groups) if self._valid else ():
            torch._foreach_copy_(group, kept)


def _by_dtype(tensors: Mapping[int, Tensor]) -> list[list[Tensor]]:
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors.values():
        groups.setdefault(tensor.dtype, []).append(tensor)
    return list(groups.values())


@contextlib.contextmanager
def interruption_deferred() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block is done."""
    waiting: list[int] = []
    with _handled(dict.fromkeys(_INTERRUPTIONS, lambda number, frame: waiting.append(number))):
        yield
    if waiting:
        signal.raise_signal(waiting[0])


def termination_as_interruption() -> contextlib.AbstractContextManager[None]:
    """Let SIGTERM, as schedulers send it, end a block as Ctrl-C does, unless somebody handles it already."""
    alone = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    return _handled({signal.SIGTERM: signal.default_int_handler} if alone else {})


@contextlib.contextmanager
def _handled(handlers: Mapping[int, Callable[..., Any]]) -> Iterator[None]:
    """Handle signals for a while; other threads than the main one never get any."""
    if threading.current_thread() is not threading.main_thread():
        handlers = {}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
