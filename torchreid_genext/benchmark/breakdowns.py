"""What a report says beside its table: decisions, pairs of cameras, and hard and easy queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torchreid_genext.benchmark.markdown import line, table
from torchreid_genext.benchmark.results import Measurement
from torchreid_genext.retrieval.camera_pairs import CameraPairs
from torchreid_genext.retrieval.open_set import (
    FALSE_ALARM_RATES,
    FALSE_POSITIVE_RATES,
    OpenSet,
)
from torchreid_genext.retrieval.protocol import Report

__all__ = ["markdown"]

_SHOWN = 5  # of the hard and of the easy queries
_OPEN_SET = """\
Open set, in per cent. Over all pairs of a query and a gallery image that count: TPR, the share of pairs of
one person that a threshold accepts, at most at a given FPR, the share of pairs of two; EER, the least that
FPR and 1 - TPR can both be held to. With half of the queried identities left out of the gallery, in turn:
DIR, the share of the others whose nearest image is theirs and accepted, at most at a given FAR, the share of
those left out of which any image is accepted. The last column: TPR / FPR here of the threshold that has FPR 1
on people of the training split, of whom the chain learnt nothing; the backbone may have."""


def markdown(measurement: Measurement) -> Iterator[str]:
    """Sections of one backbone: decisions of every chain, cameras and queries of the best one."""
    if measurement.open_sets:
        rows = [_decisions(chain, found) for chain, found in measurement.open_sets.items()]
        yield f"{_OPEN_SET}\n\n{table(_HEADER, rows)}"
    best = max(measurement.reports, key=lambda report: report.mAP, default=None)
    if best is None:
        return
    if best.cameras:
        title = "mAP by camera of the query (rows) and of the match (columns), and how many queries"
        yield f"{title}, of {best.chain}:\n\n{_camera_table(best.cameras)}"
    for kind, rows in (("Hard", best.hardest(_SHOWN)), ("Easy", best.easiest(_SHOWN))):
        yield "\n".join([f"{kind} queries of {best.chain}:", "", *_queries(measurement, best, rows)])


_HEADER = (
    "chain",
    "EER",
    *(f"TPR at FPR {100 * rate:g}" for rate in FALSE_POSITIVE_RATES),
    *(f"DIR at FAR {100 * rate:g}" for rate in FALSE_ALARM_RATES),
    "training's threshold",
)


def _decisions(chain: str, found: OpenSet) -> list[str]:
    rates = [found.eer, *(point.tpr for point in found.verification.values()), *found.identification.values()]
    point = found.given.get(FALSE_POSITIVE_RATES[0])
    transferred = f"{100 * point.tpr:.2f} / {100 * point.fpr:.2f}" if point else ""
    return [chain, *(f"{100 * rate:.2f}" if rate == rate else "" for rate in rates), transferred]


def _camera_table(pairs: CameraPairs) -> str:
    names = [str(camera + 1) for camera in pairs.cameras.tolist()]
    rows = [
        [name, *(f"{100 * rate:.1f} ({count})" if count else "" for rate, count in zip(rates, counts))]
        for name, rates, counts in zip(names, pairs.mAP, pairs.queries)
    ]
    return table(["camera", *names], rows)


def _queries(measurement: Measurement, report: Report, rows: Sequence[int]) -> list[str]:
    return [
        f"- `{line(Path(query['image']).name)}`: {100 * query['average_precision']:.2f}, first match at rank "
        f"{query['first_match_rank']}"
        for query in measurement.named_queries(report, rows)
    ]
