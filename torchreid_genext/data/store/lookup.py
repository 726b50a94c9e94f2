"""Generated images of real ones: found on disk, and their features put in order.

Pose2ID's downloads hold a folder for each pose, in which files are named as the real images are::

    <root>/query_gen/pose1/0001_c1s1_001051_00.jpg                    pose1, pose2, ... of the queries
    <root>/bounding_box_test_gen/pose1/0001_c1s1_002301_00.jpg        and of the gallery

Or the root is a store (`torchreid_genext.data.store.image_store`), which knows its images and poses by name.

An image may lack generated ones, as distractors do officially. Its own feature then stands in for each, so
that fusion, by mean or by sum, leaves its direction alone. Where only some poses are there, each missing one
is the mean of those: the mean over all poses is then the mean over those that exist, and sums stay comparable
between images.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from torchreid_genext.data.images.reading import is_image
from torchreid_genext.data.store.image_store import ImageStore, is_store
from torchreid_genext.data.store.references import reference_names

__all__ = [
    "FOLDERS", "Coverage", "GeneratedImages", "check_generated", "collect_features", "find_generated",
    "numbered_folders",
]  # fmt: skip

FOLDERS = {"query": "query_gen", "gallery": "bounding_box_test_gen"}

_POSE = re.compile(r"pose(\d+)")
_LAYOUT = (
    "expected generated images as <root>/{query_gen,bounding_box_test_gen}/pose1/<name of the real image>"
)
_FETCHED = "tools/download_pretrained.py ipg_market1501 fetches Pose2ID's of Market-1501"
_log = logging.getLogger(__name__)

# Image files -> features (n, D) of those that can be read, and their positions in the list, ascending.
Read = Callable[[list[str]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Coverage:
    """How many real images have a generated one in each of the `poses`, in some of them, and in none."""

    poses: int
    complete: int
    partial: int
    without: int

    @classmethod
    def of(cls, present: Tensor) -> Coverage:
        """From whether each image has each pose, (N, P) bool."""
        count, poses = present.sum(1), present.shape[1]
        complete, without = int((count == poses).sum()), int((count == 0).sum())
        return cls(poses, complete, len(present) - complete - without, without)

    def __str__(self) -> str:
        images = self.complete + self.partial + self.without
        some = f", {self.partial} some (the mean of these stands in)" if self.partial else ""
        none = f", {self.without} none (their own feature stands in)" if self.without else ""
        return f"{self.complete} of {images} images have all {self.poses} generated ones{some}{none}"


@dataclass(frozen=True)
class GeneratedImages:
    """Generated images of real ones, wherever they lie.

    Attributes:
        split: ``query`` or ``gallery``.
        paths: for each real image, in order, one entry a pose: its file, or None.
    """

    split: str
    paths: tuple[tuple[str | None, ...], ...]

    @property
    def poses(self) -> int:
        """How many poses an image has at most, P."""
        return len(self.paths[0])

    def of_pose(self, pose: int) -> tuple[list[int], list[str]]:
        """Which real images have this pose (0 .. P - 1), and the files."""
        rows = [row for row, files in enumerate(self.paths) if files[pose] is not None]
        return rows, [self.paths[row][pose] for row in rows]

    def select(self, rows: Iterable[int]) -> GeneratedImages:
        """Those of some of the real images."""
        return GeneratedImages(self.split, tuple(self.paths[row] for row in rows))

    @property
    def coverage(self) -> Coverage:
        """As far as names tell; files that cannot be read are found out later, by `collect_features`."""
        return Coverage.of(torch.tensor([[file is not None for file in files] for files in self.paths]))


def find_generated(root: str | Path, paths: Sequence[str], split: str) -> GeneratedImages:
    """Find the generated images of a split in the layout of Pose2ID's downloads, or in a store.

    Poses of a download are the folders ``pose<number>``, however many, in the order of their numbers. A file
    belongs to the real image of its name; another extension will do (.jpg, .jpeg, .png, .bmp, .webp). In a
    store names are the real images', with their extension, and with folders where they share names.

    Args:
        root: a store, or what holds ``query_gen`` and ``bounding_box_test_gen``; of another split nothing is
            asked.
        paths: the real images of the split, at least one.
        split: ``query`` or ``gallery``.

    Raises:
        ValueError: as `check_generated`; also if real images share a name in a download, there are none, not
            one of them has a generated image, or a store holds different ones of the same pose.
    """
    if not paths:
        raise ValueError(f"expected real images of {split}, got none")
    check_generated(root, split)
    listings = _listings(root, split)
    if not is_store(root):
        _refuse_shared_names(paths, split)
    names = reference_names(paths)
    found = tuple(tuple(_match(listing, name) for listing in listings) for name in names)
    if not any(file for files in found for file in files):
        rule = f"expected generated images of the {split} images, such as {names[0]}"
        raise ValueError(f"{rule}, got none of these in {str(root)!r}")
    return GeneratedImages(split, found)


def check_generated(root: str | Path, split: str) -> None:
    """Refuse a place that holds no generated images of a split; quick, to be asked before long work.

    Raises:
        ValueError: if the split is unknown, a folder is missing, or a store has nothing of the split or is of
            another version.
    """
    if split not in FOLDERS:
        raise ValueError(f"unknown split {split!r}; choose from {', '.join(FOLDERS)}")
    if not is_store(root):
        _pose_folders(root, split)
    elif next(ImageStore(root).entries(split), None) is None:
        raise ValueError(f"expected a store with generated images of {split}, got {str(root)!r} without")


def _listings(root: str | Path, split: str) -> list[dict[str, str]]:
    """One a pose: the file by the name of the real image."""
    if is_store(root):
        return list(ImageStore(root).files(split).values())
    return [_listing(folder) for folder in _pose_folders(root, split)]


def _pose_folders(root: str | Path, split: str) -> list[Path]:
    """Of a download, in order."""
    folder = Path(os.path.expanduser(root), FOLDERS[split])
    for place in (folder.parent, folder):
        if not place.is_dir():
            raise ValueError(f"{_LAYOUT}, got no folder {str(place)!r}; {_FETCHED}")
    numbered = numbered_folders(folder)
    if not numbered:
        raise ValueError(f"{_LAYOUT}, got no folder pose1, pose2, ... in {str(folder)!r}")
    return [*numbered.values()]


def numbered_folders(folder: str | Path) -> dict[int, Path]:
    """The folders ``pose1``, ``pose2``, ... in a folder, by number, in order; none if there is no such."""
    found = ((_POSE.fullmatch(path.name), path) for path in Path(folder).glob("pose*"))
    numbered = {int(match[1]): path for match, path in found if match}
    return {number: numbered[number] for number in sorted(numbered)}


def _refuse_shared_names(paths: Sequence[str], split: str) -> None:
    """Two people's images of one name would get the same generated images."""
    seen: dict[str, str] = {}
    for path in paths:
        if seen.setdefault(Path(path).stem, path) != path:
            first = seen[Path(path).stem]
            raise ValueError(f"expected {split} images of different names, got {first} and {path}")


