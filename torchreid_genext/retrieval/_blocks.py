"""Rows a block at a time."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["blocks"]


def blocks(total: int, size: int, name: str = "chunk") -> Iterator[slice]:
    """Slices of ``size`` rows, the last one shorter; ``name`` is what the user calls the size."""
    if size < 1:
        raise ValueError(f"expected {name} >= 1, got {size}")
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
