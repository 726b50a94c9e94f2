"""Which pictures a dataset holds: the split of the people, the test protocol, and everything each picture
needs.

The protocol is Market-1501's: identities of training and test are disjoint; every identity has one query
per camera; the gallery holds the rest, pictures that show nobody in particular (pid 0) and badly cut ones
(pid -1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from torchreid_genext.data.filenames import split_frame
from torchreid_genext.data.synthetic.body import Pose, View
from torchreid_genext.data.synthetic.cameras import CAMERAS
from torchreid_genext.data.synthetic.obstacles import OCCLUDERS, Occluder
from torchreid_genext.data.synthetic.walking import Sighting, chance_sighting, walks

MODES = ("visible", "ir", "occluded", "turning")
INFRARED_CAMERAS = frozenset({2, 5})  # in mode "ir" these two have an infrared lamp and no colour
TRAIN, GALLERY, QUERY = "bounding_box_train", "bounding_box_test", "query"

_OCCLUDED = 0.1  # share of pictures with something in front
_OCCLUDED_TRAINING = 0.3  # the same for training in mode "occluded"
Plan = TypeVar("Plan")


@dataclass(frozen=True)
class Size:
    """How much of the world is filmed.

    Attributes:
        train, test: number of identities in each part.
        train_images, test_images: mean number of pictures of one passage before one camera.
        distractors: gallery pictures of nobody in particular.
        junk: gallery pictures cut so badly that they count neither way.
    """

    train: int
    test: int
    train_images: float
    test_images: float
    distractors: int
    junk: int


SIZES = {
    "tiny": Size(12, 12, 1.6, 1.8, 16, 4),
    "small": Size(200, 150, 3.0, 3.1, 250, 60),
    "full": Size(751, 750, 3.43, 4.25, 2798, 3819),
}


@dataclass(frozen=True)
class Shot:
    """One picture to draw: where it goes, and all that decides its pixels."""

    folder: str
    name: str
    person: tuple[int, ...] | None  # seed of the identity; None shows an empty scene
    pose: Pose
    view: View
    camera: int
    occluder: Occluder | None
    infrared: bool
    seed: tuple[int, ...]


def shots(size: str, seed: int, mode: str = "visible") -> list[Shot]:
    """Everything a dataset of this size shows, in the order it is drawn.

    Args:
        size: a name in `SIZES`.
        seed: the world; another seed has other people at other times.
        mode: ``visible``; ``ir`` (two infrared cameras film the queries, the others the gallery);
            ``occluded`` (something stands before every query, nothing before the gallery); ``turning``
            (everyone turns round before each camera, so that it sees all of their sides).

    Returns:
        Train, query and gallery shots with unique file names.

    Raises:
        ValueError: if the size or the mode is unknown.
    """
    plan = _chosen(size, SIZES, "size")
    director = _Director(size, seed, _chosen(mode, {name: name for name in MODES}, "mode"))
    rng = np.random.default_rng([1, seed])
    train, test = _split(plan, rng)
    drawn = [director.shot(TRAIN, s) for pid in train for s in director.sightings(pid, plan.train_images)]
    seen = [s for pid in test for s in director.sightings(pid, plan.test_images)]
    queries, gallery = _infrared_protocol(seen) if mode == "ir" else _market_protocol(seen, rng)
    drawn += [director.shot(QUERY, s) for s in queries] + [director.shot(GALLERY, s) for s in gallery]
    return drawn + list(_clutter(plan, test, rng, director))


def _chosen(name: str, choices: Mapping[str, Plan], what: str) -> Plan:
    if name not in choices:
        raise ValueError(f"unknown {what} {name!r}; choose from {', '.join(choices)}")
    return choices[name]


def _split(plan: Size, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Which person numbers train and which test, mixed as in Market-1501."""
    pids = 1 + rng.permutation(plan.train + plan.test)
    return sorted(pids[: plan.train].tolist()), sorted(pids[plan.train :].tolist())


def _market_protocol(seen: list[Sighting], rng: np.random.Generator) -> tuple[list[Sighting], list[Sighting]]:
    """One query per identity and camera; the rest is gallery."""
    queries, gallery = [], []
    for group in _by_camera(seen):
        # a lone picture is the query every second time, else the gallery would lose too many matches
        if len(group) > 1 or rng.random() < 0.5:
            queries.append(group.pop(int(rng.integers(len(group)))))
        gallery += group
    return _matched(queries, gallery), gallery


def _infrared_protocol(seen: list[Sighting]) -> tuple[list[Sighting], list[Sighting]]:
    """One query per identity and infrared camera; the gallery is what the other cameras saw."""
    gallery = [sighting for sighting in seen if sighting.camera not in INFRARED_CAMERAS]
    queries = [group[0] for group in _by_camera(seen) if group[0].camera in INFRARED_CAMERAS]
    return _matched(queries, gallery), gallery


