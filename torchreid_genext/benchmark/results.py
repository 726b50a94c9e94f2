"""What a benchmark found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchreid_genext.backbones.spec import Backbone
from torchreid_genext.data.store.lookup import Coverage
from torchreid_genext.retrieval.protocol import (
    Comparison,
    Report,
    RetrievalSet,
    Training,
    compare,
)
from torchreid_genext.retrieval.open_set import OpenSet
from torchreid_genext.retrieval.report import Interval

__all__ = ["Difference", "Measurement", "PrecisionEffect", "Result"]

_NAMED = 10  # of the hard and of the easy queries

Difference = dict[str, Interval]  # "mAP", "rank1" -> change, lower and upper end of its interval


@dataclass(frozen=True)
class PrecisionEffect:
    """mAP of the first chain with the features as they are, and with exact ones."""

    precision: str
    mAP: float
    exact_mAP: float

    def __str__(self) -> str:
        change = f"{(self.mAP - self.exact_mAP) * 100:+.2f}"
        return f"{self.precision} changes mAP of the first chain by {change} (fp32: {self.exact_mAP:.2%})"


@dataclass(frozen=True, eq=False)
class Measurement:
    """One backbone under all chains.

    Attributes:
        backbone: model and weights.
        precision: of its features.
        computed: images that were read in this run; all others came from the cache.
        seconds: what extraction took.
        unreadable: image file -> why it was left out.
        coverage: split -> how many of its images had generated ones; empty unless a chain uses them.
        query: features before any chain. gallery: likewise.
        reports: one a chain that could be measured.
        differences: one a report, against that of the first chain; None for that itself, or if there is none.
        intervals: one a report: mAP and rank-1 themselves; empty without resampling.
        failures: chain -> why it could not be measured.
        peak_memory: chain -> bytes above the start, of the chain and its ranking.
        open_sets: chain -> its decisions on pairs and on people who are not in the gallery, where asked for.
        comparisons: chain -> what it made of the sets, of the chains that were kept.
        precision_effect: what the precision changed, if it is known.
        train: the training split, if a chain learns from it.
        metric: distance of features.
        memory_limit: bytes of working memory of the chains; None is the library's default.
        index: how chains search neighbours.
        dataset: its name in torchreid.
        origin: where features come from that were not extracted now, in words.
    """

    backbone: Backbone
    precision: str
    computed: int
    seconds: float
    unreadable: dict[str, str]
    coverage: dict[str, Coverage]
    query: RetrievalSet
    gallery: RetrievalSet
    reports: list[Report]
    differences: list[Difference | None]
    precision_effect: PrecisionEffect | None
    intervals: list[Difference] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    peak_memory: dict[str, int] = field(default_factory=dict)
    open_sets: dict[str, OpenSet] = field(default_factory=dict)
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    train: Training | None = None
    metric: str = "euclidean"
    memory_limit: int | None = None
    index: str = "exact"
    dataset: str = ""
    origin: str = "from the cache"

    def expected(self, report: Report) -> Mapping[str, float]:
        """``mAP`` and ``rank1``, in per cent, that the card says of a chain; empty if it does not."""
        return self.backbone.card.expect(self.dataset, report.chain)

    def notes(self) -> list[str]:
        """What is to be known of the backbone before its figures are believed."""
        card = self.backbone.card
        seen = f"seen: it was trained on {self.dataset}" if self.backbone.saw(self.dataset) else ""
        licence = f"licence {card.licence}" if card.licence else ""
        source = f"source {card.source}" if card.source else ""
        return [note for note in (seen, "; ".join(filter(None, (licence, source)))) if note]

    def after(self, chain: str) -> Comparison:
        """Both sets, and how they are compared, after a chain."""
        return self.comparisons.get(chain) or compare(
            self.query,
            self.gallery,
            chain,
            metric=self.metric,
            memory_limit=self.memory_limit,
            train=self.train,
            index=self.index,
        )

    @property
    def num_gallery(self) -> int:
        """Images that were searched, of which each of several processes holds a part."""
        return self.reports[0].num_gallery if self.reports else len(self.gallery)

    def extraction(self) -> str:
        """How the features came about, in a line."""
        generated = " and those of generated images" if self.coverage else ""
        features = f"{len(self.query) + self.num_gallery} features{generated} in {self.precision}"
        if not self.computed:
            return f"{features} {self.origin}"
        speed = f"{self.computed / self.seconds:.0f} images/s"
        return f"{features}, {self.computed} extracted in {self.seconds:.1f} s ({speed})"

    def to_json(self) -> dict[str, Any]:
        """Plain Python values."""
        return {
            "label": self.backbone.label,
            "model": self.backbone.name,
            "weights": self.backbone.origin,
            "card": self.backbone.card.to_json(),
            "seen": self.backbone.saw(self.dataset),
            "precision": self.precision,
            "extracted": self.computed,
            "extraction_seconds": self.seconds,
            "unreadable": self.unreadable,
            "generated": {split: vars(coverage) for split, coverage in self.coverage.items()},
            "precision_effect": vars(self.precision_effect) if self.precision_effect else None,
            "chains": [self._chain_to_json(place) for place in range(len(self.reports))]
            + [{"chain": chain, "failed": reason} for chain, reason in self.failures.items()],
        }

    def _chain_to_json(self, place: int) -> dict[str, Any]:
        report = self.reports[place]
        return report.to_json() | {
            "peak_memory": self.peak_memory.get(report.chain),
            "interval": self.intervals[place] if self.intervals else None,
            "difference": self.differences[place],
            "expected": dict(self.expected(report)) or None,
            "open_set": found.to_json() if (found := self.open_sets.get(report.chain)) else None,
            "hard_queries": self.named_queries(report, report.hardest(_NAMED)),
            "easy_queries": self.named_queries(report, report.easiest(_NAMED)),
        }

    def named_queries(self, report: Report, rows: Iterable[int]) -> list[dict[str, Any]]:
        """Image, average precision and rank of the first match of some queries; one without a path has its row."""
        images = self.query.paths or [f"row {row}" for row in range(len(self.query))]
        return [
            {
                "image": images[row],
                "average_precision": float(report.average_precision[row]),
                "first_match_rank": int(report.first_match_rank[row]),
            }
            for row in map(int, rows)
        ]


@dataclass(frozen=True, eq=False)
class Result:
    """All backbones on one data set.

    Attributes:
        dataset: its name in torchreid.
        metric: distance. protocol: its name.
        measurements: one a backbone.
        folder: where the report and the pictures are.
        pictures: names of the pictures in it.
        rank_lists: names of the files of ranked galleries in it.
        command: that made it, without the configuration.
    """

    dataset: str
    metric: str
    protocol: str
    measurements: list[Measurement]
    folder: Path
    pictures: tuple[str, ...] = ()
    rank_lists: tuple[str, ...] = ()
    command: str = "benchmark"

    @property
    def failures(self) -> dict[str, str]:
        """Backbone and chain, in words -> why they could not be measured."""
        return {
            f"{measured.backbone.label} after {chain}": why
            for measured in self.measurements
            for chain, why in measured.failures.items()
        }

    def headline(self) -> str:
        """The data in a line."""
        first = self.measurements[0]
        return (
            f"{self.dataset}: {len(first.query)} queries, {first.num_gallery} gallery images, "
            f"{self.metric} distance, {self.protocol} protocol"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain Python values."""
        return {
            "dataset": self.dataset,
            "metric": self.metric,
            "protocol": self.protocol,
            "models": [measurement.to_json() for measurement in self.measurements],
            "pictures": list(self.pictures),
            "rank_lists": list(self.rank_lists),
        }
