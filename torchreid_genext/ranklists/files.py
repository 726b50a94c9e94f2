"""Rank lists as files: JSON and CSV for programs, a page for people."""

from __future__ import annotations

import csv
import io
import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from torchreid_genext import checkpoints
from torchreid_genext.ranklists import page
from torchreid_genext.ranklists.lists import Place, RankLists
from torchreid_genext.ranklists.thumbnails import thumbnails
from torchreid_genext.retrieval.report import Report
from torchreid_genext.retrieval.sets import RetrievalSet

__all__ = ["write"]

_COLUMNS = (
    "query_path", "query_pid", "query_camid", "chain", "AP", "first_match_rank",
    "place", "path", "pid", "camid", "distance", "kind", "rank",
)  # fmt: skip

_log = logging.getLogger(__name__)


def write(lists: RankLists, folder: str | Path) -> tuple[str, ...]:
    """Write ``ranklists-<label>.json``, ``.csv`` and ``.html`` into a folder, each whole or not at all.

    An image that cannot be read has a placeholder in the page; how many is said there and logged.

    Returns:
        The names of the three files, the page last.
    """
    name = "ranklists-" + re.sub(r"[^\w.-]+", "-", lists.label)
    document, folder = _document(lists), Path(folder).expanduser()
    checkpoints.write_json(folder / f"{name}.json", document)
    checkpoints.write_text(folder / f"{name}.csv", _csv(document))
    checkpoints.write_text(folder / f"{name}.html", page.render(document, _pictures(document)))
    return tuple(f"{name}.{kind}" for kind in ("json", "csv", "html"))


def _pictures(document: dict[str, Any]) -> dict[str, str | None]:
    """Image file -> thumbnail, each once however often it is listed."""
    paths = dict.fromkeys(path for query in document["queries"] for path in _paths(query))
    pictures = dict(zip(paths, thumbnails(list(paths))))
    if missing := [path for path, picture in pictures.items() if picture is None]:
        _log.warning("%d images of rank lists cannot be read, the first is %s", len(missing), missing[0])
    return pictures


def _paths(query: dict[str, Any]) -> Iterator[str]:
    yield query["path"]
    for ranked in query["chains"].values():
        yield from (place["path"] for place in ranked["list"])


def _document(lists: RankLists) -> dict[str, Any]:
    """What the JSON file says."""
    first = lists.reports[0]
    return {
        "dataset": lists.dataset,
        "label": lists.label,
        "metric": first.metric,
        "depth": lists.depth,
        "num_query": first.num_query,
        "num_gallery": first.num_gallery,
        "chains": [_chain(lists, report) for report in lists.reports],
        "queries": [_query(lists, number, row) for number, row in enumerate(lists.rows)],
    }


def _chain(lists: RankLists, report: Report) -> dict[str, Any]:
    repaired, broken = lists.changed(report)
    return {
        "name": report.chain,
        "protocol": report.protocol,
        "mAP": report.mAP,
        "rank1": report.rank(1),
        "repaired": repaired,
        "broken": broken,
    }


def _query(lists: RankLists, number: int, row: int) -> dict[str, Any]:
    chains = {
        report.chain: {
            "AP": _finite(report.average_precision[row]),
            "first_match_rank": int(report.first_match_rank[row]) or None,
            "list": [_place(lists.gallery, place) for place in places[number]],
        }
        for report, places in zip(lists.reports, lists.places)
    }
    return {"row": row, **_image(lists.query, row), "chains": chains}


def _place(gallery: RetrievalSet, place: Place) -> dict[str, Any]:
    # The shortest decimal that is this float32, not the float64 that it was widened to.
    distance = _finite(float(str(np.float32(place.distance))))
    found = {"distance": distance, "kind": place.kind, "rank": place.rank or None}
    return _image(gallery, place.index) | found


def _image(images: RetrievalSet, row: int) -> dict[str, Any]:
    camid = None if images.camids is None else int(images.camids[row])
    return {"path": images.paths[row], "pid": int(images.pids[row]), "camid": camid}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _csv(document: dict[str, Any]) -> str:
    """A row for each query, chain and place."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_csv_rows(document))
    return text.getvalue()


def _csv_rows(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for query in document["queries"]:
        asked = {f"query_{key}": query[key] for key in ("path", "pid", "camid")}
        for chain, ranked in query["chains"].items():
            found = {key: ranked[key] for key in ("AP", "first_match_rank")}
            for number, place in enumerate(ranked["list"], 1):
                yield {**asked, "chain": chain, **found, "place": number, **place}
