"""What the tabs have in common: events with data, faults as sentences, choosing somebody."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from torchreid_genext.data.images.reading import open_image
from torchreid_genext.explore import page
from torchreid_genext.explore.identity import Coder
from torchreid_genext.explore.poses import Poser
from torchreid_genext.explore.search import Searcher
from torchreid_genext.explore.uploads import read_upload

if TYPE_CHECKING:
    from yacs.config import CfgNode

__all__ = [
    "FAULTS", "HEAVY", "SHOWN", "Chosen", "Explorer", "chosen_by", "listening", "others", "people", "told",
    "upload",
]  # fmt: skip

SHOWN = 40  # people to choose from at a time
HEAVY = {  # one at a time; of several that wait for it the last
    "concurrency_id": "heavy",
    "concurrency_limit": 1,
    "trigger_mode": "always_last",
    "api_visibility": "private",
}
FAULTS = (ValueError, OSError, ImportError, MemoryError)
_DROP = (
    '<label class="gx-drop">'
    '<input type="file" accept=".jpg,.jpeg,.png,.bmp,.webp" aria-label="picture of your own">'
    'or drop a crop of your own here<span class="gx-said" role="status"></span></label>'
)


@dataclass(frozen=True, eq=False)
class Explorer:
    """What the page computes with.

    Attributes:
        cfg: the whole configuration.
        searcher: of query and gallery.
        poser: draws people of the queries in poses.
        coder: finds codes; a function, since it needs the queries.
        title: what is explored.
    """

    cfg: CfgNode
    searcher: Searcher
    poser: Poser
    coder: Callable[[], Coder]
    title: str = ""


@dataclass(frozen=True)
class Chosen:
    """Somebody: a query by row, with its file, or an upload.

    Attributes:
        image: the picture.
        row: of the query set; -1 for an upload.
        path: of the query; empty for an upload.
    """

    image: Image.Image
    row: int = -1
    path: str = ""


def told(work: Callable[..., str]) -> Callable[..., str]:
    """The same that tells of faults that somebody can mend in a sentence, in place of a result."""

    @functools.wraps(work)
    def safely(*values: Any) -> str:
        try:
            return work(*values)
        except FAULTS as error:
            return page.notice(str(error), "error")

    return safely


def listening(gr: Any, work: Callable[..., Any]) -> Callable[..., Any]:
    """A listener that gets an event's data, a dictionary, first."""

    def listener(event: Any, *values: Any) -> Any:
        return work(event._data if isinstance(event._data, dict) else {}, *values)

    listener.__annotations__ = {"event": gr.EventData}
    return listener


def chosen_by(explorer: Explorer, event: dict[str, Any]) -> Chosen:
    """Who was picked or sent; raises ValueError as `read_upload`, or if there is no such query."""
    if "row" not in event:
        return Chosen(read_upload(event.get("uri")))
    row, paths = event["row"], explorer.searcher.sets.query.paths
    if type(row) is not int or not 0 <= row < len(paths):
        raise ValueError(f"expected a query in 0..{len(paths) - 1}, got {row!r}")
    return Chosen(open_image(paths[row]), row, paths[row])


def people(gr: Any, label: str) -> Any:
    """A component of pictures to choose from, whose event is ``picked``."""
    waiting = "Looking for people and their features. The first time takes a minute or two, later seconds."
    gr.HTML(f'<h2 class="gx-label">{label}</h2>')
    return gr.HTML(page.notice(waiting), js_on_load=page.asset("picker.js"))


def upload(gr: Any) -> Any:
    """A field for a picture of one's own, whose event is ``sent``."""
    return gr.HTML(html_template=_DROP, js_on_load=page.asset("upload.js"))


def others(explorer: Explorer, seed: int) -> list[int]:
    """Other queries to choose from, by row."""
    count = len(explorer.searcher.sets.query)
    rows = np.random.default_rng(seed).choice(count, min(SHOWN, count), replace=False)
    return sorted(rows.tolist())
