"""Generated images that join the real ones of a training split: found, chosen, and tried.

They are those of the split ``train`` in a store, or lie in folders beside those of Pose2ID's downloads, named
as the real images are::

    <root>/bounding_box_train_gen/pose1/0002_c1s1_000451_03.jpg       pose1, pose2, ...

torchreid's reader tries a damaged file again for ever. Therefore the chosen pictures are read once, and those
that cannot be read are left out with a warning. That costs what reading them in one epoch costs: about 0.5 ms
for a PNG of 128 x 64 pixels and 1.4 ms for one of 256 x 128, divided among threads.

Pictures in the style of other cameras lie elsewhere and are called otherwise
(`data.store.camstyle_folder`); which file is of which real image is therefore asked of a function.
"""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from torchreid_genext.data.images.reading import fault_of
from torchreid_genext.data.store import ImageStore, is_store
from torchreid_genext.data.store.camstyle_folder import style_camera
from torchreid_genext.data.store.lookup import numbered_folders
from torchreid_genext.data.store.references import reference_names, without_suffix

__all__ = [
    "CAMERAS", "FOLDER", "Augmentation", "Item", "Picture", "choose", "find_additions", "pose_files",
]  # fmt: skip

CAMERAS = ("same", "new", "per_pose", "style")
FOLDER = "bounding_box_train_gen"

_log = logging.getLogger(__name__)

Item = tuple[Any, ...]  # path, person, camera from 0, and in newer torchreids the number of the data set
# Place, name of the data set, and name without extension -> camera of each real image, to files: by pose, in
# order, then by name without extension of the real image.
Find = Callable[[Path, str, Mapping[str, int]], Mapping[str, Mapping[str, str]]]


class Picture(NamedTuple):
    """A generated image: torchreid's item of its real one, the name of its pose, its file."""

    item: Item
    pose: str
    path: str


@dataclass(frozen=True)
class Augmentation:
    """Which generated images join the real ones, and how.

    Attributes:
        root: a store, or what holds the folders of pictures; empty: the default of whoever asks.
        ratio: generated images for each real one, on average; 0: none. There may be fewer.
        camera: theirs: the real image's (``same``), one that no real image has (``new``), one such camera
            for each pose (``per_pose``), or the one in whose style they are (``style``).
        seed: of the choice among them.

    Raises:
        ValueError: if the ratio is negative or not finite, or the camera is unknown.
    """

    root: str = ""
    ratio: float = 1.0
    camera: str = "same"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < math.inf:
            raise ValueError(f"expected a finite ratio of generated images >= 0, got {self.ratio}")
        if self.camera not in CAMERAS:
            choices = ", ".join(CAMERAS)
            raise ValueError(f"unknown camera of generated images {self.camera!r}; choose from {choices}")

    def cameras(self, pictures: Sequence[Picture], free: int) -> list[int]:
        """One for each picture; those that no real image has are counted from `free`, without gaps.

        Raises:
            ValueError: for ``style``, if a pose is not that of a camera.
        """
        if self.camera == "same":
            return [picture.item[2] for picture in pictures]
        if self.camera == "style":
            return [style_camera(picture.pose) for picture in pictures]
        poses = dict.fromkeys(picture.pose for picture in pictures if self.camera == "per_pose")
        numbers = {pose: number for number, pose in enumerate(poses)}
        return [free + numbers.get(picture.pose, 0) for picture in pictures]


def pose_files(place: Path, name: str, cameras: Mapping[str, int]) -> dict[str, dict[str, str]]:
    """Pictures in poses, in a store or below ``bounding_box_train_gen``: a `Find` that no camera matters to.

    Raises:
        ValueError: if there are none, or a store holds different pictures of one image in one pose.
    """
    listings = ImageStore(place).files("train") if is_store(place) else _listings(place)
    if not any(listings.values()):
        rule = f"expected generated training images of {name} in genext.augmented.root, a store or a folder"
        raise ValueError(f"{rule} with {FOLDER}/pose1/<name of the real image>, got none in {str(place)!r}")
    return {
        pose: {without_suffix(real): path for real, path in files.items()} for pose, files in listings.items()
    }


def _listings(place: Path) -> dict[str, dict[str, str]]:
    return {str(number): _listing(folder) for number, folder in numbered_folders(place / FOLDER).items()}


def _listing(folder: Path) -> dict[str, str]:
    return {name: str(folder / name) for name in sorted(os.listdir(folder))}


