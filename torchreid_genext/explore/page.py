"""What is found, as HTML with its own pictures; names of files are text, whatever is in them."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath

from PIL import Image

from torchreid_genext.explore.search import Answer, Hit, Picture
from torchreid_genext.ranklists.thumbnails import thumbnails

__all__ = ["answer", "asset", "code_of", "intro", "notice", "picker", "row_of_pictures", "source_of"]

_Sources = Mapping[str, str | None]


def asset(name: str) -> str:
    """The text of a script or style that lies beside this module."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def intro(title: str) -> str:
    """What this page is, and of what."""
    return f'<header class="gx-intro"><h1>torchreid-genext explore</h1><p>{html.escape(title)}</p></header>'


def notice(text: str, kind: str = "notice") -> str:
    """A sentence in place of a result."""
    return f'<p class="gx-{kind}" role="status">{html.escape(text)}</p>'


def picker(paths: Sequence[str], rows: Sequence[int], chosen: int | None = None) -> str:
    """Pictures to choose one of.

    Args:
        paths: of all.
        rows: that are shown.
        chosen: the row that is marked.
    """
    sources = dict(zip(rows, thumbnails([paths[row] for row in rows])))
    buttons = [
        f'<button type="button" data-row="{row}" aria-pressed="{str(row == chosen).lower()}" '
        f'title="{_name(paths[row])}">{_image(sources[row], paths[row])}</button>'
        for row in rows
    ]
    return f'<div class="gx-picker">{"".join(buttons)}</div>'


def row_of_pictures(title: str, pictures: Iterable[tuple[str, Image.Image]]) -> str:
    """Made pictures side by side, each with words under it."""
    figures = [
        f'<figure><img src="{source_of(image)}" alt="{html.escape(words)}">'
        f"<figcaption>{html.escape(words)}</figcaption></figure>"
        for words, image in pictures
    ]
    return f'<h3 class="gx-title">{html.escape(title)}</h3><div class="gx-row">{"".join(figures)}</div>'


def code_of(numbers: Sequence[float]) -> str:
    """A code as bars, up for positive numbers."""
    most = max(map(abs, numbers), default=0) or 1
    heights = [20 * number / most for number in numbers]
    bars = "".join(
        f'<rect x="{5 * place}" y="{20 - max(0, high):.1f}" width="4" height="{abs(high):.1f}"/>'
        for place, high in enumerate(heights)
    )
    frame = f'viewBox="0 0 {5 * len(numbers)} 40" preserveAspectRatio="xMinYMid"'
    words = f"the code: {len(numbers)} numbers"
    picture = f'<svg {frame} role="img" aria-label="the code">{bars}</svg>'
    return f'<figure class="gx-code">{picture}<figcaption>{words}</figcaption></figure>'