def _listing(folder: Path) -> dict[str, str]:
    """Files by name and by name without extension; of several extensions the first in the alphabet counts."""
    names = sorted((n for n in os.listdir(folder) if is_image(n)), reverse=True)
    files = {name: str(folder / name) for name in names}
    return {os.path.splitext(name)[0]: file for name, file in files.items()} | files


def _match(listing: dict[str, str], name: str) -> str | None:
    return listing.get(name) or listing.get(os.path.splitext(name)[0])


def collect_features(images: GeneratedImages, features: Tensor, read: Read) -> tuple[Tensor, Coverage]:
    """Features of all generated images, with something in the place of those that are missing.

    Poses are read one after the other: beyond the result, only the features of one are in memory.

    Args:
        images: generated images of N real ones.
        features: of the real images, shape (N, D), as `read` would give them.
        read: extracts features of files; what it leaves out counts as missing.

    Returns:
        Features (N, P, D), float32, not normalised; and how many images had how many generated ones.
    """
    result = features.new_empty(len(features), images.poses, features.shape[1])
    present = torch.zeros(result.shape[:2], dtype=torch.bool)
    for pose in range(images.poses):
        rows, files = images.of_pose(pose)
        found, kept = read(files) if files else (None, [])
        if len(kept):
            rows = torch.tensor(rows)[kept]
            result[rows, pose], present[rows, pose] = found, True
    _stand_in(result, present, features)
    coverage = Coverage.of(present)
    _log.info("%s: %s", images.split, coverage)
    return result, coverage


def _stand_in(result: Tensor, present: Tensor, features: Tensor) -> None:
    """Fill what is missing, in place: with the image's own feature, or the mean of its other poses."""
    without = ~present.any(1)
    result[without] = features[without, None]
    partial = ~without & ~present.all(1)
    for row in partial.nonzero()[:, 0].tolist():
        result[row, ~present[row]] = result[row, present[row]].mean(0)