def find_additions(
    train: Sequence[Item], place: Path, name: str, *, ratio: float, seed: int, find: Find = pose_files
) -> list[Picture]:
    """Choose among the generated images of a training split, and try to read what is chosen.

    Args:
        train: torchreid's items of the real images; only their names count, not their order.
        place: where `find` looks.
        name: of the data set, for messages.
        ratio, seed: as in `Augmentation`.
        find: tells the files of the real images.

    Returns:
        The pictures that can be read; others are reported in the log, and so is what is of no training image.

    Raises:
        ValueError: as `find`; if there are no pictures of these images or none that can be read, or real
            images share a name.
    """
    items = _by_name(train, with_folders=is_store(place))
    files = find(place, name, {real: item[2] for real, item in items.items()})
    _report_strangers(files, items, name)
    poses = [[pose for pose in files if real in files[pose]] for real in items]
    count = _at_most(round(ratio * len(items)), sum(map(len, poses)), len(items))
    chosen = choose([item[1] for item in items.values()], poses, count, seed=seed)
    names, order = list(items), list(files)
    chosen.sort(key=lambda picture: (order.index(picture[1]), picture[0]))
    pictures = [Picture(items[names[row]], pose, files[pose][names[row]]) for row, pose in chosen]
    return _readable(pictures, place, name)


def _by_name(train: Sequence[Item], *, with_folders: bool) -> dict[str, Item]:
    """Items by name without extension; two of one name would get the same pictures.

    A store knows them with as many folders as tell them apart.
    """
    train, items = sorted(train), {}
    paths = [item[0] for item in train]
    names = reference_names(paths) if with_folders else [Path(path).name for path in paths]
    for name, item in zip(names, train):
        first = items.setdefault(without_suffix(name), item)
        if first[0] != item[0]:
            raise ValueError(f"expected training images of different names, got {first[0]} and {item[0]}")
    return items


def _report_strangers(files: Mapping[str, Mapping[str, str]], items: Mapping[str, Item], name: str) -> None:
    """Pictures may be of more people than are trained on, but not of others only."""
    strangers = [path for listing in files.values() for real, path in listing.items() if real not in items]
    if len(strangers) == sum(map(len, files.values())):
        rule = f"expected generated images of the training images of {name}, such as {next(iter(items))}"
        raise ValueError(f"{rule}, got {len(strangers)} of others, such as {strangers[0]}")
    if strangers:
        rule = "left out, since they are of no training image of %s: %d generated images, such as %s"
        _log.warning(rule, name, len(strangers), strangers[0])


def _at_most(count: int, present: int, real: int) -> int:
    if count > present:
        rule = (
            "expected %d generated images of %d real ones for this ratio; all of the %d that are there join"
        )
        _log.warning(rule, count, real, present)
    return min(count, present)


def choose(
    people: Sequence[int], poses: Sequence[Sequence[str]], count: int, *, seed: int
) -> list[tuple[int, str]]:
    """Choose pictures, spread over people as the real images are, over the real images, and over poses.

    No real image gets a second picture before each has one, and a choice is the beginning of a longer one.

    Args:
        people: of each real image.
        poses: of each real image, those in which it was generated; may be none.
        count: pictures, at most as many as there are.
        seed: of the choice.

    Returns:
        Position of the real image, and pose.
    """
    rows = [row for row, have in enumerate(poses) if have]
    order = _order([people[row] for row in rows], np.random.default_rng(seed))
    return list(islice(_picks([rows[place] for place in order], people, poses), count))


def _order(people: Sequence[int], random: np.random.Generator) -> list[int]:
    """Images in an order of which each beginning has the people in their shares.

    A person's n images stand at (0 .. n - 1 + something) / n of the way.
    """
    images: dict[int, list[int]] = {}
    for image, person in enumerate(people):
        images.setdefault(person, []).append(image)
    places = []
    for own in images.values():
        offset = random.random()
        places += [((rank + offset) / len(own), image) for rank, image in enumerate(random.permutation(own))]
    return [int(image) for _, image in sorted(places)]


def _picks(
    rows: Sequence[int], people: Sequence[int], poses: Sequence[Sequence[str]]
) -> Iterator[tuple[int, str]]:
    """Each image in turn gives the pose that its person has had least often, then that all have."""
    taken: Counter[Any] = Counter()
    left = [list(have) for have in poses]
    while rows:
        for row in rows:
            own = {pose: (taken[people[row], pose], taken[pose]) for pose in left[row]}
            pose = min(own, key=own.__getitem__)
            taken.update([(people[row], pose), pose])
            left[row].remove(pose)
            yield row, pose
        rows = [row for row in rows if left[row]]


def _readable(pictures: Sequence[Picture], place: Path, name: str) -> list[Picture]:
    with ThreadPoolExecutor() as threads:  # Pillow lets other threads run while it decodes
        faults = list(threads.map(fault_of, [picture.path for picture in pictures]))
    for picture, fault in zip(pictures, faults):
        if fault:
            _log.warning("left out, since it cannot be read: %s: %s", picture.path, fault)
    kept = [picture for picture, fault in zip(pictures, faults) if not fault]
    if pictures and not kept:
        raise ValueError(f"expected generated images that can be read, got {pictures[0].path}: {faults[0]}")
    poses = len({picture.pose for picture in kept})
    _log.info("%s: %d generated images in %d poses join, from %s", name, len(kept), poses, place)
    return kept
