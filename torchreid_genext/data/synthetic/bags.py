"""Bags: backpack, messenger bag and handbag, and the straps they lay over the trunk."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torchreid_genext.data.synthetic.body import Point
from torchreid_genext.data.synthetic.cloth import ALL_ROUND, INK, LINEN, mix, upright, wrap

if TYPE_CHECKING:
    from torchreid_genext.data.synthetic.figure import Person


def bag_centre(person: Person) -> Point:
    """Where the carried bag is, in body coordinates."""
    bag, bones, tall = person.identity.bag, person.bones, person.height
    if bag.kind == "backpack":
        return 0.0, bones.chest[1] - 0.12 * tall, bones.chest[2] - (0.075 + 0.03 * bag.size) * tall
    return bag.side * 0.115 * tall, bones.pelvis[1] - 0.02 * tall, -0.02 * tall


def draw_backpack(person: Person, part: int) -> None:
    """The pack on the back; its straps belong to the trunk."""
    bag, tall = person.identity.bag, person.height
    centre, size = bag_centre(person), tall * bag.size
    rows = (
        (0.0, 0.125, 0.045, 0.02),
        (0.12, 0.105, 0.075, 0.038),
        (0.5, 0.0, 0.086, 0.048),
        (0.9, -0.1, 0.082, 0.048),
        (1.0, -0.12, 0.066, 0.036),
    )
    tube = upright(person.view, centre, rows, size)
    wrap(person.canvas, tube, part, bag.material)
    trim = mix(bag.material, LINEN, 0.45)
    person.canvas.mark(tube.patch(math.pi - 0.8, math.pi + 0.8, 0.55, 0.58), trim)
    person.canvas.mark(tube.patch(math.pi - 1.0, math.pi + 1.0, 0.2, 0.22), trim)


def draw_messenger(person: Person, part: int) -> None:
    """The bag at the hip; its strap belongs to the trunk."""
    bag, tall = person.identity.bag, person.height
    centre, size = bag_centre(person), tall * bag.size
    rows = ((0.0, 0.05, 0.022, 0.075), (0.9, -0.05, 0.028, 0.08), (1.0, -0.06, 0.024, 0.07))
    tube = upright(person.view, centre, rows, size)
    wrap(person.canvas, tube, part, bag.material)
    person.canvas.mark(tube.patch(-ALL_ROUND, ALL_ROUND, 0.42, 0.5), mix(bag.material, INK, 0.5))


def draw_handbag(person: Person, hand: Point, part: int) -> None:
    """A bag that hangs from the hand."""
    bag, size = person.identity.bag, person.height * person.identity.bag.size
    rows = ((0.0, -0.05, 0.018, 0.05), (1.0, -0.145, 0.026, 0.068))
    for ahead in (-0.025, 0.025):
        end = (hand[0], hand[1] - 0.05 * size, hand[2] + ahead * size)
        person.limb(part, (hand, end), (0.006, 0.006), bag.material)
    tube = upright(person.view, hand, rows, size)
    wrap(person.canvas, tube, part, bag.material)


def draw_straps(person: Person) -> None:
    """What the carried bag lays over the trunk."""
    bag = person.identity.bag
    if bag is None or bag.kind == "handbag":
        return
    if bag.kind == "backpack":
        for angle in (-0.75, 0.75):
            person.canvas.mark(person.trunk.patch(angle - 0.13, angle + 0.13, 0.05, 0.55), bag.material)
        return
    for start, end in ((-0.7, 1.3), (-math.pi + 0.7, -math.pi - 1.3)):
        _sling(person, bag.side * start, bag.side * end)


def _sling(person: Person, start: float, end: float) -> None:
    """A strap across the trunk from one shoulder to the other hip."""
    for i in range(8):
        angle, place = start + (end - start) * (i + 0.5) / 8, 0.04 + 0.11 * i
        strap = person.trunk.patch(angle - 0.16, angle + 0.16, place, place + 0.115)
        person.canvas.mark(strap, person.identity.bag.material)
