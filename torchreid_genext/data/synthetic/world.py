"""Time in SynthReID: people walk along a floor plan past six cameras, and every picture has its place and moment.

The plan is a small campus. A walk goes from camera to neighbouring camera at the walker's own speed, so the time between
two cameras is peaked for each pair, and later along one direction than along the other where the way back is longer.
Cameras film at 25 frames a second for five hours, in sequences as Market-1501 has them: frame numbers restart with each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from torchreid_genext.data.filenames import SYNTHREID_SEQUENCES, split_frame
from torchreid_genext.data.synthetic.body import Pose, View
from torchreid_genext.data.synthetic.cameras import CAMERAS
from torchreid_genext.data.synthetic.people import pick
from torchreid_genext.data.synthetic.scenes import OCCLUDERS, Occluder

FRAMES_PER_SECOND = 25
LAST_FRAME = sum(SYNTHREID_SEQUENCES[0])
MODES = ("visible", "ir", "occluded")
INFRARED_CAMERAS = (2, 5)  # in mode "ir": these two have an infrared lamp and no colour

# metres east and north of the gate, and the compass direction each camera looks in (degrees, 0 = east, 90 = north)
_PLACES = ((0, 0), (140, 60), (60, -260), (330, 120), (420, -90), (250, -330))
_LOOKS = (90, 200, 20, 150, 260, 310)
# where one can walk from each camera, and how willingly
_WAYS = (
    {1: 5, 2: 3}, {0: 3, 3: 5, 4: 2}, {0: 2, 5: 5, 1: 1}, {1: 3, 4: 5}, {3: 3, 5: 4, 1: 1}, {2: 4, 4: 4},
)
# seconds people stay about a place: some queue at the shop, some sit down in the park
_STAYS = (4.0, 60.0, 6.0, 40.0, 8.0, 25.0)
_CAMERAS_PER_WALK = {2: 7, 3: 14, 4: 28, 5: 38, 6: 13}


@dataclass(frozen=True)
class Size:
    """How much of the world is filmed.

    Attributes:
        train, test: number of identities in each part.
        images: mean number of pictures of one identity in one camera.
        distractors: gallery pictures that show nobody in particular (pid 0).
        junk: gallery pictures cut so badly that they count neither way (pid -1).
    """

    train: int
    test: int
    images: float
    distractors: int
    junk: int


SIZES = {
    "tiny": Size(12, 12, 1.6, 16, 4),
    "small": Size(150, 150, 3.4, 300, 60),
    "full": Size(751, 750, 3.97, 2798, 3819),
}


@dataclass(frozen=True)
class Shot:
    """One picture to draw: where it goes, and all that decides its pixels."""

    folder: str  # bounding_box_train, bounding_box_test or query
    name: str
    person: tuple[int, ...] | None  # seed of the identity; None shows an empty scene
    pose: Pose
    view: View
    camera: int
    occluder: Occluder | None
    infrared: bool
    seed: tuple[int, ...]


@dataclass(frozen=True)
class _Sighting:
    """One moment of one person before a camera, before it has a file name."""

    pid: int
    camera: int
    frame: int
    pose: Pose
    view: View


def shots(size: str, seed: int, mode: str = "visible") -> list[Shot]:
    """Everything a dataset of this size shows, in the order it is drawn.

    Args:
        size: a name in `SIZES`.
        seed: the world; another seed has other people at other times.
        mode: ``visible``; ``ir`` (two infrared cameras film the queries, the others the gallery); ``occluded``
            (something stands before every query, nothing before the gallery).

    Returns:
        Train, query and gallery shots with unique file names.

    Raises:
        ValueError: if the size or the mode is unknown.
    """
    plan = _known(size, SIZES, "size")
    _known(mode, dict.fromkeys(MODES), "mode")
    rng = np.random.default_rng([1, seed])
    train, test = _split(plan, rng)
    namer = _Namer(seed, mode)
    drawn = [namer.shot("bounding_box_train", s) for pid in train for s in _walks(pid, plan, seed, mode)]
    queries, gallery = _query_and_gallery([s for pid in test for s in _walks(pid, plan, seed, mode)], rng, mode)
    drawn += [namer.shot("query", s) for s in queries] + [namer.shot("bounding_box_test", s) for s in gallery]
    return drawn + list(_clutter(plan, test, rng, namer, mode))


def _known(name: str, choices: dict, what: str) -> object:
    if name not in choices:
        raise ValueError(f"unknown {what} {name!r}; choose from {', '.join(choices)}")
    return choices[name]


def _split(plan: Size, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Which person numbers train and which test, mixed as in Market-1501."""
    pids = 1 + rng.permutation(plan.train + plan.test)
    return sorted(pids[:plan.train].tolist()), sorted(pids[plan.train:].tolist())


