"""README and documentation as tests read them: code, sections, tables and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT

README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").rglob("*.md")))


def read(path: Path | str) -> str:
    """A page, by its path or by its name in ``docs``."""
    return (ROOT / "docs" / path).read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Code in that language, of all pages, each text once."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
    return [*dict.fromkeys(block for path in PAGES for block in pattern.findall(read(path)))]


def section(name: Path | str, title: str) -> str:
    """Of a page, what stands below a heading of the second level."""
    return re.split(r"^## ", read(name).split(f"\n## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def table(text: str) -> list[list[str]]:
    """Rows of the first Markdown table, without its heading."""
    return next(tables(text))


def tables(text: str) -> Iterator[list[list[str]]]:
    """Rows of each table of a page, without headings."""
    for found in re.finditer(r"^\|.*(?:\n\|.*)*", text, flags=re.MULTILINE):
        lines = found[0].splitlines()
        yield [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def without_blocks(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def links(text: str) -> list[str]:
    """Targets of links and pictures that lie in the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", without_blocks(text)))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(text: str) -> set[str]:
    """What the headings of a page can be linked by: GitHub's way, which is also that of the site."""
    titles = re.findall(r"^#+ (.+)$", without_blocks(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
