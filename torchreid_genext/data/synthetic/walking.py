"""Time in SynthReID: people walk along a floor plan past six cameras.

The plan is a small campus. A walk goes from camera to neighbouring camera at the walker's own speed, with a
stay at each place, so the time between two cameras is peaked for every pair and direction. The cameras film
25 frames a second for five hours, and whoever is still on the way then is seen no more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from torchreid_genext.data.filenames import SYNTHREID_SEQUENCES
from torchreid_genext.data.synthetic.body import Pose, View
from torchreid_genext.data.synthetic.people import pick

FRAMES_PER_SECOND = 25
LAST_FRAME = sum(SYNTHREID_SEQUENCES[0])

# metres east and north of the gate, and where each camera looks (degrees, 0 = east, 90 = north)
_PLACES = ((0, 0), (140, 60), (60, -260), (330, 120), (420, -90), (250, -330))
_LOOKS = (90, 200, 20, 150, 260, 310)
# where one can walk from each camera, and how willingly
_WAYS = ({1: 5, 2: 3}, {0: 3, 3: 5, 4: 2}, {0: 2, 5: 5, 1: 1}, {1: 3, 4: 5}, {3: 3, 5: 4, 1: 1}, {2: 4, 4: 4})
_DETOUR = 1.15  # paths are this much longer than the straight line
# seconds people stay about a place: some queue at the shop, some sit down in the park
_STAYS = (4.0, 60.0, 6.0, 40.0, 8.0, 25.0)
_CAMERAS_PER_WALK = {2: 7, 3: 14, 4: 28, 5: 40, 6: 11}
_SECOND_WALK, _SEEN_AGAIN, _STANDING = 0.12, 0.3, 0.2


@dataclass(frozen=True)
class Sighting:
    """One moment of one person before a camera; `frame` counts from 1 over the whole five hours."""

    pid: int
    camera: int
    frame: int
    pose: Pose
    view: View


def walks(
    pid: int, images: float, seed: tuple[int, ...], kinds: tuple[frozenset[int], ...]
) -> list[Sighting]:
    """All sightings of one person: one walk, and for some a second one at another time of the day.

    Args:
        pid: the person.
        images: mean number of pictures of one passage.
        seed: decides when, where and how they walk.
        kinds: groups of cameras, each of which the walk must touch.

    Returns:
        The sightings in the order of the walk.
    """
    rng = np.random.default_rng(seed)
    speed = 1.35 * math.exp(0.13 * rng.standard_normal())
    seen = _walk(pid, rng, images, speed, _route(rng, kinds))
    if rng.random() < _SECOND_WALK:
        seen += _walk(pid, rng, images, speed, _route(rng, kinds))
    return [sighting for sighting in seen if sighting.frame <= LAST_FRAME]


def chance_sighting(pid: int, cameras: list[int], rng: np.random.Generator) -> Sighting:
    """Anybody, anywhere, at any time."""
    camera, frame = int(rng.choice(cameras)), int(rng.integers(1, LAST_FRAME + 1))
    pose = _pose(rng, rng.random() < _STANDING, rng.random())
    return Sighting(pid, camera, frame, pose, View(yaw=float(rng.uniform(0, 360))))


def _route(rng: np.random.Generator, kinds: tuple[frozenset[int], ...]) -> list[int]:
    """Cameras in the order they are passed: at least two, and one of each kind."""
    while True:
        route = _stroll(rng, pick(rng, _CAMERAS_PER_WALK))
        if len(set(route)) > 1 and all(kind & set(route) for kind in kinds):
            return route


def _stroll(rng: np.random.Generator, wanted: int) -> list[int]:
    route = [int(rng.integers(len(_PLACES)))]
    while len(set(route)) < wanted and len(route) < 12:
        # people seldom turn on their heels
        ways = {camera: w * (0.15 if camera in route[-2:] else 1.0) for camera, w in _WAYS[route[-1]].items()}
        route.append(pick(rng, ways))
    return route


def _walk(
    pid: int, rng: np.random.Generator, images: float, speed: float, route: list[int]
) -> list[Sighting]:
    second = rng.uniform(1, LAST_FRAME / FRAMES_PER_SECOND - 3600)
    seen: list[Sighting] = []
    for step, camera in enumerate(route):
        # one who passes a camera again within a walk is mostly missed there the second time
        if camera not in route[:step] or rng.random() < _SEEN_AGAIN:
            seen += _tracklet(pid, rng, images, camera, second, _heading(route, step))
        if step + 1 < len(route):
            second += _transit(rng, camera, route[step + 1], speed)
    return seen


def _transit(rng: np.random.Generator, start: int, end: int, speed: float) -> float:
    """Seconds from one camera to the next."""
    metres = _DETOUR * math.dist(_PLACES[start], _PLACES[end])
    return metres / speed * math.exp(0.06 * rng.standard_normal()) + rng.gamma(2.0, _STAYS[start] / 2)


def _heading(route: list[int], step: int) -> float:
    """Compass direction of the walker at a camera: from the place before to the place after."""
    start, end = _PLACES[route[max(step - 1, 0)]], _PLACES[route[min(step + 1, len(route) - 1)]]
    return math.degrees(math.atan2(end[1] - start[1], end[0] - start[0]))


def _tracklet(
    pid: int, rng: np.random.Generator, images: float, camera: int, second: float, heading: float
) -> list[Sighting]:
    """A few moments, one to three seconds apart, of one passage."""
    # the camera sees one who walks against its direction from the front
    yaw = heading - _LOOKS[camera] + 180 + 22 * rng.standard_normal()
    standing, cadence, phase = rng.random() < _STANDING, 0.95 + 0.1 * rng.standard_normal(), rng.random()
    frame, seen = int(second * FRAMES_PER_SECOND), []
    for _ in range(1 + int(rng.poisson(images - 1))):
        seen.append(Sighting(pid, camera, frame, _pose(rng, standing, phase), View(yaw=round(yaw, 2))))
        seconds = int(rng.integers(1, 4))
        frame += seconds * FRAMES_PER_SECOND
        phase = (phase + cadence * seconds + 0.1 * rng.standard_normal()) % 1.0
        yaw += (35 if standing else 9) * rng.standard_normal()
    return seen


def _pose(rng: np.random.Generator, standing: bool, phase: float) -> Pose:
    stride = rng.uniform(0.0, 0.12) if standing else rng.uniform(0.75, 1.05)
    left, right = (_lifted(rng, 0.25 if standing else 0.08) for _ in range(2))
    lean, turn = 2 + 2 * rng.standard_normal(), 14 * rng.standard_normal()
    return Pose(*(round(float(x), 3) for x in (phase, stride, left, right, lean, turn)))


def _lifted(rng: np.random.Generator, chance: float) -> float:
    """How far an arm is lifted: mostly not at all."""
    return rng.uniform(0.6, 1.0) if rng.random() < chance else 0.0
