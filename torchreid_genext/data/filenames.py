"""What a file name says: who, which camera, when.

Market-1501 and SynthReID write ``0002_c1s1_000451_03.jpg``, DukeMTMC-reID ``0005_c2_f0046985.jpg`` (read,
never fetched: the dataset was withdrawn). Frame numbers of Market-1501 restart with every sequence of a
camera; the published way to one clock per camera (Wang et al., "Spatial-Temporal Person Re-identification",
AAAI 2019) adds the lengths of the earlier sequences. SynthReID's cameras share one clock of 450,000 frames
(five hours at 25 a second), which every camera cuts into sequences in its own way: there the sum is exact.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike

# frames in sequence 1, 2, ... of camera 1, 2, ...
MARKET_SEQUENCES = (
    (72681, 74546, 74881, 74661, 74891, 54346),
    (163691, 164677, 98102),
    (161708, 161769, 104469),
    (72107, 72373, 74810, 74541, 74910, 50616),
    (161095, 161724, 103487),
    (87551, 131268, 95817, 30952),
)
SYNTHREID_SEQUENCES = (
    (75000,) * 6,
    (150000,) * 3,
    (150000, 150000, 150000),
    (75000,) * 6,
    (160000, 160000, 130000),
    (90000, 130000, 130000, 100000),
)
_SEQUENCES: Mapping[str, Sequence[Sequence[int]]] = {
    "market1501": MARKET_SEQUENCES,
    "dukemtmcreid": (),
    "synthreid": SYNTHREID_SEQUENCES,
}
_MARKET = re.compile(r"(-1|\d{4})_c(\d)s(\d)_(\d{6})_\d{2}")
_DUKE = re.compile(r"(\d{4})_c(\d)_f(\d{7})")


@dataclass(frozen=True)
class Record:
    """One image file.

    Attributes:
        path: as it was given.
        pid: person, -1 for junk, 0 for distractors.
        camid: camera, from 0.
        sequence: recording of that camera, from 1; 0 where the dataset has none.
        frame: number within the sequence.
    """

    path: str
    pid: int
    camid: int
    sequence: int
    frame: int


def parse(path: str | PathLike[str], dataset: str = "market1501") -> Record:
    """Read a file name.

    Args:
        path: file, with or without folders; what follows the pattern (as in ``..._fake_1to2.jpg``) is
            ignored.
        dataset: ``market1501``, ``dukemtmcreid`` or ``synthreid`` (and its variants, ``synthreid_...``).

    Returns:
        The record.

    Raises:
        ValueError: if the dataset is unknown or the name does not follow its pattern.
    """
    family = _family(dataset)
    pattern = _DUKE if family == "dukemtmcreid" else _MARKET
    found = pattern.match(os.path.basename(os.fspath(path)))
    if found is None:
        example = "0005_c2_f0046985.jpg" if family == "dukemtmcreid" else "0002_c1s1_000451_03.jpg"
        raise ValueError(
            f"expected a {dataset} name such as {example}, got {os.path.basename(os.fspath(path))!r}"
        )
    pid, camera, *rest = (int(part) for part in found.groups())
    sequence, frame = rest if len(rest) == 2 else (0, rest[0])
    return Record(os.fspath(path), pid, camera - 1, sequence, frame)


def global_frame(record: Record, dataset: str = "market1501") -> int:
    """Frame number on one clock per camera.

    Args:
        record: what `parse` returned.
        dataset: as in `parse`.

    Returns:
        The frame plus the lengths of the camera's earlier sequences.

    Raises:
        ValueError: if the dataset is unknown, or has no such camera or sequence.
    """
    table = _SEQUENCES[_family(dataset)]
    if not table:
        return record.frame
    if not 0 <= record.camid < len(table):
        raise ValueError(f"expected a camera in 0..{len(table) - 1} of {dataset}, got {record.camid}")
    lengths = table[record.camid]
    if not 1 <= record.sequence <= len(lengths):
        raise ValueError(
            f"expected a sequence in 1..{len(lengths)} of camera {record.camid}, got {record.sequence}"
        )
    return record.frame + sum(lengths[: record.sequence - 1])


def split_frame(frame: int, camid: int) -> tuple[int, int]:
    """The SynthReID sequence and the frame within it (1 .. its length) of a global frame (1 .. 450,000)."""
    rest = frame
    for sequence, length in enumerate(SYNTHREID_SEQUENCES[camid], start=1):
        if 1 <= rest <= length:
            return sequence, rest
        rest -= length
    raise ValueError(f"expected a frame in 1..{sum(SYNTHREID_SEQUENCES[camid])}, got {frame}")


def _family(dataset: str) -> str:
    name = "synthreid" if dataset.startswith("synthreid") else dataset
    if name not in _SEQUENCES:
        raise ValueError(f"unknown dataset {dataset!r}; choose from {', '.join(_SEQUENCES)}")
    return name
