"""Where the time of training goes: images per second, and the share of it spent waiting for data."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Clock", "Span"]


@dataclass(frozen=True)
class Span:
    """A stretch of training: seconds in all and waiting for data, images and steps."""

    seconds: float = 0.0
    waited: float = 0.0
    images: int = 0
    steps: int = 0

    @property
    def images_per_second(self) -> float:
        """Speed over the whole stretch, waiting included; 0 before any time has passed."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def data_wait(self) -> float:
        """The share of time in 0 .. 1 in which nothing was done but waiting for the next batch."""
        return self.waited / self.seconds if self.seconds else 0.0

    def __add__(self, other: Span) -> Span:
        return Span(*(a + b for a, b in zip(vars(self).values(), vars(other).values())))


class Clock:
    """Measures steps; saving and drawing are left out.

    Attributes:
        whole: everything up to the last `lap`.
    """

    def __init__(self) -> None:
        self.whole = Span()
        self._running = Span()
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """For the block that gets the next batch."""
        start = time.perf_counter()
        yield
        self._running += Span(waited=time.perf_counter() - start)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """For blocks that are not part of a step."""
        start = time.perf_counter()
        yield
        self._started += time.perf_counter() - start

    def count(self, images: int) -> None:
        """A step is done."""
        self._running += Span(images=images, steps=1)

    def lap(self) -> Span:
        """What was measured since the last call; on an accelerator, call it when it has caught up."""
        now = time.perf_counter()
        lap = self._running + Span(seconds=now - self._started)
        self.whole += lap
        self._running, self._started = Span(), now
        return lap
