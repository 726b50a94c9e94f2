"""Pictures of retrieval: bars, densities, embeddings and ranked lists, in one plain style.

Every function returns a Matplotlib ``Figure`` that belongs to no window; ``figure.savefig(path)`` writes it.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Bar", "Hit", "RankedQuery", "Transition",
    "chain_bars", "density_histograms", "embeddings", "image_grid", "labelled_grid", "png", "ranked_lists",
    "transition_histograms",
]  # fmt: skip

_BEFORE, _AFTER, _INK, _FAINT = "#9aa5b1", "#1f6fb2", "#22272e", "#d0d5db"
_BORDERS = {"match": "#1a9850", "miss": "#d73027", "distractor": "#8c8c8c"}
_PLATE = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # keeps lines out of figures
_NAME = 40  # characters to a line of names beside bars
# What `chain_bars` of a benchmark say.
_INTERVALS = "Dashes: the first chain. Black: 95 % intervals, its own and those of the changes against it."
_MARKERS = "osD^vPX*<>ph"
_LARGEST = 500_000  # bytes of a picture's file
_OF_PALETTE = 1 / 3  # of a picture's bytes, with 256 colours
_STYLE = {
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in this module's style; Matplotlib is imported here and its settings are left as they were."""

    @functools.wraps(draw)
    def wrapped(*args: Any, **options: Any) -> Figure:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*args, **options)

    return wrapped


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def png(figure: Figure, *, largest: int = _LARGEST) -> bytes:
    """The file of a figure; photographs get 256 colours, and fewer pixels where the file would be too large.

    Args:
        figure: any of this module's.
        largest: bytes of the file.
    """
    file = io.BytesIO()
    figure.savefig(file, format="png")
    drawn, content = Image.open(file).convert("RGB"), file.getvalue()
    if len(content) <= largest:
        return content
    scale = min(1.0, math.sqrt(largest / (len(content) * _OF_PALETTE)))
    while len(content := _with_palette(drawn, scale)) > largest:
        scale *= 0.95 * math.sqrt(largest / len(content))
    return content


def _with_palette(image: Image.Image, scale: float) -> bytes:
    file = io.BytesIO()
    size = [max(1, round(length * scale)) for length in image.size]
    image.resize(size, Image.Resampling.LANCZOS).quantize(256).save(file, format="PNG", optimize=True)
    return file.getvalue()


