"""One page of what a search has found: a row for each query, without labels."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import PurePath

from torchreid_genext.ranklists.thumbnails import thumbnails

__all__ = ["render_search"]

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 13px sans-serif; margin: 1em }}
section {{ display: flex; gap: 6px; overflow-x: auto; padding: 6px 0; border-bottom: 1px solid #ccc }}
figure {{ margin: 0; width: 70px; flex: none }}
figure:first-child {{ margin-right: 14px }}
figure div {{ height: 128px; width: 64px; background: #ddd }}
img {{ max-height: 128px }}
figcaption {{ overflow: hidden; text-overflow: ellipsis; white-space: nowrap }}
</style>
<h1>{title}</h1>
<p>First the query, then what is closest to it, with distances.</p>
{rows}
</html>
"""


def render_search(title: str, queries: Sequence[str], lists: Sequence[Sequence[tuple[str, float]]]) -> str:
    """The page as text; it holds its pictures and asks no network.

    Args:
        title: what was searched.
        queries: image files.
        lists: image file and distance of what was found for each, closest first.
    """
    files = [*dict.fromkeys([*queries, *(path for hits in lists for path, _ in hits)])]
    pictures = dict(zip(files, thumbnails(files)))
    rows = []
    for query, hits in zip(queries, lists):
        cells = [_cell(query, "query", pictures)]
        cells += [_cell(path, f"{distance:.3g}", pictures) for path, distance in hits]
        rows.append(f"<section>{''.join(cells)}</section>")
    return _PAGE.format(title=html.escape(title), rows="\n".join(rows))


def _cell(path: str, caption: str, pictures: dict[str, str | None]) -> str:
    name, source = html.escape(PurePath(path).name), pictures[path]
    picture = f'<img src="{source}" alt="{name}">' if source else "<div></div>"
    return f'<figure title="{name}">{picture}<figcaption>{caption}<br>{name}</figcaption></figure>'
