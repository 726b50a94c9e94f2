"""Names of chains that fit a line: long options, and what is still too long, become numbers of a legend."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["short_names"]

_OPTIONS = re.compile(r"(\w+)\(([^()]*)\)")
_FEW = 12  # letters of options that stay where they are
_BEGINNING = 8  # letters that a name keeps in any case


def short_names(chains: Iterable[str], width: int) -> tuple[dict[str, str], list[str]]:
    """Names of at most so many letters, as ``camera_norm+nfc[1]+st``, each of another chain.

    Args:
        chains: as reports name them.
        width: letters; few are exceeded where not even numbers fit.

    Returns:
        Chain -> its name, and the lines of the legend, ``[1] nfc(k1=3,k2=3)``.
    """
    numbers: dict[str, int] = {}
    names = {chain: chain if len(chain) <= width else _shortened(chain, width, numbers) for chain in chains}
    return names, [f"[{number}] {meaning}" for meaning, number in numbers.items()]


def _shortened(chain: str, width: int, numbers: dict[str, int]) -> str:
    known = dict(numbers)
    name = _OPTIONS.sub(lambda step: _numbered(step, known), chain)
    if len(name) > width:  # one number for all of it
        mark = f"..[{numbers.setdefault(chain, len(numbers) + 1)}]"
        return chain[: max(_BEGINNING, width - len(mark))] + mark
    numbers.update(known)
    return name


def _numbered(step: re.Match[str], numbers: dict[str, int]) -> str:
    if len(step[2]) <= _FEW:
        return step[0]
    return f"{step[1]}[{numbers.setdefault(step[0], len(numbers) + 1)}]"