def source_of(image: Image.Image) -> str:
    """A picture as text, without loss."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def answer(found: Answer, query: Image.Image | None = None) -> str:
    """A search: the query, the list after the chain with reasons, and the list without it.

    Args:
        found: by a search.
        query: the picture, where it is no file.
    """
    paths = [found.query] if query is None else []
    for hit in (*found.hits, *found.base):
        paths += [hit.picture.path, *(each.path for each in hit.neighbours)]
    paths = [*dict.fromkeys([*paths, *(each.path for each in found.neighbours)])]
    sources = dict(zip(paths, thumbnails(paths)))
    asked = source_of(query) if query is not None else sources[found.query]
    return (
        f'<section class="gx-answer">{_head(found, asked, sources)}'
        f'<h3 class="gx-title">After {html.escape(found.chain)} <small>{_legend(found)}</small></h3>'
        f'<div class="gx-hits">{"".join(_card(hit, sources) for hit in found.hits)}</div>'
        f'{_base(found, sources)}</section>'
    )  # fmt: skip


def _legend(found: Answer) -> str:
    words = "green: the same person, red: somebody else; " if found.precision else ""
    return f"{words}&#9650;&#9660; places gained and lost by the chain"


def _head(found: Answer, source: str | None, sources: _Sources) -> str:
    shown = PurePath(found.query).name or "uploaded picture"
    name = html.escape(shown)
    facts = [_precision(found.precision)] if found.precision else []
    facts.append(_changes(found))
    chain, listed = found.seconds
    facts.append(
        f"list in {listed:.2f} s" + (f", chain in {chain:.2f} s" if chain >= 0.005 else ", chain known")
    )
    told = "".join(f"<li>{fact}</li>" for fact in facts)
    neighbours = _neighbours(found.neighbours, sources, "averaged with")
    return (
        f'<header class="gx-query">{_image(source, shown)}<div><h3 title="{name}">{name}</h3>'
        f'<ul class="gx-facts">{told}</ul>{neighbours}</div></header>'
    )


def _precision(both: tuple[float, float]) -> str:
    before, after = (100 * each for each in both)
    word = "up" if after > before + 0.05 else "down" if after < before - 0.05 else "same"
    return f'average precision {before:.1f} &rarr; <b class="gx-{word}">{after:.1f}</b>'


def _changes(found: Answer) -> str:
    depth = len(found.hits)
    new = [hit for hit in found.hits if hit.before > depth]
    known = [(sum(hit.picture.kind == "match" for hit in hits)) for hits in (found.base, found.hits)]
    told = f"{len(new)} of {depth} pictures are new"
    return told if not found.precision else f"{told}; right ones {known[0]} &rarr; {known[1]}"


def _card(hit: Hit, sources: _Sources) -> str:
    kind, moved = hit.picture.kind or "unknown", _moved(hit)
    camera = f"camera {hit.camera}" if hit.camera else ""
    words = f"rank {hit.rank}, {_KINDS[kind]}{camera and ', '}{camera}, distance {hit.distance:.3g}"
    return (
        f'<figure class="gx-{kind}" title="{_name(hit.picture.path)}">'
        f"{_image(sources[hit.picture.path], words)}"
        f"<figcaption><span><b>{hit.rank}</b> {moved}</span><span>{camera}</span></figcaption>{_time(hit)}"
        f"{_neighbours(hit.neighbours, sources, 'averaged with')}</figure>"
    )


_KINDS = {"match": "same person", "miss": "somebody else", "unknown": "person unknown"}


def _moved(hit: Hit) -> str:
    """From where in the list without a chain."""
    steps = hit.before - hit.rank
    if not steps or not hit.before:
        return ""
    arrow, word = ("&#9650;", "up") if steps > 0 else ("&#9660;", "down")
    return f'<i class="gx-{word}" title="rank {hit.before} without the chain">{arrow}{abs(steps)}</i>'


def _time(hit: Hit) -> str:
    if hit.time is None:
        return ""
    change = hit.time.joint - hit.time.looks
    when = f"{abs(hit.time.lag):,} frames {'later' if hit.time.lag >= 0 else 'earlier'}"
    title = f"distance by looks {hit.time.looks:.3f}, with time {hit.time.joint:.3f}"
    return f'<p class="gx-time" title="{title}">{when}<br>looks {hit.time.looks:.2f}, time {change:+.2f}</p>'


def _neighbours(pictures: Sequence[Picture], sources: _Sources, words: str) -> str:
    if not pictures:
        return ""
    images = "".join(
        f'<span class="gx-{each.kind or "unknown"}" title="{_name(each.path)}">'
        f"{_image(sources[each.path], _KINDS[each.kind or 'unknown'])}</span>"
        for each in pictures
    )
    return f'<div class="gx-neighbours"><small>{words}</small>{images}</div>'


def _base(found: Answer, sources: _Sources) -> str:
    if found.chain == "base":
        return ""
    images = "".join(
        f'<figure class="gx-{hit.picture.kind or "unknown"}" title="{_name(hit.picture.path)}">'
        f"{_image(sources[hit.picture.path], f'rank {hit.rank} without the chain')}</figure>"
        for hit in found.base
    )
    return f'<h3 class="gx-title">Without a chain</h3><div class="gx-hits gx-small">{images}</div>'


def _image(source: str | None, words: str) -> str:
    words = html.escape(PurePath(words).name if "/" in words else words)
    return (
        f'<img src="{source}" alt="{words}">' if source else f'<span class="gx-blank" title="{words}"></span>'
    )


def _name(path: str) -> str:
    return html.escape(PurePath(path).name)
