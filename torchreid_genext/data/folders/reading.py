"""Who is on which image of a folder, by which camera and when, and to which split it belongs."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torchreid_genext.data.folders.names import SPLITS, FolderName
from torchreid_genext.data.folders.tables import find_table, read_table
from torchreid_genext.data.images.reading import SUFFIXES, image_files

__all__ = ["Folder", "Sighting", "read_folder"]

logger = logging.getLogger(__name__)

# What a split is called in folders of the published data sets, in lower case.
_CALLED = {
    "train": ("train", "bounding_box_train"),
    "query": ("query", "probe"),
    "gallery": ("gallery", "bounding_box_test"),
}
_JUNK = "-1"  # who is left out of rankings
_LARGEST = 2**63


class Sighting(NamedTuple):
    """An image: its file, who is on it by what name, the camera's name and the time; None where unknown."""

    path: str
    person: str
    camera: str | None = None
    frame: int | None = None


@dataclass(frozen=True)
class Folder:
    """All images of a folder by split, people and cameras numbered.

    People and cameras are numbered over all splits together: by their names, if these are whole numbers, else
    in order of their names from 1 (0 marks distractors in drawings). A person called -1 is junk, as in Market-1501.

    Attributes:
        train: (path, pid, camid) of each image, pids 0, 1, ...; no junk.
        query: the same, with pids that query and gallery share.
        gallery: as `query`.
        has_cameras: whether cameras are known. If not, camids of queries are 0 and those of the gallery 1, so
            that nothing is left out by torchreid's own evaluation, either.
        frames: time of each image by path; empty where not all have one.
    """

    train: list[tuple[str, int, int]]
    query: list[tuple[str, int, int]]
    gallery: list[tuple[str, int, int]]
    has_cameras: bool
    frames: Mapping[str, int] = field(default_factory=dict)


def read_folder(name: FolderName) -> Folder:
    """Read a folder without opening an image.

    Splits are those that the name, a CSV or sub-folders tell. Without any, all images are for training, and
    the first of each person under each camera are queries to all the others.

    Raises:
        ValueError: if there is no such folder or no image, it does not tell who is on an image, some images
            have a camera or a time and others none, or an image is a query and in the gallery, too.
    """
    splits = _splits(name)
    every = [sighting for images in splits.values() for sighting in images]
    if not every:
        raise ValueError(f"expected images ({', '.join(SUFFIXES)}) in {name.root}, got none")
    cameras = _known("camera", every, name.root)
    frames = _known("frame", every, name.root)
    pids, camids = (_numbers(sighting[field] for sighting in every) for field in (1, 2))
    numbered = {
        split: [
            (image.path, pids[image.person], camids[image.camera] if cameras else int(split == "gallery"))
            for image in images
        ]
        for split, images in splits.items()
    }
    if not cameras:
        _check_apart(numbered["query"], numbered["gallery"])
    times = {image.path: image.frame for image in every} if frames else {}
    return Folder(_relabelled(numbered["train"]), numbered["query"], numbered["gallery"], cameras, times)


def _splits(name: FolderName) -> dict[str, list[Sighting]]:
    table = None if name.splits else find_table(name.root)
    if table:
        rows = [(split, Sighting(*values)) for split, *values in read_table(table)]
        named = {split: [image for of, image in rows if of == split] for split in SPLITS}
        return named if any(named.values()) else _drawn([image for _, image in rows], name.root)
    folders = name.splits or _split_folders(name.root)
    if folders:
        return {split: _sightings(folders[split], name) if split in folders else [] for split in SPLITS}
    return _drawn(_sightings(name.root, name), name.root)


def _split_folders(root: Path) -> dict[str, Path]:
    """Sub-folders that are called as splits are."""
    if not root.is_dir():
        raise ValueError(f"expected a folder of images, got {root}, which is none")
    there = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    found = {
        split: [there[called] for called in names if called in there] for split, names in _CALLED.items()
    }
    for split, paths in found.items():
        if len(paths) > 1:
            raise ValueError(f"expected one folder of the {split} split, got {paths[0]} and {paths[1]}")
    if bool(found["query"]) != bool(found["gallery"]):
        lacking = "gallery" if found["query"] else "query"
        raise ValueError(f"expected both query and gallery in {root}, got no {lacking} folder; add it")
    return {split: paths[0] for split, paths in found.items() if paths}


