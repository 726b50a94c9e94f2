"""What a file name says: who, which camera, when.

Market-1501 and SynthReID write ``0002_c1s1_000451_03.jpg``, DukeMTMC-reID ``0005_c2_f0046985.jpg`` (read,
never fetched: the dataset was withdrawn). Frame numbers of Market-1501 restart with every sequence of a
camera; the published way to one clock per camera (Wang et al., "Spatial-Temporal Person Re-identification",
AAAI 2019) adds the lengths of the earlier sequences. SynthReID's cameras share one clock of 450,000 frames
(five hours at 25 a second), which every camera cuts into sequences in its own way: there the sum is exact.
MSMT17's names tell the day and whether it was morning, noon or afternoon, nothing finer: its clock counts
these parts of days, 100 "frames" each, which is one bin of ST-ReID's histograms.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
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
    "msmt17": (),
    "synthreid": SYNTHREID_SEQUENCES,
}
_MARKET = re.compile(r"(-1|\d{4})_c(\d+)s(\d+)_(\d{6})_\d{2}")
_DUKE = re.compile(r"(\d{4})_c(\d+)_f(\d{7})")
_MSMT = re.compile(r"(\d{4})_\d{3}_(\d{2})_(\d{2})(\d{2})(morning|noon|afternoon)")
_PATTERNS = {"market1501": _MARKET, "synthreid": _MARKET, "dukemtmcreid": _DUKE, "msmt17": _MSMT}
_EXAMPLES = {
    "market1501": "0002_c1s1_000451_03.jpg",
    "synthreid": "0002_c1s1_000451_03.jpg",
    "dukemtmcreid": "0005_c2_f0046985.jpg",
    "msmt17": "0000_000_01_0303morning_0008_0.jpg",
}
_PARTS_OF_DAY = ("morning", "noon", "afternoon")
_FRAMES_OF_PART = 100
_YEAR = 2017  # MSMT17's; its names leave it out


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
        dataset: ``market1501``, ``dukemtmcreid``, ``msmt17`` or ``synthreid`` (and its variants,
            ``synthreid_...``).

    Returns:
        The record.

    Raises:
        ValueError: if the dataset is unknown or the name does not follow its pattern.
    """
    family = _family(dataset)
    found = _PATTERNS[family].match(os.path.basename(os.fspath(path)))
    if found is None:
        name = os.path.basename(os.fspath(path))
        raise ValueError(f"expected a {dataset} name such as {_EXAMPLES[family]}, got {name!r}")
    if family == "msmt17":
        return _msmt_record(path, *found.groups())
    pid, camera, *rest = (int(part) for part in found.groups())
    sequence, frame = rest if len(rest) == 2 else (0, rest[0])
    return Record(os.fspath(path), pid, camera - 1, sequence, frame)


def _msmt_record(path: str | PathLike[str], pid: str, camera: str, month: str, day: str, part: str) -> Record:
    try:
        days = date(_YEAR, int(month), int(day)).timetuple().tm_yday
    except ValueError as error:
        name = os.path.basename(os.fspath(path))
        raise ValueError(f"expected a msmt17 name with month and day, got {name!r}: {error}") from error
    number = 3 * days + _PARTS_OF_DAY.index(part)
    return Record(os.fspath(path), int(pid), int(camera) - 1, 0, _FRAMES_OF_PART * number)


def has_frames(dataset: str) -> bool:
    """Whether the names of a data set tell the time."""
    return _family_name(dataset) in _SEQUENCES


def global_frames(paths: Iterable[str | PathLike[str]], dataset: str = "market1501") -> list[int]:
    """`global_frame` of each file; raises as `parse`."""
    return [global_frame(parse(path, dataset), dataset) for path in paths]


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
    name = _family_name(dataset)
    if name not in _SEQUENCES:
        raise ValueError(f"unknown dataset {dataset!r}; choose from {', '.join(_SEQUENCES)}")
    return name


def _family_name(dataset: str) -> str:
    return "synthreid" if dataset.startswith("synthreid") else dataset
