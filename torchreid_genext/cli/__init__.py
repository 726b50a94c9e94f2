"""The command line: a file for each tool; those in ``tools/`` are doors to them."""

from __future__ import annotations

import sys
from collections.abc import Callable

__all__ = ["run"]


def run(tool: Callable[[], None]) -> None:
    """Do what the command line asks; what users can mend ends in one line."""
    try:
        tool()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