def _sightings(folder: Path, name: FolderName) -> list[Sighting]:
    tell = _by_pattern(name.pattern) if name.pattern else _by_folder
    files = image_files(folder)
    if not files:
        raise ValueError(f"expected images ({', '.join(SUFFIXES)}) in {folder}, got none")
    return [tell(path, Path(path).relative_to(folder)) for path in files]


def _by_folder(path: str, below: Path) -> Sighting:
    if len(below.parts) == 1:
        raise ValueError(
            f"expected a folder for each person, got {path} in none; sort the images into folders, write "
            r"labels.csv (path,pid,camid,frame,split), or give a pattern as (?P<pid>-?\d+)_c(?P<camid>\d+)"
        )
    return Sighting(path, below.parts[0])


def _by_pattern(pattern: str) -> Callable[[str, Path], Sighting]:
    compiled = re.compile(pattern)

    def tell(path: str, below: Path) -> Sighting:
        found = compiled.search(below.as_posix())
        if not found or not found["pid"]:
            raise ValueError(f"expected names that the pattern {pattern} finds, got {path}")
        groups = found.groupdict()
        return Sighting(path, groups["pid"], groups.get("camid"), _frame(groups.get("frame"), path))

    return tell


def _frame(text: str | None, path: str) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) >= _LARGEST:
        raise ValueError(f"expected a frame that is a whole number from 0, got {text!r} of {path}")
    return int(text)


def _drawn(images: Sequence[Sighting], root: Path) -> dict[str, list[Sighting]]:
    """Splits of a folder without any: all trains, and the first image of each person and camera is a query.

    But the last of a person, who else would not be in the gallery.
    """
    seen: set[tuple[str, str | None]] = set()
    query, gallery = [], []
    left = Counter(image.person for image in images)
    found = {_JUNK}  # who is in the gallery
    for image in images:
        left[image.person] -= 1
        fresh = (image.person, image.camera) not in seen and image.person != _JUNK
        if fresh and (left[image.person] or image.person in found):
            query.append(image)
        else:
            gallery.append(image)
            found.add(image.person)
        seen.add((image.person, image.camera))
    _tell_of_no_splits(root)
    return {"train": [*images], "query": query, "gallery": gallery}


@functools.cache  # once, however often it is read
def _tell_of_no_splits(root: Path) -> None:
    logger.warning(
        "%s has no splits: the first image of each person (and camera) is a query, the others are the gallery; "
        "all are for training too, so measure nothing here that has learnt from it",
        root,
    )


def _known(field: str, images: Iterable[Sighting], root: Path) -> bool:
    """Whether all images tell a field; that some do and others do not is refused."""
    lacking = [image.path for image in images if getattr(image, field) is None]
    known = [image.path for image in images if getattr(image, field) is not None]
    if lacking and known:
        raise ValueError(
            f"expected a {field} of all images in {root} or of none, got one of {known[0]} and none of {lacking[0]}"
        )
    return not lacking


def _numbers(names: Iterable[str | None]) -> dict[str | None, int]:
    """Names to numbers: whole numbers as they are, if all are such and differ, else counted."""
    different = sorted({*names} - {None, _JUNK})
    whole = {name: int(name) for name in different if re.fullmatch(r"[0-9]{1,18}", name)}
    if len({*whole.values()}) < len(different):
        whole = {name: number for number, name in enumerate(different, start=1)}
    return {_JUNK: -1, **whole}


def _relabelled(images: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    labels = {pid: label for label, pid in enumerate(sorted({pid for _, pid, _ in images} - {-1}))}
    return [(path, labels[pid], camid) for path, pid, camid in images if pid in labels]


def _check_apart(query: Sequence[tuple[str, int, int]], gallery: Sequence[tuple[str, int, int]]) -> None:
    """Without cameras nothing keeps a query from finding itself."""
    found = {os.path.realpath(path): path for path, _, _ in gallery}
    for path, _, _ in query:
        if os.path.realpath(path) in found:
            raise ValueError(
                f"expected different images in query and gallery, got {path} in both, which would find itself; "
                "take it out of one, or name cameras"
            )
