"""Heads: the face where it looks towards the camera, hair, hats and glasses."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torchreid_genext.data.synthetic.body import Point
from torchreid_genext.data.synthetic.canvas import Canvas, Tube
from torchreid_genext.data.synthetic.cloth import ALL_ROUND, INK, upright, wrap
from torchreid_genext.data.synthetic.people import Material

if TYPE_CHECKING:
    from torchreid_genext.data.synthetic.figure import Person

_LIPS = Material((150, 82, 76), 0.5)
# how far down the forehead, from which angle backwards, how far down the neck (crown 0, chin 1)
_CUTS = {
    "short": (0.26, 1.45, 0.72),
    "bob": (0.33, 1.0, 0.97),
    "long": (0.3, 1.1, 1.0),
    "ponytail": (0.25, 1.35, 0.72),
    "bun": (0.24, 1.35, 0.7),
}


def draw_head(person: Person, part: int) -> None:
    """Face, short hair and hat; the face is only there where it looks towards the camera."""
    head, canvas, tube = person.identity.head, person.canvas, person.head_tube()
    middle = person.view(*person.bones.head)
    left, right = (tube.spot(tube.front(0.5) + s * math.pi / 2, 0.5)[0] for s in (-1, 1))
    tall = (tube.spot(0, 1.0)[1] - tube.spot(0, 0.0)[1]) / 2
    canvas.disc(part, middle[:2], (right - left) / 2, tall, person.identity.skin)
    if head.hair not in ("bob", "long"):
        _ears(person, part)
    _face(canvas, tube, head.glasses)
    if head.hair != "bald":
        _hair(canvas, tube, head.hair, head.hair_material)
    if head.hat != "none":
        _hat(person, part)


def draw_long_hair(person: Person, part: int) -> None:
    """Hair that hangs down the back, a tail, or a bun."""
    {"long": _curtain, "ponytail": _ponytail, "bun": _bun}[person.identity.head.hair](person, part)


def _behind(person: Person, across: float, up: float, back: float) -> Point:
    """A point behind the middle of the head, by shares of the person's height, turned with it."""
    x, y, z = person.bones.head
    turn, tall = person.bones.head_turn, person.height
    return x - across * tall * math.sin(turn), y + up * tall, z - back * tall * math.cos(turn)


def _bun(person: Person, part: int) -> None:
    radius = 0.022 * person.height * person.pixels
    centre = person.view(*_behind(person, 0.03, 0.055, 0.03))
    person.canvas.disc(part, centre[:2], radius, radius, person.identity.head.hair_material)


def _ponytail(person: Person, part: int) -> None:
    tall, root = person.height, _behind(person, 0.042, 0.015, 0.045)
    tip = (root[0], root[1] - 0.1 * tall, root[2] - 0.03)
    person.limb(part, (root, tip), (0.016 * tall, 0.008 * tall), person.identity.head.hair_material)


def _curtain(person: Person, part: int) -> None:
    rows = (
        (0.0, 0.03, 0.046, 0.04),
        (0.4, -0.05, 0.052, 0.034),
        (0.8, -0.13, 0.06, 0.024),
        (1.0, -0.17, 0.05, 0.02),
    )
    tube = upright(person.view, _behind(person, 0.042, 0.0, 0.045), rows, person.height)
    wrap(person.canvas, tube, part, person.identity.head.hair_material)


def _ears(person: Person, part: int) -> None:
    across, up = 0.009 * person.pixels, 0.017 * person.pixels
    for ear in person.bones.joints[16:]:
        if person.view.near(ear[0], 0.0, ear[2] - person.bones.head[2]) > -0.03:
            person.canvas.disc(part, person.view(*ear)[:2], across, up, person.identity.skin)


def _face(canvas: Canvas, tube: Tube, glasses: bool) -> None:
    for angle in (-0.5, 0.5):
        canvas.mark(tube.patch(angle - 0.16, angle + 0.16, 0.45, 0.5), INK)
        canvas.mark(tube.patch(angle - 0.22, angle + 0.22, 0.39, 0.41), INK)
    canvas.mark(tube.patch(-0.26, 0.26, 0.73, 0.76), _LIPS)
    if glasses:
        canvas.mark(tube.patch(-0.75, -0.1, 0.43, 0.53), INK)
        canvas.mark(tube.patch(0.1, 0.75, 0.43, 0.53), INK)
        for angle in (-1.1, 1.1):
            canvas.mark(tube.patch(angle - 0.5, angle + 0.5, 0.45, 0.475), INK)


def _hair(canvas: Canvas, tube: Tube, style: str, material: Material) -> None:
    fringe, edge, nape = _CUTS[style]
    for low, high, start, end in (
        (-ALL_ROUND, ALL_ROUND, 0.0, fringe),
        (edge, math.pi, 0.1, nape),
        (math.pi, ALL_ROUND - edge, 0.1, nape),
        (edge - 0.35, edge, 0.1, 0.45),
        (-edge, 0.35 - edge, 0.1, 0.45),
    ):
        canvas.mark(tube.patch(low, high, start, end), material)


def _hat(person: Person, part: int) -> None:
    head, canvas = person.identity.head, person.canvas
    tube = person.head_tube(1.12)
    low = 0.34 if head.hat == "cap" else 0.4
    canvas.shape(part, tube.outline(0.0, low), head.hat_material)
    canvas.shine(tube.lit(canvas.light, 0.7, 0.03, low), 0.7)
    if head.hat == "cap":
        wide = person.head_tube(1.85)
        angles = [-0.9 + 0.3 * i for i in range(7)]
        brim = [tube.spot(a, low) for a in angles] + [_level(wide, a, tube, low) for a in reversed(angles)]
        canvas.shape(part, brim, head.hat_material)


def _level(wide: Tube, angle: float, tube: Tube, place: float) -> tuple[float, float]:
    """A point further out at the same height, a little lower at the tip."""
    return wide.spot(angle, place)[0], tube.spot(angle, place + 0.04)[1]
