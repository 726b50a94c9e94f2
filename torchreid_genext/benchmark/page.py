"""A report as one page of HTML, with its pictures inside; light or dark, as the reader's system is.

It is made of the report's own Markdown: headings, paragraphs, tables, lists, pictures and links.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from torchreid_genext.ranklists.templates import filled

__all__ = ["render"]

_CELL = re.compile(r"(?<!\\)\|")
_LINK = re.compile(r"\[([^\]]*)\]\(([\w.-]+)\)")  # to files beside the page, and nowhere else


def render(markdown: str, folder: Path) -> str:
    """The whole page as text.

    Args:
        markdown: of a report, paragraphs apart by empty lines; it begins with its title.
        folder: has the pictures; one that is not there is only named.
    """
    parts = {
        "@title@": html.escape(markdown.partition("\n")[0].lstrip("# ")),
        "@body@": "\n".join(_section(block, folder) for block in _blocks(markdown)),
    }
    return filled(__package__, "report.html", "report.css", parts)


def _blocks(markdown: str) -> Iterator[str]:
    yield from filter(None, (block.strip("\n") for block in re.split(r"\n{2,}", markdown)))


def _section(block: str, folder: Path) -> str:
    """One block, by how it begins."""
    kinds: dict[str, Callable[[str], str]] = {
        "#": _heading,
        r"\|.*\n\| ---": _table,
        "- ": _list,
        rf"!{_LINK.pattern}$": lambda block: _picture(block, folder),
    }
    kind = next((kind for begin, kind in kinds.items() if re.match(begin, block)), _paragraph)
    return kind(block)


def _heading(block: str) -> str:
    level = len(block) - len(block.lstrip("#"))
    return f"<h{level}>{_inline(block.lstrip('# '))}</h{level}>"


def _paragraph(block: str) -> str:
    return f"<p>{_inline(block)}</p>"


def _list(block: str) -> str:
    items = (f"<li>{_inline(line.removeprefix('- '))}</li>" for line in block.splitlines())
    return f"<ul>{''.join(items)}</ul>"


def _table(block: str) -> str:
    """The first line is the heading, the second one the rule, which tells columns of numbers."""
    head, rule, *rows = (_cells(line) for line in block.splitlines())
    numbers = [cell.endswith(":") for cell in rule]
    heading, body = _row(head, "th", numbers), "".join(_row(row, "td", numbers) for row in rows)
    return f'<div class="wide"><table><thead>{heading}</thead><tbody>{body}</tbody></table></div>'


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in _CELL.split(line)[1:-1]]


def _row(cells: list[str], tag: str, numbers: list[bool]) -> str:
    return f"<tr>{''.join(_cell(cell, tag, number) for cell, number in zip(cells, numbers))}</tr>"


def _cell(cell: str, tag: str, number: bool) -> str:
    text = _inline(cell)
    return f'<{tag} class="number">{text}</{tag}>' if number else f"<{tag}>{_foldable(text)}</{tag}>"


def _foldable(cell: str) -> str:
    """Chains have no spaces: they are folded behind + and comma, and before an opening bracket."""
    return re.sub(r"(?<=[+,])(?=\w)|(?<=\w)(?=\()", "<wbr>", cell)


def _picture(block: str, folder: Path) -> str:
    name = _LINK.search(block)[2]
    try:
        content = (folder / name).read_bytes()
    except OSError:
        return _paragraph(name)
    data = base64.b64encode(content).decode()
    image = f'<img alt="{name}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{name}</figcaption></figure>"


def _inline(text: str) -> str:
    """Escaped first, so that no name of a file becomes markup; then code and links."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
    return _LINK.sub(r'<a href="\2">\1</a>', text)
