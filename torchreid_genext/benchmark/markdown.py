"""The pieces of a report's Markdown, which `page` reads again: lines and tables."""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["line", "table"]


def line(text: str) -> str:
    """On one line: names of files and faults may have several, which would end a row or a list."""
    return " ".join(text.split())


def table(header: Sequence[str], rows: Sequence[Sequence[str]], words: Collection[str] = ()) -> str:
    """A table whose columns are numbers, but for the first.

    Args:
        header: names of the columns.
        rows: cells, as many as names.
        words: further columns of words.
    """
    rule = ["---" if name in (header[0], *words) else "---:" for name in header]
    cells = ([line(cell).replace("|", "\\|") for cell in row] for row in (header, rule, *rows))
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)