def _wrapped(text: str, width: int) -> str:
    """Lines of about so many characters: chains have no spaces, so they are broken behind + and , as well."""
    lines = [""]
    for piece in re.split(r"(?<=[+, ])", text):
        if lines[-1] and len((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(map(str.rstrip, lines))


def image_grid(images: np.ndarray, *, scale: int = 3, gap: int = 4) -> Image.Image:
    """Pictures side by side on white, enlarged without blur.

    Args:
        images: (rows, columns, 3, H, W) in [0, 1].
        scale: pixels of the result for one of an image. gap: between images, in pixels of the result.
    """
    rows, columns, _, height, width = images.shape
    pixels = (images.clip(0, 1) * 255).round().astype(np.uint8).transpose(0, 1, 3, 4, 2)
    tall, wide = height * scale + gap, width * scale + gap
    page = Image.new("RGB", (columns * wide + gap, rows * tall + gap), "white")
    for row, column in np.ndindex(rows, columns):
        tile = Image.fromarray(np.ascontiguousarray(pixels[row, column]))
        tile = tile.resize((width * scale, height * scale), Image.Resampling.NEAREST)
        page.paste(tile, (column * wide + gap, row * tall + gap))
    return page


@_styled
def labelled_grid(
    images: np.ndarray,
    *,
    rows: Sequence[str],
    columns: Sequence[str] = (),
    captions: Sequence[str] = (),
    title: str = "",
    scale: int = 3,
) -> Figure:
    """`image_grid` with words beside it.

    Args:
        images: (rows, columns, 3, H, W) in [0, 1].
        rows: what stands left of each row. columns: above each column; captions: below each. Empty for none.
        title: of the whole.
        scale: as of `image_grid`.
    """
    page = image_grid(images, scale=scale)
    left = 0.09 * max(map(len, rows)) + 0.1
    axes = _page_axes(page, left=left, above=bool(columns), below=bool(captions), title=title)
    count, across = images.shape[:2]
    axes.imshow(np.asarray(page))
    axes.spines[:].set_visible(False)
    axes.set_yticks([(i + 0.5) * page.height / count for i in range(count)], rows)
    centres = [(i + 0.5) * page.width / across for i in range(across)]
    axes.set_xticks(centres if captions else [], captions or [], fontsize=7)
    if columns:
        above = axes.secondary_xaxis("top")
        above.set_xticks(centres, columns, fontsize=8)
        above.spines[:].set_visible(False)
    return axes.figure


def _page_axes(page: Image.Image, *, left: float, above: bool, below: bool, title: str) -> Axes:
    """Axes just as large as a page of 100 pixels to the inch, with room for words, in inches, around it."""
    from matplotlib.figure import Figure

    wide, tall = page.width / 100, page.height / 100
    top, bottom = 0.1 + 0.25 * above + 0.3 * bool(title), 0.1 + 0.3 * below
    width, height = max(left + wide + 0.1, 0.1 * len(title)), top + tall + bottom
    figure = Figure(figsize=(width, height), dpi=150)
    figure.text(0.1 / width, 1 - 0.1 / height, title, va="top", fontsize=11)
    return figure.add_axes((left / width, bottom / height, wide / width, tall / height))


class Bar(NamedTuple):
    """One chain: rates in 0 .. 1, each with an interval or None."""

    chain: str
    mAP: float
    mAP_interval: tuple[float, float] | None
    rank1: float
    rank1_interval: tuple[float, float] | None


@_styled
def chain_bars(models: Mapping[str, Sequence[Bar]], *, note: str = _INTERVALS) -> Figure:
    """mAP and rank-1 of each chain, a row of two panels for each model.

    Args:
        models: label -> bars; the first bar is the baseline, drawn in grey and as a line through the others.
        note: says what the dashes and the black lines are.
    """
    for label, rows in models.items():
        _expect_some(rows, f"bars of {label}")
    heights = [_places([row.chain for row in rows])[-1] + 1 for rows in models.values()]
    figure = _figure(10, 0.6 + 0.36 * sum(heights) + 0.8 * len(models))
    grid = figure.subplots(len(models), 2, squeeze=False, sharey="row", height_ratios=heights)
    for axes, (label, rows) in zip(grid, models.items()):
        _bars(
            axes[0],
            [row.chain for row in rows],
            [row.mAP for row in rows],
            [row.mAP_interval for row in rows],
        )
        _bars(
            axes[1],
            [row.chain for row in rows],
            [row.rank1 for row in rows],
            [row.rank1_interval for row in rows],
        )
        axes[0].invert_yaxis()  # of both, since they share it
        axes[0].set_title(f"{label}\nmAP, %")
        axes[1].set_title("rank-1, %")
    figure.supxlabel(note, fontsize=9, x=0.01, ha="left")
    return figure


def _bars(
    axes: Axes, names: Sequence[str], rates: Sequence[float], intervals: Sequence[tuple[float, float] | None]
) -> None:
    places, values = _places(names), [rate * 100 for rate in rates]
    axes.barh(places, values, height=0.62, color=[_BEFORE] + [_AFTER] * (len(names) - 1))
    axes.axvline(values[0], color=_INK, linewidth=0.8, linestyle=(0, (4, 3)))
    right = max(values)
    for place, value, interval in zip(places, values, intervals):
        low, high = (end * 100 for end in interval) if interval else (value, value)
        axes.plot([low, high], [place, place], color=_INK, linewidth=1.4, solid_capstyle="butt")
        axes.text(max(high, value) + 0.015 * right, place, f"{value:.1f}", va="center", bbox=_PLATE)
    axes.set_xlim(0, right * 1.15)
    axes.set_yticks(places, [_wrapped(name, _NAME) for name in names])
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])


def _places(names: Sequence[str]) -> list[float]:
    """Of bars, one apart; further where a name has several lines."""
    lines = [1 + _wrapped(name, _NAME).count("\n") for name in names]
    gaps = [max(1.0, (above + below) / 3.6) for above, below in zip(lines, lines[1:])]
    return [0.0, *itertools.accumulate(gaps)]


