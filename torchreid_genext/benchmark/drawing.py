"""Which pictures of a benchmark are worth looking at, and their files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor
from torch.nn.functional import normalize

from torchreid_genext import checkpoints, visualization
from torchreid_genext.benchmark.results import Difference, Measurement, Result
from torchreid_genext.ranklists import Place, ranked_lists
from torchreid_genext.retrieval.protocol import (
    Chain,
    Comparison,
    Protocol,
    Report,
    RetrievalSet,
)
from torchreid_genext.retrieval.steps import SpatioTemporal
from torchreid_genext.visualization import Bar, Hit, RankedQuery, Transition

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw"]

_IDENTITIES = 12  # in the embedding
_QUERIES = 4  # in a picture of ranked lists
_DEPTH = 10  # of a ranked list


def draw(result: Result) -> tuple[str, ...]:
    """Write all pictures of a result into its folder, each whole or not at all.

    Returns:
        Their names, in the order in which a reader wants them.
    """
    figures = {"chains": visualization.chain_bars({m.backbone.label: _bars(m) for m in result.measurements})}
    for measurement in result.measurements:
        label = re.sub(r"[^\w.-]+", "-", measurement.backbone.label)
        figures |= {f"{name}-{label}": figure for name, figure in _comparison(measurement)}
    figures |= dict(_transitions(result.measurements[0]))
    return tuple(_save(figure, result.folder / f"{name}.png") for name, figure in figures.items())


def _transitions(measurement: Measurement) -> Iterator[tuple[str, Figure]]:
    """What a step with time has learnt, raw and smoothed, if a chain has one; the last of them is drawn."""
    steps = [step for report in measurement.reports for step in Chain.parse(report.chain).steps]
    timed = [step for step in steps if isinstance(step, SpatioTemporal)]
    if timed and measurement.train is not None:
        panels = [Transition(*panel) for panel in timed[-1].fit(measurement.train).model.transitions()]
        yield "transitions", visualization.transition_histograms(panels, unit="frames")


def _save(figure: Figure, path: Path) -> str:
    return checkpoints.write_bytes(path, visualization.png(figure)).name


def _bars(measurement: Measurement) -> list[Bar]:
    intervals = measurement.intervals or [None] * len(measurement.reports)
    return [_bar(*row) for row in zip(measurement.reports, measurement.differences, intervals)]


def _bar(report: Report, difference: Difference | None, interval: Difference | None) -> Bar:
    """The interval of the change, laid around the value; without a change, that of the value."""
    rank1 = report.rank(1)
    if difference is None:
        own = [interval[name][1:] if interval else None for name in ("mAP", "rank1")]
        return Bar(report.chain, report.mAP, own[0], rank1, own[1])
    around = {
        name: (value - change + low, value - change + high)
        for name, value in (("mAP", report.mAP), ("rank1", rank1))
        for change, low, high in [difference[name]]
    }
    return Bar(report.chain, report.mAP, around["mAP"], rank1, around["rank1"])


def _comparison(measurement: Measurement) -> Iterator[tuple[str, Figure]]:
    """What a chain does to the features, against the first chain."""
    after = _most_telling(measurement.reports)
    if after is None:
        return
    before = measurement.reports[0]
    names = before.chain, after.chain
    versions = [measurement.after(chain) for chain in names]
    yield "density", visualization.density_histograms(_densities(before), _densities(after), names=names)
    yield "embedding", _embedding(versions[0].gallery, versions[1].gallery, names)
    for name, rows in _changed_queries(before, after, measurement.query.pids).items():
        share = f"{len(rows)} out of {before.num_query} queries"
        title = f"{measurement.backbone.label}: {names[1]} has {name} rank-1 of {share}"
        chosen = _ranked_queries(rows[:_QUERIES], dict(zip(names, versions)), before.ranking.protocol)
        yield name, visualization.ranked_lists(chosen, title=title)


def _changed_queries(before: Report, after: Report, pids: Tensor) -> dict[str, list[int]]:
    """Queries whose rank-1 a chain repaired, and those where it broke it; the largest changes first."""
    gain = np.nan_to_num(after.average_precision - before.average_precision)
    right_before, right_after = (report.ranking.rank1 == 1 for report in (before, after))
    changed = {
        "repaired": sorted(np.flatnonzero(~right_before & right_after), key=lambda row: -gain[row]),
        "broken": sorted(np.flatnonzero(right_before & ~right_after), key=lambda row: gain[row]),
    }
    return {name: _new_identities_first(rows, pids) for name, rows in changed.items() if rows}


def _new_identities_first(rows: list[int], pids: Tensor) -> list[int]:
    """The same rows, those of an identity that came before last, so that a few show several people."""
    seen: Counter[int] = Counter()
    repeats = []
    for row in rows:
        repeats.append(seen[int(pids[row])])
        seen[int(pids[row])] += 1
    return [row for _, row in sorted(zip(repeats, rows), key=lambda pair: pair[0])]


def _most_telling(reports: list[Report]) -> Report | None:
    """Plain centralization, else the best chain with centralization, else the best; never the first."""
    others = reports[1:]
    kinds = ([r for r in others if r.chain == "nfc"], [r for r in others if "nfc" in r.chain], others)
    return max(next(filter(None, kinds), []), key=lambda report: report.mAP, default=None)


def _densities(report: Report) -> dict[str, np.ndarray]:
    return {"query": report.density_query, "gallery, of queried identities": report.density_gallery}


def _embedding(before: RetrievalSet, after: RetrievalSet, names: tuple[str, str]) -> Figure:
    """Gallery images of some people; of unit length, so that both versions have one scale."""
    rows = np.isin(before.pids, _well_seen(before))
    features = [normalize(version.features).cpu().numpy()[rows] for version in (before, after)]
    titles = tuple(f"{name}, normalised" for name in names)
    camids = None if before.camids is None else before.camids.numpy()[rows]
    return visualization.embeddings(*features, before.pids.numpy()[rows], camids, names=titles)


def _well_seen(gallery: RetrievalSet) -> list[int]:
    """Identities from all over the set that most cameras, or images, have seen; distractors are none."""
    cameras = range(len(gallery)) if gallery.camids is None else gallery.camids.tolist()
    seen = Counter(pid for pid, _ in set(zip(gallery.pids.tolist(), cameras)) if pid > 0)
    enough = sorted(seen.values(), reverse=True)[: 4 * _IDENTITIES]
    candidates = sorted(pid for pid, cameras in seen.items() if cameras >= min(enough, default=0))
    places = np.linspace(0, len(candidates) - 1, min(_IDENTITIES, len(candidates)))
    return [candidates[int(place)] for place in places]


def _ranked_queries(
    rows: list[int], versions: dict[str, Comparison], protocol: Protocol
) -> list[RankedQuery]:
    queries = next(iter(versions.values())).query
    lists = {name: _hits(version, rows, protocol) for name, version in versions.items()}
    return [
        RankedQuery(
            queries.paths[row],
            f"query{_camera(queries, row, ', ')}",
            [(name, hits[number]) for name, hits in lists.items()],
        )
        for number, row in enumerate(rows)
    ]


def _hits(comparison: Comparison, rows: list[int], protocol: Protocol) -> list[list[Hit]]:
    """The first of the ranked gallery of each row, without junk."""
    lists = ranked_lists(comparison, rows, _DEPTH, protocol)
    return [[_hit(comparison.gallery, place) for place in places if place.rank] for places in lists]


def _camera(images: RetrievalSet, row: int, before: str = "") -> str:
    return "" if images.camids is None else f"{before}camera {int(images.camids[row]) + 1}"


def _hit(gallery: RetrievalSet, place: Place) -> Hit:
    caption = f"{_camera(gallery, place.index)}\n{place.distance:.3g}".strip()
    return Hit(gallery.paths[place.index], place.kind, caption)
