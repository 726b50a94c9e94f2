"""A benchmark's result as text: for the terminal, as Markdown and page, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from torchreid_genext import checkpoints
from torchreid_genext.benchmark import breakdowns, markdown, page
from torchreid_genext.benchmark.markdown import line
from torchreid_genext.benchmark.naming import short_names
from torchreid_genext.benchmark.results import Difference, Measurement, Result
from torchreid_genext.retrieval.protocol import Report

__all__ = ["table", "write"]

_RANKS = (1, 5, 10)
_WIDTH = 120  # letters of a terminal's line
_LEGEND = """\
mAP, R1, R5, R10 and mINP in per cent. The change of mAP is against the first chain, in points, with the
95 % interval of a paired bootstrap over identities; beside the first chain stands the interval of its mAP.
ID2 is the mean squared distance of normalised features to their identity's centre, of queries / gallery
images of queried identities; smaller is denser. Ties: mAP with all equal distances read against and for the
query; where they differ, mAP itself ranks equal distances by gallery index. Seconds and peak memory are those
of chain and ranking."""


def write(result: Result) -> None:
    """Write ``report.md``, ``.html``, ``.json`` and ``.csv``, each whole or not at all."""
    text = _markdown(result)
    checkpoints.write_text(result.folder / "report.md", text)
    checkpoints.write_text(result.folder / "report.html", page.render(text, result.folder))
    checkpoints.write_json(result.folder / "report.json", result.to_json())
    checkpoints.write_text(result.folder / "report.csv", _csv(result))


def table(result: Result) -> str:
    """The result for a terminal, in lines of at most 120 letters: a block for each backbone.

    Columns that few people read are those of the report's files.
    """
    blocks = [_filled(result.headline())]
    return "\n\n".join([*blocks, *map(_block, result.measurements)])


def _block(measurement: Measurement) -> str:
    """A line for each chain, between what is to be known of the backbone and what long names mean."""
    first = _filled(f"{measurement.backbone.title}: {measurement.extraction()}")
    header = _header(measurement)
    rates = [_without_rare(row, header) for row in (header, *_rows(measurement))]
    room = _WIDTH - sum(2 + max(map(len, column)) for column in [*zip(*rates)][1:])
    chains = [*(report.chain for report in measurement.reports), *measurement.failures]
    names, legend = short_names(chains, room)
    lines = _aligned([(names.get(chain, chain), *cells) for chain, *cells in rates])
    failed = [_filled(f"{names[chain]}  failed: {why}") for chain, why in measurement.failures.items()]
    return "\n".join([first, *lines, *failed, *map(_filled, legend), *map(_filled, _notes(measurement))])


def _filled(text: str) -> str:
    """Folded where it is too long; names of chains and files stay whole."""
    whole = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(text, _WIDTH, subsequent_indent="  ", **whole)


_HEADER = (
    "chain", "mAP", "change", "R1", "R5", "R10", "mINP", "ID2 q / g", "ties of mAP", "s", "MB", "protocol"
)  # fmt: skip


_EXPECTED = "expected mAP / R1"
_RARE = ("ID2 q / g", "ties of mAP", "MB", "protocol")


def _header(measurement: Measurement) -> tuple[str, ...]:
    """With a column of what the card expects, if it does of a chain that was measured."""
    expected = any(measurement.expected(report) for report in measurement.reports)
    return (_HEADER[0], _EXPECTED, *_HEADER[1:]) if expected else _HEADER


def _rows(measurement: Measurement) -> list[tuple[str, ...]]:
    header = _header(measurement)
    expected = [[_said(measurement.expected(report))] for report in measurement.reports]
    if _EXPECTED not in header:
        expected = [[] for _ in measurement.reports]
    intervals = measurement.intervals or [None] * len(measurement.reports)
    rows = [
        _row(report, said, difference, interval, measurement.peak_memory.get(report.chain))
        for report, said, difference, interval in zip(
            measurement.reports, expected, measurement.differences, intervals
        )
    ]
    return rows


def _without_rare(row: Sequence[str], header: Sequence[str]) -> tuple[str, ...]:
    return tuple(cell for cell, name in zip(row, header) if name not in _RARE)


def _failed(measurement: Measurement) -> list[tuple[str, ...]]:
    empty = ("",) * (len(_header(measurement)) - 2)
    return [(chain, *empty, f"failed: {why}") for chain, why in measurement.failures.items()]


def _said(expected: Mapping[str, float]) -> str:
    rates = (f"{expected[name]:.2f}" if name in expected else "-" for name in ("mAP", "rank1"))
    return " / ".join(rates) if expected else ""


def _row(
    report: Report,
    said: Sequence[str],
    difference: Difference | None,
    interval: Difference | None,
    peak: int | None,
) -> tuple[str, ...]:
    rates = [_percent(report.rank(k)) if k <= len(report.cmc) else "" for k in _RANKS]
    low, high = map(_percent, report.map_bounds)
    return (
        report.chain,
        *said,
        _percent(report.mAP),
        _change(difference["mAP"]) if difference else _own(interval),
        *rates,
        _percent(report.mINP),
        f"{report.id2_query:.4f} / {report.id2_gallery:.4f}",
        f"{low} .. {high}" if low != high else "",
        f"{sum(report.seconds.values()):.1f}",
        "" if peak is None else f"{peak / 2**20:.0f}",
        report.protocol,
    )


def _percent(rate: float) -> str:
    return f"{rate * 100:.2f}"


def _change(difference: tuple[float, float, float]) -> str:
    change, low, high = (f"{value * 100:+.2f}" for value in difference)
    return change if low == high else f"{change} [{low}, {high}]"


def _own(interval: Difference | None) -> str:
    return f"[{', '.join(map(_percent, interval['mAP'][1:]))}]" if interval else ""


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, numbers to the right, the first column to the left."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]))
    return lines


def _notes(measurement: Measurement) -> list[str]:
    notes = measurement.notes()
    notes += [str(measurement.precision_effect)] if measurement.precision_effect else []
    notes += _coverage(measurement)
    if measurement.unreadable:
        notes.append(
            f"left out, since they cannot be read: {len(measurement.unreadable)} (listed in the report)"
        )
    return notes


def _coverage(measurement: Measurement) -> list[str]:
    return [f"{split}: {coverage}" for split, coverage in measurement.coverage.items()]


def _markdown(result: Result) -> str:
    parts = [f"# Benchmark on {line(result.dataset)}", line(result.headline()) + ".", _LEGEND]
    for measurement in result.measurements:
        parts += [
            f"## {line(measurement.backbone.title)}",
            measurement.extraction() + ".",
            *(f"{line(note)}." for note in measurement.notes()),
            _markdown_table(measurement),
        ]
        parts += [str(measurement.precision_effect) + "."] if measurement.precision_effect else []
        parts += [f"{each}." for each in _coverage(measurement)]
        parts += [_markdown_faults(measurement.unreadable)] if measurement.unreadable else []
        parts += breakdowns.markdown(measurement)
    parts += ["## Pictures", *(f"![{name}]({name})" for name in result.pictures)] if result.pictures else []
    parts += [_links(result.rank_lists)] if result.rank_lists else []
    parts.append(
        f"Repeat it with `torchreid-genext {result.command} --config-file config.yaml`; the file is beside this "
        "report."
    )
    return "\n\n".join(parts) + "\n"


def _links(names: Sequence[str]) -> str:
    return "\n".join(["## Ranked galleries", "", *(f"- [{name}]({name})" for name in names)])


def _markdown_table(measurement: Measurement) -> str:
    header = _header(measurement)
    return markdown.table(header, [*_rows(measurement), *_failed(measurement)], words=header[-1:])


def _markdown_faults(unreadable: dict[str, str]) -> str:
    lines = [f"- `{line(path)}`: {line(reason)}" for path, reason in unreadable.items()]
    return "\n".join(["Left out, since they cannot be read:", "", *lines])


def _csv(result: Result) -> str:
    """A row for each backbone and chain, rates as fractions."""
    rows = [row for measurement in result.measurements for row in _csv_rows(result, measurement)]
    text = io.StringIO()
    writer = csv.DictWriter(text, max(map(list, rows), key=len), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _csv_rows(result: Result, measurement: Measurement) -> list[dict[str, Any]]:
    rows = [
        _csv_row(result, measurement, report, difference)
        for report, difference in zip(measurement.reports, measurement.differences)
    ]
    known = {"dataset": result.dataset, "label": measurement.backbone.label}
    return rows + [{**known, "chain": chain, "failed": why} for chain, why in measurement.failures.items()]


def _csv_row(
    result: Result, measurement: Measurement, report: Report, difference: Difference | None
) -> dict[str, Any]:
    changes = difference or {"mAP": ("", "", ""), "rank1": ("", "", "")}
    ends = ("change", "change_low", "change_high")
    return {
        "dataset": result.dataset,
        "label": measurement.backbone.label,
        "model": measurement.backbone.name,
        "weights": measurement.backbone.origin,
        "precision": measurement.precision,
        "chain": report.chain,
        "protocol": report.protocol,
        "metric": report.metric,
        "mAP": report.mAP,
        **{f"mAP_{end}": value for end, value in zip(ends, changes["mAP"])},
        **{f"rank{k}": report.rank(k) if k <= len(report.cmc) else "" for k in _RANKS},
        **{f"rank1_{end}": value for end, value in zip(ends, changes["rank1"])},
        "mINP": report.mINP,
        "mAP_pessimistic": report.map_bounds[0],
        "mAP_optimistic": report.map_bounds[1],
        "id2_query": report.id2_query,
        "id2_gallery": report.id2_gallery,
        "seconds": sum(report.seconds.values()),
        "peak_memory_bytes": measurement.peak_memory.get(report.chain, ""),
        "seen": measurement.backbone.saw(result.dataset),
        **{f"expected_{name}": measurement.expected(report).get(name, "") for name in ("mAP", "rank1")},
        "failed": "",
    }
