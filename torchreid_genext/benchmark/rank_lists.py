"""The ranked galleries of a benchmark's queries, as files for people and programs."""

from __future__ import annotations

from pathlib import Path

from torchreid_genext import checkpoints, ranklists
from torchreid_genext.benchmark.results import Measurement, Result
from torchreid_genext.ranklists.search_page import render_search
from torchreid_genext.retrieval.searching import Found

__all__ = ["write", "write_search"]

_SHOWN = 200  # queries on the page of a search


def write(result: Result, *, queries: int = 200, depth: int = 10) -> tuple[str, ...]:
    """Write rank lists of every backbone under all its chains into the result's folder.

    Args:
        result: what was measured.
        queries: how many at most, the most telling first.
        depth: ranks of each list.

    Returns:
        The names of the files: JSON, CSV and page of each backbone.

    Raises:
        ValueError: if a number is below 1.
    """
    return tuple(
        name
        for measurement in result.measurements
        if measurement.reports
        for name in _write(measurement, result, queries=queries, depth=depth)
    )


def write_search(found: Found, folder: str | Path) -> Path:
    """Write ``search.html``, a page of the first 200 lists, into a folder; of images only."""
    rows = zip(found.queries[:_SHOWN], found.lists)
    lists = [(query, [(hit.name, hit.distance) for hit in hits]) for query, hits in rows]
    page = render_search(
        f"Search after {found.chain}", [query for query, _ in lists], [hits for _, hits in lists]
    )
    return checkpoints.write_text(Path(folder) / "search.html", page)


def _write(measurement: Measurement, result: Result, *, queries: int, depth: int) -> tuple[str, ...]:
    lists = ranklists.collect(
        measurement.query,
        measurement.gallery,
        measurement.reports,
        measurement.after,
        dataset=result.dataset,
        label=measurement.backbone.label,
        queries=queries,
        depth=depth,
    )
    return ranklists.write(lists, result.folder)
