"""Rows a block at a time, and the memory that a block may take."""

from __future__ import annotations

import operator
from collections.abc import Iterator

__all__ = ["DEFAULT_MEMORY_LIMIT", "blocks", "blocks_within", "check_count", "check_limit"]

DEFAULT_MEMORY_LIMIT = 96 * 2**20  # bytes of working memory; larger blocks are not faster


def blocks(rows: int | slice, size: int, name: str = "chunk") -> Iterator[slice]:
    """Slices of ``size`` rows, the last one shorter.

    Args:
        rows: how many there are, or a range of them.
        size: rows of a slice, >= 1.
        name: what the user calls the size.

    Raises:
        ValueError: unless the size is an integer >= 1; before the first slice is asked for.
    """
    start, stop = (rows.start, rows.stop) if isinstance(rows, slice) else (0, rows)
    size = check_count(name, size)
    return (slice(first, min(first + size, stop)) for first in range(start, stop, size))


def blocks_within(rows: int | slice, row_bytes: int, memory_limit: int | None) -> Iterator[slice]:
    """Slices of rows that take ``row_bytes`` each and fit into the memory limit together; one row at least.

    Raises:
        ValueError: as ``check_limit``; before the first slice is asked for.
    """
    return blocks(rows, max(1, check_limit(memory_limit) // max(1, row_bytes)))


def check_limit(memory_limit: int | None) -> int:
    """Bytes of working memory: the library's default for None.

    Raises:
        ValueError: unless the limit is an integer >= 1.
    """
    if memory_limit is None:
        return DEFAULT_MEMORY_LIMIT
    return check_count("memory_limit", memory_limit, " byte")


def check_count(name: str, value: int, unit: str = "") -> int:
    """The value as an integer.

    Raises:
        ValueError: unless the value is an integer >= 1; True is none.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise ValueError(f"expected {name} to be an integer, got {value!r}")
    if number < 1:
        raise ValueError(f"expected {name} >= 1{unit}, got {number}")
    return number
