"""Pages of generated pictures beside their references, to look at; dropped ones are crossed out in red."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from torchreid_genext.data.images.reading import UNREADABLE, open_image
from torchreid_genext.data.store import Entry, ImageStore
from torchreid_genext.data.store.judgements import Mark
from torchreid_genext.data.store.references import reference_names

__all__ = ["contact_sheet", "doubtful_sheet"]

_TILE = (96, 192)  # width, height in pixels
_GAP, _LINE = 8, 14
_FRAME = 3
_INK, _FAINT, _DROPPED = "#22272e", "#d0d5db", "#d73027"
_PAIRS = 6  # of reference and picture in a row


def contact_sheet(
    store: ImageStore, split: str, references: Sequence[str], *, poses: Sequence[str] | None = None
) -> Image.Image:
    """Each reference with its pictures in a row, and what was measured of them below.

    Of several pictures in one pose, such as of two seeds, the first that is kept is shown.

    Args:
        store: is read, dropped pictures included.
        split: ``query``, ``gallery`` or ``train``.
        references: files of real images, one a row.
        poses: one a column; by default all that the split has.

    Raises:
        ValueError: if the split is unknown, or there are no references.
    """
    if not references:
        raise ValueError("expected at least one reference, got none")
    names = reference_names(references)
    found = _by_reference(store, split, {*names})
    poses = store.poses(split, dropped=True) if poses is None else poses
    rows = [
        [_real(path), *(found.get((name, pose), _Cell(caption="missing")) for pose in poses)]
        for path, name in zip(references, names)
    ]
    return _page(rows, heads=["real", *(f"pose {pose}" for pose in poses)])


def doubtful_sheet(
    store: ImageStore, split: str, references: Iterable[str], *, count: int = 24
) -> Image.Image:
    """The pictures that are least like their references, each behind its own: kept ones, then dropped ones.

    Args:
        store: is read; pictures that nobody judged are left out.
        split: ``query``, ``gallery`` or ``train``.
        references: files of real images; pictures of others are left out.
        count: at most so many of each.

    Raises:
        ValueError: if the split is unknown, or there are no such pictures.
    """
    paths = [*map(str, references)]
    known = dict(zip(reference_names(paths), paths))
    judged = [(entry, mark) for entry, mark in _marked(store, split) if mark and entry.reference in known]
    if not judged:
        raise ValueError(f"expected a store with judged pictures of {split}, got {str(store.root)!r} without")
    judged.sort(key=lambda each: each[1].measured.get("similarity", -1.0))
    kept, dropped = ([each for each in judged if each[1].kept == wanted][:count] for wanted in (True, False))
    pairs = [[_real(known[entry.reference]), _drawn(store, entry, mark)] for entry, mark in kept + dropped]
    rows = [sum(pairs[i : i + _PAIRS], []) for i in range(0, len(pairs), _PAIRS)]
    return _page(rows, heads=["real", "generated"] * min(_PAIRS, len(pairs)))


@dataclass(frozen=True)
class _Cell:
    picture: Path | None = None
    caption: str = ""
    dropped: bool = False


def _real(path: str) -> _Cell:
    return _Cell(Path(path), Path(path).stem[:14])


def _drawn(store: ImageStore, entry: Entry, mark: Mark | None) -> _Cell:
    measured = mark.measured.get("similarity") if mark else None
    lines = [] if measured is None else [f"similarity {measured:.2f}"]
    return _Cell(
        store.path(entry), "\n".join([*lines, *(mark.reasons if mark else ())]), bool(mark and mark.reasons)
    )


def _marked(store: ImageStore, split: str) -> Iterable[tuple[Entry, Mark | None]]:
    return ((entry, store.mark_of(entry)) for entry in store.entries(split, dropped=True))


def _by_reference(store: ImageStore, split: str, names: set[str]) -> Mapping[tuple[str, str], _Cell]:
    """A cell by reference and pose."""
    cells: dict[tuple[str, str], _Cell] = {}
    for entry, mark in _marked(store, split):
        place = entry.reference, entry.pose
        if entry.reference in names and (place not in cells or cells[place].dropped):
            cells[place] = _drawn(store, entry, mark)
    return cells


def _page(rows: Sequence[Sequence[_Cell]], heads: Sequence[str]) -> Image.Image:
    """Rows of cells below heads of columns."""
    wide, tall = _TILE[0] + _GAP, _TILE[1] + 3 * _LINE + _GAP
    page = Image.new("RGB", (len(heads) * wide + _GAP, len(rows) * tall + 2 * _LINE), "white")
    draw = ImageDraw.Draw(page)
    for column, head in enumerate(heads):
        draw.text((_GAP + column * wide, _LINE // 2), head, _INK, _font())
    for row, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            _put(page, draw, (_GAP + column * wide, 2 * _LINE + row * tall), cell)
    return page


def _put(page: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], cell: _Cell) -> None:
    (x, y), (width, height) = corner, _TILE
    right, bottom = x + width - 1, y + height - 1
    if (image := _image(cell.picture)) is not None:
        page.paste(image, corner)
    colour = _DROPPED if cell.dropped else _FAINT
    draw.rectangle((x, y, right, bottom), outline=colour, width=_FRAME if cell.dropped else 1)
    if cell.dropped:
        draw.line((x, y, right, bottom), colour, _FRAME)
        draw.line((x, bottom, right, y), colour, _FRAME)
    draw.multiline_text(
        (x, y + height + 2), cell.caption, colour if cell.dropped else _INK, _font(), spacing=2
    )


def _image(path: Path | None) -> Image.Image | None:
    """As large as a tile; None if there is none that can be read."""
    try:
        return None if path is None else open_image(path).resize(_TILE, Image.Resampling.BICUBIC)
    except UNREADABLE:
        return None


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(11)