@_styled
def density_histograms(
    before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], *, names: tuple[str, str]
) -> Figure:
    """How far images lie from the centre of their identity (ID2), before and after a chain.

    Args:
        before: set ("query", "gallery") -> squared distances (N,); after: likewise.
        names: of the two chains.
    """
    for name in _expect_some(list(before), "sets of images"):
        _expect_some(before[name], f"densities of the {name}")
    figure = _figure(10, 3.4)
    for axes, name in zip(figure.subplots(1, len(before), squeeze=False)[0], before):
        bins = np.linspace(0, max(before[name].max(), after[name].max()), 50)
        for values, chain, colour in ((before[name], names[0], _BEFORE), (after[name], names[1], _AFTER)):
            label = _wrapped(f"{chain}: mean {values.mean():.3f}", 30)
            axes.hist(values, bins, color=colour, alpha=0.55, label=label)
            axes.axvline(values.mean(), color=colour, linewidth=1.8)
        axes.set_title(f"{name}: {len(before[name])} images")
        axes.set_xlabel("squared distance to the identity's centre")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.legend()
    return figure


@_styled
def embeddings(
    before: np.ndarray,
    after: np.ndarray,
    pids: np.ndarray,
    camids: np.ndarray | None,
    *,
    names: tuple[str, str],
) -> Figure:
    """Features of a few identities in the two directions in which both versions together vary most.

    Args:
        before: features (N, D). after: the same images after a chain, (N, D).
        pids: identity of each, shown by colour. camids: camera of each, shown by marker, if it is known.
        names: of the two chains.
    """
    plane = _principal_plane(_expect_some(np.concatenate([before, after]), "features"))
    cameras = np.zeros(len(pids), dtype=int) if camids is None else camids
    width, height = np.ptp(plane, axis=0)
    figure = _figure(10, 1.3 + 4.8 * max(0.3, min(1.5, height / max(width, 1e-12))))
    panels, points = figure.subplots(1, 2, sharex=True, sharey=True), np.split(plane, 2)
    for axes, name, places in zip(panels, names, points):
        for colour, pid in zip(_colours(len(set(pids))), sorted(set(pids))):
            for camid in sorted(set(cameras[pids == pid])):
                x, y = places[(pids == pid) & (cameras == camid)].T
                axes.scatter(x, y, s=34, color=colour, marker=_marker(camid), alpha=0.85, linewidths=0)
        axes.set_title(_wrapped(name, 55))
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_aspect("equal", "box")
    if camids is not None:
        handles = [
            panels[0].scatter([], [], color=_INK, marker=_marker(c), label=f"camera {c + 1}")
            for c in sorted(set(camids))
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    figure.draw_without_rendering()  # the layout knows what titles take once panels are of equal scale
    return figure


def _principal_plane(features: np.ndarray) -> np.ndarray:
    """Coordinates (N, 2) along the first two principal components, with a sign that is always the same."""
    centred = features - features.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    plane = directions[:2]
    signs = np.sign(plane[range(len(plane)), np.abs(plane).argmax(1)])
    places = centred @ (plane * signs[:, None]).T
    return np.pad(places, ((0, 0), (0, 2 - places.shape[1])))  # where there is one direction only


def _expect_some(values: Any, what: str) -> Any:
    """The values, or a ValueError where there is nothing to draw."""
    if not len(values):
        raise ValueError(f"expected {what} to draw, got none")
    return values


def _colours(count: int) -> list[Any]:
    """Hues around the circle, every other one darker, so that neighbours differ."""
    from matplotlib.colors import hsv_to_rgb

    return [hsv_to_rgb((i / count, 0.85, 0.5 if i % 2 else 0.85)) for i in range(count)]


def _marker(camid: int) -> str:
    return _MARKERS[int(camid) % len(_MARKERS)]


class Hit(NamedTuple):
    """One image of a ranked list; `kind` is "match", "miss" or "distractor", the caption stands below it."""

    path: str
    kind: str
    caption: str


class RankedQuery(NamedTuple):
    """A query image, its caption, and its ranked lists: (name of the chain, hits) each."""

    path: str
    caption: str
    lists: Sequence[tuple[str, Sequence[Hit]]]


@_styled
def ranked_lists(queries: Sequence[RankedQuery], *, title: str) -> Figure:
    """Queries with the galleries that different chains rank for them, a row for each chain.

    Args:
        queries: all with the same number of lists and hits.
        title: stands above.
    """
    rows = [(query, name, hits) for query in queries for name, hits in query.lists]
    columns = 1 + max(len(hits) for _, _, hits in rows)
    figure = _figure(0.92 * columns + 0.6, 2.05 * len(rows) + 0.6)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.05, wspace=0.02, hspace=0.02)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (query, name, hits) in zip(grid, rows):
        _picture(axes[0], query.path, _INK, query.caption)
        axes[0].set_ylabel(_wrapped(name, 26), fontsize=8)
        for cell, hit in zip(axes[1:], hits):
            _picture(cell, hit.path, _BORDERS[hit.kind], hit.caption)
        for cell in axes[1 + len(hits) :]:
            cell.set_axis_off()
    meaning = "Green: the same person. Red: someone else. Grey: distractor. Below: camera and distance."
    heading = "\n".join(_wrapped(sentence, 11 * columns) for sentence in (title, meaning))
    figure.suptitle(heading, x=0.01, ha="left", fontsize=11)
    return figure


