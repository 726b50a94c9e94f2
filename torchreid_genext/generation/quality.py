"""Which generated pictures are good enough: judged one by one, marked in the store, and reported.

A picture is dropped if it cannot be read, is almost of one colour (what a generator makes of numbers that are
not finite), shows another person than its reference does, as far as a re-identification network can tell, or
is not in the pose that was asked for, where something finds joints in pictures. A dropped picture stays in
the store, so that it is not made again; filling with another seed makes another in its place, and leaves all
that were kept. What cannot be read is made again as it was meant.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from torchreid_genext.data.images.reading import UNREADABLE, open_image
from torchreid_genext.data.store import Entry, ImageStore
from torchreid_genext.data.store.judgements import DAMAGED, Mark
from torchreid_genext.data.store.lookup import Read
from torchreid_genext.data.store.references import reference_names

__all__ = ["REASONS", "Gate", "Joints", "QualityReport", "judge", "pose_agreement", "report"]

REASONS = (DAMAGED, "blank", "other person", "other pose")
Joints = Callable[[Image.Image], ArrayLike]

_RANGES = {"similarity": (-1, 1), "deviation": (0, 127.5), "agreement": (0, 1), "radius": (0, math.inf)}
_MANY = 8  # references, without which their mean tells nothing
_CHUNK = 2048  # pictures whose features are in memory at once
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gate:
    """What a picture must reach.

    Attributes:
        similarity: least cosine between its features and its reference's, -1 .. 1; which one separates people
            is a matter of the network, so look at a sheet (`sheets.doubtful_sheet`) before trusting it.
        centred: cosines of what features differ by from the mean of all references, which is what people have
            in common: strangers are about 0 then, whatever the network; needs many references.
        deviation: least standard deviation of its pixels, in the channel where they differ most, 0 .. 127.5.
        agreement: least share of the pose's joints that are found in their places, 0 .. 1.
        radius: how far from its place a joint may be, as a share of the pose's longer side.

    Raises:
        ValueError: if one is out of range.
    """

    similarity: float = 0.2
    centred: bool = True
    deviation: float = 4.0
    agreement: float = 0.5
    radius: float = 0.1

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            if not least <= (value := getattr(self, name)) <= most:
                raise ValueError(f"expected {name} in {least:g} .. {most:g}, got {value}")


@dataclass(frozen=True)
class QualityReport:
    """What was said of the pictures of a split.

    Attributes:
        split: ``query``, ``gallery`` or ``train``.
        kept, dropped, unjudged: pictures.
        reasons: of the dropped ones; a picture may have several.
        measured: by name, such as ``similarity``, the values of all judged pictures, ascending.
    """

    split: str
    kept: int
    dropped: int
    unjudged: int
    reasons: dict[str, int]
    measured: dict[str, np.ndarray]

    def summary(self) -> str:
        """A few lines of text."""
        judged = self.kept + self.dropped
        share = f" ({self.dropped / judged:.1%})" if judged else ""
        unjudged = f", {self.unjudged} not judged" if self.unjudged else ""
        lines = [f"{self.split}: {self.kept} pictures kept, {self.dropped} dropped{share}{unjudged}"]
        lines += [f"  dropped as {reason}: {count}" for reason, count in self.reasons.items()]
        return "\n".join([*lines, *(_quantiles(name, values) for name, values in self.measured.items())])


def _quantiles(name: str, values: np.ndarray) -> str:
    least, low, half, high, most = np.quantile(values, (0, 0.05, 0.5, 0.95, 1))
    return f"  {name}: {least:.3g} .. {most:.3g}, nine tenths in {low:.3g} .. {high:.3g}, median {half:.3g}"


def judge(
    store: ImageStore,
    split: str,
    references: Iterable[str],
    features: Read,
    *,
    gate: Gate = Gate(),
    joints: Joints | None = None,
    targets: Mapping[str, ArrayLike] | None = None,
    progress: bool = True,
) -> QualityReport:
    """Mark all pictures of a split as kept or dropped, in place of earlier marks.

    Pictures whose reference is not given, or cannot be read, are not judged. Features of all references are
    in memory, those of pictures are not.

    Args:
        store: gets the marks.
        split: ``query``, ``gallery`` or ``train``.
        references: files of real images.
        features: of image files, as `extraction.reader` makes it.
        gate: what they must reach.
        joints: finds the joints of a person in a picture: (18, 2) of (y, x) pixels, -1 missing.
        targets: the poses that were asked for, by name, in pixels of the pictures; needed with `joints`.
        progress: show a progress bar on a terminal.

    Raises:
        ValueError: if the split is unknown, of `joints` and `targets` only one is given, or there are too few
            references that can be read for their mean.
        OSError: if a mark cannot be written.
    """
    if (joints is None) != (targets is None):
        raise ValueError("expected both joints and targets or neither, got one of them")
    entries = store.entries(split, dropped=True)
    check = None if joints is None else _PoseCheck(joints, targets, gate.radius)
    mark = _Judge(store, _References(references, features, gate.centred), features, gate, check)
    with tqdm(unit="img", desc=f"quality of {split}", disable=None if progress else True) as bar:
        while chunk := [*itertools.islice(entries, _CHUNK)]:
            mark(chunk)
            bar.update(len(chunk))
    found = report(store, split)
    _log.info("%s", found.summary())
    return found


def report(store: ImageStore, split: str) -> QualityReport:
    """What `judge` found, from the marks.

    Raises:
        ValueError: if the split is unknown.
    """
    counts, reasons = Counter(), Counter()
    measured: dict[str, list[float]] = {}
    for entry in store.entries(split, dropped=True):
        mark = store.mark_of(entry)
        counts["unjudged" if mark is None else "kept" if mark.kept else "dropped"] += 1
        for name, value in mark.measured.items() if mark else ():
            measured.setdefault(name, []).append(value)
        reasons.update(mark.reasons if mark else ())
    values = {name: np.sort(of_all) for name, of_all in measured.items()}
    kept, dropped, unjudged = (counts[name] for name in ("kept", "dropped", "unjudged"))
    return QualityReport(split, kept, dropped, unjudged, dict(reasons.most_common()), values)


def pose_agreement(found: ArrayLike, target: ArrayLike, *, radius: float = 0.1) -> float:
    """The share of a pose's joints that are found in their places (PCK).

    Args:
        found: (18, 2) of (y, x) pixels, -1 in either coordinate for a joint that is missing.
        target: likewise, the pose that was asked for; its missing joints do not count.
        radius: how far from its place a joint may be, as a share of the longer side of the target's joints.

    Returns:
        0 .. 1; NaN if the target has no joints.
    """
    found, target = np.asarray(found, float), np.asarray(target, float)
    wanted = (target != -1).all(-1)
    if not wanted.any():
        return math.nan
    reach = radius * np.ptp(target[wanted], axis=0).max()
    distances = np.linalg.norm(found - target, axis=-1)
    right = wanted & (found != -1).all(-1) & (distances <= reach)
    return float(right.sum() / wanted.sum())


@dataclass(frozen=True)
class _PoseCheck:
    joints: Joints
    targets: Mapping[str, ArrayLike]
    radius: float

    def __call__(self, image: Image.Image, pose: str) -> float:
        """Agreement; NaN where no such pose, or none with joints, is known."""
        if pose not in self.targets:
            return math.nan
        return pose_agreement(self.joints(image), self.targets[pose], radius=self.radius)


class _References:
    """Features of real images by file name, of those that can be read."""

    def __init__(self, paths: Iterable[str], features: Read, centred: bool) -> None:
        paths = [*map(str, paths)]
        rows, kept = features(paths)
        if centred and len(rows) < _MANY:
            raise ValueError(f"expected at least {_MANY} references for a mean of them, got {len(rows)}")
        self._mean = rows.float().mean(0) if centred else 0.0
        self._rows = functional.normalize(rows.float() - self._mean, dim=-1)
        names = reference_names(paths)
        self._row_of = {names[position]: row for row, position in enumerate(kept.tolist())}

    def __contains__(self, name: str) -> bool:
        return name in self._row_of

    def similarity(self, names: Sequence[str], features: Tensor) -> list[float]:
        """Cosines between features (n, D) and those of as many references."""
        rows = self._rows[torch.tensor([self._row_of[name] for name in names]).long()]
        return (rows * functional.normalize(features.float() - self._mean, dim=-1)).sum(-1).tolist()


@dataclass(frozen=True)
class _Judge:
    store: ImageStore
    references: _References
    features: Read
    gate: Gate
    check: _PoseCheck | None

    def __call__(self, entries: list[Entry]) -> None:
        """Mark those whose reference is known."""
        entries = [entry for entry in entries if entry.reference in self.references]
        if entries:
            similar = self._similarities(entries)
            for position, entry in enumerate(entries):
                self.store.mark(entry, self._mark(entry, similar.get(position)))

    def _similarities(self, entries: list[Entry]) -> dict[int, float]:
        """By position; those that cannot be read are missing."""
        rows, kept = self.features([str(self.store.path(entry)) for entry in entries])
        positions = kept.tolist()
        names = [entries[position].reference for position in positions]
        return dict(zip(positions, self.references.similarity(names, rows))) if names else {}

    def _mark(self, entry: Entry, similarity: float | None) -> Mark:
        image = _readable(self.store.path(entry))
        if image is None or similarity is None:
            return Mark((DAMAGED,), {}, asdict(self.gate))
        agreement = self.check(image, entry.pose) if self.check else math.nan
        measured = {"similarity": similarity, "deviation": _deviation(image), "agreement": agreement}
        finite = {name: value for name, value in measured.items() if math.isfinite(value)}
        return Mark(tuple(_reasons(finite, self.gate)), finite, asdict(self.gate))


def _readable(path: Path) -> Image.Image | None:
    try:
        return open_image(path)
    except UNREADABLE:
        return None


def _deviation(image: Image.Image) -> float:
    """Of the pixels of the channel in which they differ most, 0 .. 127.5."""
    return float(np.asarray(image).std(axis=(0, 1)).max())


def _reasons(measured: Mapping[str, float], gate: Gate) -> Iterator[str]:
    if measured["deviation"] < gate.deviation:
        yield "blank"
    if not measured.get("similarity", -math.inf) >= gate.similarity:  # a network may fail on what is blank
        yield "other person"
    if measured.get("agreement", math.inf) < gate.agreement:
        yield "other pose"
