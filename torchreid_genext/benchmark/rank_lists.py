"""The ranked galleries of a benchmark's queries, as files for people and programs."""

from __future__ import annotations

from torchreid_genext import ranklists
from torchreid_genext.benchmark.results import Measurement, Result

__all__ = ["write"]


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