# --- walking ---------------------------------------------------------------------------------------------------------

def _walks(pid: int, plan: Size, seed: int, mode: str) -> list[_Sighting]:
    """All sightings of one person: one walk, and for some a second one later in the day."""
    rng = np.random.default_rng([2, seed, pid])
    speed = 1.35 * math.exp(0.13 * rng.standard_normal())
    seen = _walk(pid, rng, plan, speed, _route(rng, mode))
    if rng.random() < 0.12:
        seen += _walk(pid, rng, plan, speed, _route(rng, mode))
    return seen


def _route(rng: np.random.Generator, mode: str) -> list[int]:
    """Cameras in the order they are passed; in mode "ir" at least one of each kind."""
    while True:
        wanted, route = pick(rng, _CAMERAS_PER_WALK), [int(rng.integers(len(CAMERAS)))]
        while len(set(route)) < wanted and len(route) < 12:
            # people seldom turn on their heels
            ways = {n: w * (0.15 if n in route[-2:] else 1.0) for n, w in _WAYS[route[-1]].items()}
            route.append(pick(rng, ways))
        kinds = {camera in INFRARED_CAMERAS for camera in route}
        if len(set(route)) > 1 and (mode != "ir" or len(kinds) == 2):
            return route


def _walk(pid: int, rng: np.random.Generator, plan: Size, speed: float, route: list[int]) -> list[_Sighting]:
    second = rng.uniform(0, LAST_FRAME / FRAMES_PER_SECOND - 3600)
    seen: list[_Sighting] = []
    for step, camera in enumerate(route):
        # one who passes a camera again within a walk is mostly missed there the second time
        if camera not in route[:step] or rng.random() < 0.3:
            seen += _tracklet(pid, rng, plan, camera, second, _heading(route, step))
        if step + 1 < len(route):
            metres = 1.15 * math.dist(_PLACES[camera], _PLACES[route[step + 1]])
            second += metres / speed * math.exp(0.06 * rng.standard_normal()) + rng.gamma(2.0, _STAYS[camera] / 2)
    return seen


def _heading(route: list[int], step: int) -> float:
    """Compass direction of the walker at a camera: from the place before to the place after."""
    start, end = _PLACES[route[max(step - 1, 0)]], _PLACES[route[min(step + 1, len(route) - 1)]]
    return math.degrees(math.atan2(end[1] - start[1], end[0] - start[0]))


def _tracklet(pid: int, rng: np.random.Generator, plan: Size, camera: int, second: float, heading: float) -> list[_Sighting]:
    """A few moments, mostly a second or two apart, of one passage."""
    count = 1 + int(rng.poisson(plan.images - 1))
    # the camera sees one who walks against its direction from the front
    yaw = heading - _LOOKS[camera] + 180 + 22 * rng.standard_normal()
    standing, cadence, phase = rng.random() < 0.2, 0.95 + 0.1 * rng.standard_normal(), rng.random()
    frame, seen = int(second * FRAMES_PER_SECOND), []
    for _ in range(count):
        pose = _pose(rng, standing, phase)
        seen.append(_Sighting(pid, camera, frame, pose, View(yaw=round(yaw, 2))))
        gap = 25 * int(rng.integers(1, 4))
        frame, phase = frame + gap, (phase + cadence * gap / FRAMES_PER_SECOND + 0.1 * rng.standard_normal()) % 1.0
        yaw += (35 if standing else 9) * rng.standard_normal()
    return seen


def _pose(rng: np.random.Generator, standing: bool, phase: float) -> Pose:
    arms = [float(rng.uniform(0.6, 1.0)) if rng.random() < (0.25 if standing else 0.08) else 0.0 for _ in range(2)]
    stride = float(rng.uniform(0.0, 0.12)) if standing else float(rng.uniform(0.75, 1.05))
    return Pose(round(float(phase), 4), round(stride, 3), round(arms[0], 3), round(arms[1], 3),
                lean=round(float(2 + 2 * rng.standard_normal()), 2), head_turn=round(float(14 * rng.standard_normal()), 1))


# --- the test protocol -----------------------------------------------------------------------------------------------