def _picture(axes: Axes, path: str | Path, border: str, caption: str) -> None:
    with Image.open(path) as image:
        axes.imshow(image.convert("RGB").resize((96, 192), Image.Resampling.BICUBIC))
    for spine in axes.spines.values():
        spine.set(visible=True, color=border, linewidth=3)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(caption, fontsize=8, labelpad=4)


class Transition(NamedTuple):
    """Times between two cameras: identities by lag, raw and smoothed, and the edges of the bins.

    Attributes:
        title: of the panel.
        edges: (bins + 1,) ascending; negative where people walked the other way.
        counts: (bins,) identities.
        smoothed: (bins,) density by the same bins, of sum 1.
    """

    title: str
    edges: np.ndarray
    counts: np.ndarray
    smoothed: np.ndarray


@_styled
def transition_histograms(transitions: Sequence[Transition], *, unit: str, columns: int = 5) -> Figure:
    """How long people take between cameras, a panel for each pair of them.

    Args:
        transitions: the panels.
        unit: of the edges.
        columns: panels in a row.
    """
    columns = min(columns, len(_expect_some(transitions, "pairs of cameras")))
    rows = -(-len(transitions) // columns)
    figure = _figure(2.6 * columns, 0.7 + 1.75 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, transition in zip(grid, transitions):
        _transition(axes, transition)
    for axes in grid[len(transitions) :]:
        axes.set_visible(False)
    figure.supxlabel(
        f"Time from the first camera to the second, {unit}; each panel shows the middle nine tenths. "
        "Bars: training identities, how many in the titles. Line: smoothed.",
        fontsize=9, x=0.01, ha="left",
    )  # fmt: skip
    return figure


def _transition(axes: Axes, transition: Transition) -> None:
    """Bars about 40 to a panel, over the middle nine tenths; the line is scaled to the same area."""
    share = transition.counts.cumsum() / transition.counts.sum()
    lowest, highest = np.searchsorted(share, (0.05, 0.95))
    margin = max(10, (highest - lowest) // 4)
    first, last = max(0, lowest - margin), min(len(share), highest + margin + 1)
    width = max(1, (last - first) // 40)
    starts = np.arange(first, last, width)
    counts = np.add.reduceat(transition.counts[:last], starts)
    edges = np.append(transition.edges[starts], transition.edges[last])
    axes.stairs(counts, edges, fill=True, color=_BEFORE)
    middle = (transition.edges[first:last] + transition.edges[first + 1 : last + 1]) / 2
    axes.plot(middle, transition.smoothed[first:last] * transition.counts.sum() * width, color=_AFTER)
    axes.axvline(0, color=_INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_title(f"{transition.title} ({transition.counts.sum():.0f})", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.yaxis.get_major_locator().set_params(integer=True, nbins=3)
    axes.xaxis.get_major_locator().set_params(nbins=4)