def _turning(seen: list[Sighting], seed: tuple[int, ...]) -> list[Sighting]:
    """The same moments, from any side."""
    yaws = np.random.default_rng(seed).uniform(0, 360, len(seen)).round(2).tolist()
    return [replace(sighting, view=replace(sighting.view, yaw=yaw)) for sighting, yaw in zip(seen, yaws)]


def _by_camera(seen: list[Sighting]) -> list[list[Sighting]]:
    groups: dict[tuple[int, int], list[Sighting]] = {}
    for sighting in seen:
        groups.setdefault((sighting.pid, sighting.camera), []).append(sighting)
    return list(groups.values())


def _matched(queries: list[Sighting], gallery: list[Sighting]) -> list[Sighting]:
    """The queries whose person another camera has in the gallery."""
    cameras: dict[int, set[int]] = {}
    for sighting in gallery:
        cameras.setdefault(sighting.pid, set()).add(sighting.camera)
    return [query for query in queries if cameras.get(query.pid, set()) - {query.camera}]


def _clutter(plan: Size, test: list[int], rng: np.random.Generator, director: _Director) -> Iterator[Shot]:
    """Distractors (nobody, a fragment, a stranger who never comes back) and junk (badly cut people)."""
    cameras = [c for c in range(len(CAMERAS)) if not director.infrared(c)]
    for _ in range(plan.distractors):
        sighting = chance_sighting(0, cameras, rng)
        yield director.distractor(sighting, int(rng.integers(1 << 30)), float(rng.random()))
    for _ in range(plan.junk):
        sighting = chance_sighting(-1, cameras, rng)
        aside = tuple(rng.uniform(-0.5, 0.5, 2).tolist())
        cut = replace(sighting.view, zoom=float(rng.uniform(1.5, 2.2)), shift=aside)
        yield director.shot(GALLERY, replace(sighting, view=cut), person=int(rng.choice(test)))


class _Director:
    """Turns sightings into shots: who it is, a unique name, an occluder by chance, a seed of its own."""

    def __init__(self, size: str, seed: int, mode: str) -> None:
        self._seed, self._mode = seed, mode
        # other sizes have other people, so that no size leaks into the test of another
        self._cast = (seed, *size.encode())
        self._taken: dict[str, int] = {}

    def sightings(self, pid: int, images: float) -> list[Sighting]:
        everywhere = frozenset(range(len(CAMERAS)))
        kinds = (INFRARED_CAMERAS, everywhere - INFRARED_CAMERAS) if self._mode == "ir" else (everywhere,)
        seen = walks(pid, images, (2, pid, *self._cast), kinds)
        return _turning(seen, (16, pid, *self._cast)) if self._mode == "turning" else seen

    def shot(self, folder: str, sighting: Sighting, person: int | None = None) -> Shot:
        """The picture of a sighting; `person` where it shows another one than its pid says."""
        name, camera = self._name(sighting), sighting.camera
        seed = (3, self._seed, *name.encode())
        who = (4, sighting.pid if person is None else person, *self._cast)
        occluder = self._occluder(folder, np.random.default_rng([5, *seed]))
        return Shot(
            folder, name, who, sighting.pose, sighting.view, camera, occluder, self.infrared(camera), seed
        )

    def distractor(self, sighting: Sighting, stranger: int, kind: float) -> Shot:
        """`kind`: below 0.45 an empty scene, below 0.8 a fragment of somebody, else a whole stranger."""
        shot, view = self.shot(GALLERY, sighting), sighting.view
        if 0.45 <= kind < 0.8:
            view = replace(
                view, zoom=1.3 + kind, shift=(0.35 * math.sin(stranger), 0.35 * math.cos(stranger))
            )
        return replace(shot, person=None if kind < 0.45 else (6, stranger, *self._cast), view=view)

    def infrared(self, camera: int) -> bool:
        return self._mode == "ir" and camera in INFRARED_CAMERAS

    def _name(self, sighting: Sighting) -> str:
        sequence, frame = split_frame(sighting.frame, sighting.camera)
        pid = "-1" if sighting.pid < 0 else f"{sighting.pid:04d}"
        stem = f"{pid}_c{sighting.camera + 1}s{sequence}_{frame:06d}"
        self._taken[stem] = self._taken.get(stem, -1) + 1
        return f"{stem}_{self._taken[stem]:02d}.jpg"

    def _occluder(self, folder: str, rng: np.random.Generator) -> Occluder | None:
        whole = {QUERY: 1.0, GALLERY: 0.0, TRAIN: _OCCLUDED_TRAINING}
        if rng.random() >= (whole[folder] if self._mode == "occluded" else _OCCLUDED):
            return None
        kind, side = OCCLUDERS[int(rng.integers(len(OCCLUDERS)))], (-1, 1)[int(rng.integers(2))]
        place, cover = side * rng.uniform(0.15, 0.85), rng.uniform(0.3, 0.7)
        return Occluder(kind, round(float(place), 3), round(float(cover), 3), int(rng.integers(1 << 30)))