def _query_and_gallery(seen: list[_Sighting], rng: np.random.Generator, mode: str) -> tuple[list[_Sighting], list[_Sighting]]:
    """One query per identity and camera that leaves a match in another camera of the gallery; the rest is gallery."""
    groups: dict[tuple[int, int], list[_Sighting]] = {}
    for sighting in seen:
        groups.setdefault((sighting.pid, sighting.camera), []).append(sighting)
    queries, gallery = [], []
    for (_, camera), sightings in groups.items():
        if mode == "ir":
            (queries if camera in INFRARED_CAMERAS else gallery).extend(sightings)
            continue
        # a single picture of a camera is the query of every second one, else the gallery would lose too many matches
        if len(sightings) > 1 or rng.random() < 0.5:
            queries.append(sightings.pop(int(rng.integers(len(sightings)))))
        gallery += sightings
    if mode == "ir":
        queries = list({(s.pid, s.camera): s for s in queries}.values())
    return _matched(queries, gallery), gallery


def _matched(queries: list[_Sighting], gallery: list[_Sighting]) -> list[_Sighting]:
    cameras: dict[int, set[int]] = {}
    for sighting in gallery:
        cameras.setdefault(sighting.pid, set()).add(sighting.camera)
    return [q for q in queries if cameras.get(q.pid, set()) - {q.camera}]


def _clutter(plan: Size, test: list[int], rng: np.random.Generator, namer: _Namer, mode: str) -> Iterator[Shot]:
    """Distractors (nobody, a fragment, or a stranger who never comes back) and junk (badly cut test people)."""
    cameras = [c for c in range(len(CAMERAS)) if mode != "ir" or c not in INFRARED_CAMERAS]
    for _ in range(plan.distractors):
        yield namer.distractor(_sighting(0, cameras, rng), int(rng.integers(1 << 30)), float(rng.random()))
    for _ in range(plan.junk):
        sighting = _sighting(-1, cameras, rng)
        view = replace(sighting.view, zoom=float(rng.uniform(1.5, 2.2)), shift=tuple(rng.uniform(-0.5, 0.5, 2).tolist()))
        yield namer.shot("bounding_box_test", replace(sighting, view=view), person=int(rng.choice(test)))


def _sighting(pid: int, cameras: list[int], rng: np.random.Generator) -> _Sighting:
    camera, frame = int(rng.choice(cameras)), int(rng.integers(1, LAST_FRAME))
    return _Sighting(pid, camera, frame, _pose(rng, rng.random() < 0.3, rng.random()), View(yaw=float(rng.uniform(0, 360))))


class _Namer:
    """Turns sightings into shots: a unique Market-style name, an occluder by chance, a seed of its own."""

    def __init__(self, seed: int, mode: str) -> None:
        self._seed, self._mode = seed, mode
        self._taken: dict[str, int] = {}

    def shot(self, folder: str, sighting: _Sighting, person: int | None = None) -> Shot:
        name = self._name(sighting)
        seed = (3, self._seed, *name.encode())
        who = sighting.pid if person is None else person
        return Shot(folder, name, (4, self._seed, who), sighting.pose, sighting.view, sighting.camera,
                    self._occluder(folder, np.random.default_rng([5, *seed])), self._infrared(sighting.camera), seed)

    def distractor(self, sighting: _Sighting, stranger: int, kind: float) -> Shot:
        """`kind`: below 0.45 an empty scene, below 0.8 a fragment of somebody, else a whole stranger."""
        shot = self.shot("bounding_box_test", sighting)
        view = shot.view
        if 0.45 <= kind < 0.8:
            view = replace(view, zoom=1.3 + kind, shift=(0.35 * math.sin(stranger), 0.35 * math.cos(stranger)))
        return replace(shot, person=None if kind < 0.45 else (6, self._seed, stranger), view=view)

    def _name(self, sighting: _Sighting) -> str:
        sequence, frame = split_frame(sighting.frame, sighting.camera)
        pid = "-1" if sighting.pid < 0 else f"{sighting.pid:04d}"
        stem = f"{pid}_c{sighting.camera + 1}s{sequence}_{frame:06d}"
        self._taken[stem] = self._taken.get(stem, -1) + 1
        return f"{stem}_{self._taken[stem]:02d}.jpg"

    def _infrared(self, camera: int) -> bool:
        return self._mode == "ir" and camera in INFRARED_CAMERAS

    def _occluder(self, folder: str, rng: np.random.Generator) -> Occluder | None:
        share = {"query": 1.0, "bounding_box_test": 0.0}.get(folder, 0.3) if self._mode == "occluded" else 0.12
        if rng.random() >= share:
            return None
        kind = OCCLUDERS[int(rng.integers(len(OCCLUDERS)))]
        side = -1 if rng.random() < 0.5 else 1
        return Occluder(kind, round(float(side * rng.uniform(0.15, 0.85)), 3), round(float(rng.uniform(0.3, 0.7)), 3),
                        int(rng.integers(1 << 30)))
