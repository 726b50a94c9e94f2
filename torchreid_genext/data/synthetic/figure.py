"""A dressed person on a canvas: parts drawn from far to near for the view, clothes hung on the skeleton.

The order is decided by depth alone, so a far arm goes behind the trunk and a near one before it, a backpack
covers the back and its straps the chest, long hair falls over the back or behind the shoulders.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum

from torchreid_genext.data.synthetic import bags, clothes, head
from torchreid_genext.data.synthetic.body import FACE, Point, Projection, Skeleton, head_radii
from torchreid_genext.data.synthetic.canvas import Canvas, Tube
from torchreid_genext.data.synthetic.cloth import upright
from torchreid_genext.data.synthetic.people import Identity, Material


class Part(IntEnum):
    """What the parts layer of a canvas tells apart; `OTHER` does not belong to the person."""

    HEAD, NECK, TRUNK, SEAT = 1, 2, 3, 4
    RIGHT_UPPER_ARM, RIGHT_FOREARM, LEFT_UPPER_ARM, LEFT_FOREARM = 5, 6, 7, 8
    RIGHT_THIGH, RIGHT_SHANK, LEFT_THIGH, LEFT_SHANK = 9, 10, 11, 12
    BAG, OTHER = 13, 14


# right and left
_LEGS = (Part.RIGHT_THIGH, Part.RIGHT_SHANK), (Part.LEFT_THIGH, Part.LEFT_SHANK)
_ARMS = (Part.RIGHT_UPPER_ARM, Part.RIGHT_FOREARM), (Part.LEFT_UPPER_ARM, Part.LEFT_FOREARM)
# which parts may be on top of a joint that still counts as seen
_CARRIERS = (
    {Part.HEAD},
    {Part.NECK, Part.TRUNK, Part.HEAD},
    {Part.TRUNK, Part.RIGHT_UPPER_ARM},
    {Part.RIGHT_UPPER_ARM, Part.RIGHT_FOREARM},
    {Part.RIGHT_FOREARM},
    {Part.TRUNK, Part.LEFT_UPPER_ARM},
    {Part.LEFT_UPPER_ARM, Part.LEFT_FOREARM},
    {Part.LEFT_FOREARM},
    {Part.TRUNK, Part.SEAT, Part.RIGHT_THIGH},
    {Part.SEAT, Part.RIGHT_THIGH, Part.RIGHT_SHANK},
    {Part.SEAT, Part.RIGHT_SHANK},
    {Part.TRUNK, Part.SEAT, Part.LEFT_THIGH},
    {Part.SEAT, Part.LEFT_THIGH, Part.LEFT_SHANK},
    {Part.SEAT, Part.LEFT_SHANK},
    {Part.HEAD},
    {Part.HEAD},
    {Part.HEAD},
    {Part.HEAD},
)
# how far a joint of the head may turn away (cosine to the camera) before the head itself hides it
_TURNED_AWAY = {0: -0.2, 14: -0.1, 15: -0.1, 16: -0.45, 17: -0.45}


def draw_person(
    canvas: Canvas, view: Projection, identity: Identity, bones: Skeleton, *, other: bool = False
) -> None:
    """Draw one person.

    Args:
        canvas: where to.
        view: from body coordinates to the canvas.
        identity: who.
        bones: the pose, already applied to this person's body.
        other: a passer-by: all parts are marked as `Part.OTHER`.
    """
    person = Person(canvas, view, identity, bones, other)
    for _, draw in sorted(person.parts(), key=lambda item: item[0]):
        draw()
    canvas.dim = 1.0


def visible_joints(canvas: Canvas, view: Projection, bones: Skeleton) -> list[bool]:
    """For each of the 18 joints: is it on the canvas, with neither the body nor a thing in front of it?"""
    return [_seen(canvas, view, bones, index) for index in range(len(bones.joints))]


def _seen(canvas: Canvas, view: Projection, bones: Skeleton, index: int) -> bool:
    if index in FACE and math.cos(FACE[index] + bones.head_turn + view.yaw) < _TURNED_AWAY[index]:
        return False
    x, y, _ = view(*bones.joints[index])
    return canvas.part_at(x, y) in _CARRIERS[index]


class Person:
    """The pieces of one person, each with its depth and the strokes that draw it."""

    def __init__(
        self, canvas: Canvas, view: Projection, identity: Identity, bones: Skeleton, other: bool
    ) -> None:
        self.canvas, self.view, self.identity, self.bones, self.other = canvas, view, identity, bones, other
        self.height = identity.body.height
        self.pixels = sum(view.scale) / 2  # per metre
        self.trunk = clothes.trunk_tube(view, identity, bones)

    def parts(self) -> list[tuple[float, Callable[[], None]]]:
        """(depth, draw) of each piece; the trunk lies at 0."""
        return [
            self._leg_part(-1),
            self._leg_part(1),
            (-0.02, self._neck),
            (-0.01, self._seat),
            (0.0, self._trunk),
            self._arm_part(-1),
            self._arm_part(1),
            (0.3, self._head),
            *self._hair_parts(),
            *self._bag_parts(),
        ]

    def _leg_part(self, side: int) -> tuple[float, Callable[[], None]]:
        points = self._joints(8, 11, side)
        depth = sum(self.view.near(*p) for p in points) / 3
        return -0.5 + 0.3 * depth, lambda: self._leg(side, points, depth)

    def _arm_part(self, side: int) -> tuple[float, Callable[[], None]]:
        points = self._joints(2, 5, side)
        depth = sum(self.view.near(*p) for p in points) / 3
        layer = 0.1 if depth > 0.03 else -0.015 if depth > -0.05 else -0.9
        return layer + 0.1 * depth, lambda: self._arm(side, points, depth)

    def _joints(self, right: int, left: int, side: int) -> tuple[Point, ...]:
        first = left if side > 0 else right
        return self.bones.joints[first : first + 3]

    def part(self, part: Part) -> int:
        """The number by which a part is drawn; all parts of other people share one."""
        return int(Part.OTHER if self.other else part)

    def limb(
        self,
        part: Part,
        ends: tuple[Point, Point],
        radii: tuple[float, float],
        material: Material,
        hem: bool = False,
    ) -> None:
        """Draw a limb between two points of the body; radii in metres."""
        start, end = (self.view(*p) for p in ends)
        self.canvas.limb(
            self.part(part), start, end, (radii[0] * self.pixels, radii[1] * self.pixels), material, hem
        )

    def _leg(self, side: int, points: tuple[Point, ...], depth: float) -> None:
        hip, knee, ankle = points
        left = side > 0
        thigh, shank = _LEGS[left]
        self.canvas.dim = 0.84 if depth < -0.04 else 1.0
        girth, tall = self.identity.body.girth, self.height
        self._foot(shank, self.bones.heels[left], self.bones.toes[left])
        self.limb(shank, (knee, ankle), (0.031 * tall * girth, 0.022 * tall), self.identity.skin)
        self.limb(thigh, (hip, knee), (0.047 * tall * girth, 0.033 * tall * girth), self.identity.skin)
        clothes.draw_leg(self, (thigh, shank), (hip, knee, ankle))
        self.canvas.dim = 1.0

    def _foot(self, part: Part, heel: Point, toe: Point) -> None:
        lower = [(p[0], p[1] - 0.012, p[2]) for p in (heel, toe)]
        self.limb(part, (lower[0], lower[1]), (0.024, 0.02), self.identity.soles)
        raised = (heel[0], heel[1] + 0.018, heel[2])
        self.limb(part, (raised, toe), (0.034, 0.024), self.identity.shoes)

    def _arm(self, side: int, points: tuple[Point, ...], depth: float) -> None:
        shoulder, elbow, wrist = points
        left = side > 0
        upper, fore = _ARMS[left]
        self.canvas.dim = 0.85 if depth < -0.05 else 1.0
        girth, tall = self.identity.body.girth, self.height
        bag = self.identity.bag
        if bag is not None and bag.kind == "handbag" and bag.side == side:
            bags.draw_handbag(self, self.bones.hands[left], self.part(Part.BAG))
        self.limb(fore, (wrist, self.bones.hands[left]), (0.018 * tall, 0.02 * tall), self.identity.skin)
        self.limb(upper, (shoulder, elbow), (0.029 * tall * girth, 0.023 * tall * girth), self.identity.skin)
        self.limb(fore, (elbow, wrist), (0.023 * tall * girth, 0.016 * tall), self.identity.skin)
        clothes.draw_sleeve(self, (upper, fore), (shoulder, elbow, wrist))
        self.canvas.dim = 1.0

    def _neck(self) -> None:
        skull = self.bones.head
        ends = self.bones.chest, (skull[0], skull[1] - 0.03, skull[2])
        self.limb(Part.NECK, ends, (0.042, 0.036), self.identity.skin)

    def _seat(self) -> None:
        clothes.draw_seat(self, self.part(Part.SEAT))

    def _trunk(self) -> None:
        clothes.draw_top(self, self.part(Part.TRUNK))

    def head_tube(self, grow: float = 1.0) -> Tube:
        """The head as a tube from crown (0) to chin (1), turned where the person looks."""
        across, up, ahead = (r * grow for r in head_radii(self.identity.body))
        middle = self.bones.head
        rings = [(i / 8, math.cos(math.pi * i / 8), math.sin(math.pi * i / 8)) for i in range(9)]
        # the jaw is narrower than the skull
        rows = [(p, up * y, across * r * (1 - 0.16 * max(0.0, -y)), ahead * r) for p, y, r in rings]
        turned = self.view.turned(middle, self.bones.head_turn)
        return upright(turned, (0.0, middle[1], 0.0), rows, 1.0)

    def _head(self) -> None:
        head.draw_head(self, self.part(Part.HEAD))

    def _hair_parts(self) -> list[tuple[float, Callable[[], None]]]:
        style = self.identity.head.hair
        if style not in ("long", "ponytail", "bun"):
            return []
        depth = -math.cos(self.view.yaw + self.bones.head_turn)
        layer = 0.2 + 0.25 * depth if depth > -0.35 else -0.55
        return [(layer, lambda: head.draw_long_hair(self, self.part(Part.HEAD)))]

    def _bag_parts(self) -> list[tuple[float, Callable[[], None]]]:
        bag = self.identity.bag
        if bag is None or bag.kind == "handbag":
            return []
        draw = {"backpack": bags.draw_backpack, "messenger": bags.draw_messenger}[bag.kind]
        depth = self.view.near(*bags.bag_centre(self))
        return [(0.25 * depth + (0.05 if depth > -0.06 else -0.8), lambda: draw(self, self.part(Part.BAG)))]
