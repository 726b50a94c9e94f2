"""Bars of a table in a page, as an SVG that is read on white and on black."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

__all__ = ["Bar", "drawn"]

ROW, WIDTH, GREY, BLUE = 24, 960, "#888888", "#5b7fd6"  # pixels, and colours in between


class Bar(NamedTuple):
    """A row of the picture: what is measured, and its value, at least 0."""

    label: str
    value: float


def drawn(title: str, bars: Sequence[Bar]) -> str:
    """The picture: a bar a line, with its label before it and its value behind it.

    Args:
        title: what the values are.
        bars: from top to bottom.
    """
    height, left = ROW * (len(bars) + 1), 12 + 7 * max(len(bar.label) for bar in bars)
    scale = (WIDTH - left - 60) / max(bar.value for bar in bars)
    lines = [_text(left, ROW - 8, title, "start")]
    for row, bar in enumerate(bars, start=1):
        top, width = row * ROW, round(bar.value * scale, 1)
        lines += [
            _text(left - 8, top + 16, bar.label, "end"),
            f'<rect x="{left}" y="{top + 4}" width="{width}" height="{ROW - 8}" fill="{BLUE}"/>',
            _text(left + width + 6, top + 16, f"{bar.value:.2f}", "start"),
        ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}">'
    return "\n".join([head, *lines, "</svg>\n"])


def _text(x: float, y: float, words: str, anchor: str) -> str:
    place = f'x="{round(x, 1)}" y="{y}" text-anchor="{anchor}"'
    return f'<text {place} font-family="monospace" font-size="11.5" fill="{GREY}">{escape(words)}</text>'
