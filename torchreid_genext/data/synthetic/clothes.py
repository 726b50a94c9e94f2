"""Clothes: what hangs on the skeleton, and the patterns that are laid over it.

Lengths are metres on the body. Shares such as 0.047 are of the person's height, after the proportions
tailors use.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from torchreid_genext.data.synthetic import bags
from torchreid_genext.data.synthetic.body import Point, Projection, Skeleton
from torchreid_genext.data.synthetic.canvas import Canvas, Tube
from torchreid_genext.data.synthetic.cloth import ALL_ROUND, INK, LINEN, mix, upright, wrap
from torchreid_genext.data.synthetic.people import Garment, Identity, Material, Print

if TYPE_CHECKING:
    from torchreid_genext.data.synthetic.figure import Person

# prints as rows from top to bottom: half width, upper and lower edge, in units of the print
_DISC = [(math.sin(t), -math.cos(t)) for t in (0.3, 0.8, 1.57, 2.34, 2.84)]
_STAMPS = {
    "disc": [((w0 + w1) / 2, h0, h1) for (w0, h0), (w1, h1) in itertools.pairwise(_DISC)],
    "wedge": [((i + 1) / 4, i / 2 - 0.9, (i + 1) / 2 - 0.9) for i in range(4)],
    "bar": [(2.5, -0.4, 0.4)],
    "square": [(1.0, -1.0, 1.0)],
}


def trunk_tube(view: Projection, identity: Identity, bones: Skeleton) -> Tube:
    """The trunk in its top, from the neck (0) to the hem (1)."""
    body, top = identity.body, identity.top
    tall, ease = body.height, 0.5 * top.ease
    low = bones.pelvis[1] - top.length
    high = bones.chest[1] + 0.022 * tall
    profile = (  # share of the way from neck to pelvis, half width, half depth
        (0.0, 0.034, 0.032),
        (0.05, 0.078, 0.045),
        (0.12, 0.112 * body.shoulders, 0.054),
        (0.3, 0.098 * body.shoulders, 0.066),
        (0.68, 0.084 * body.girth, 0.06 * body.girth),
        (0.9, 0.096 * body.hips, 0.066 * body.girth),
        (1.0, 0.1 * body.hips, 0.068 * body.girth),
    )
    drop = (high - bones.pelvis[1]) / (high - low)
    sections = [
        (t * drop, _along(bones, high, t), tall * a + ease * t, tall * b + ease * t) for t, a, b in profile
    ]
    hem = (1.0, (0.0, low, bones.pelvis[2]), sections[-1][2] + 0.004, sections[-1][3] + 0.004)
    return Tube(view, [*sections, hem])


def draw_top(person: Person, part: int) -> None:
    """The trunk: garment, pattern, neckline, print, and the straps of whatever bag is carried."""
    top, tube = person.identity.top, person.trunk
    wrap(person.canvas, tube, part, top.main)
    _pattern(person.canvas, tube, top, 0.03, 1.0)
    _front(person.canvas, tube, person.identity)
    if person.identity.badge is not None:
        _print(person.canvas, tube, person.identity.badge)
    bags.draw_straps(person)
    for place in (0.62, 0.72):
        person.canvas.crease(
            tube.spot(-0.8 - person.view.yaw, place), tube.spot(-0.3 - person.view.yaw, place + 0.03)
        )


def draw_sleeve(person: Person, parts: tuple[int, int], points: tuple[Point, ...]) -> None:
    """The sleeve over an arm whose shoulder, elbow and wrist are given."""
    top = person.identity.top
    tall, girth = person.height, person.identity.body.girth
    material = top.second if top.pattern == "block" else top.main
    radii = (
        0.028 * tall * girth + 0.3 * top.ease,
        0.025 * tall * girth + 0.7 * top.ease,
        0.019 * tall + 0.6 * top.ease,
    )
    _covered(person, parts, points, radii, top, material)


def _along(bones: Skeleton, high: float, share: float) -> Point:
    low = bones.pelvis
    return 0.0, high + share * (low[1] - high), bones.chest[2] + share * (low[2] - bones.chest[2])


def _pattern(canvas: Canvas, tube: Tube, garment: Garment, start: float, end: float) -> None:
    draw = {"stripes": _stripes, "pinstripes": _pinstripes, "checks": _checks, "dots": _dots, "block": _block}
    if garment.pattern in draw:
        draw[garment.pattern](canvas, tube, garment, start, end)


def _steps(start: float, end: float, step: float) -> list[float]:
    return [start + i * step for i in range(int((end - start) / step + 1e-6) + 1)]


def _stripes(canvas: Canvas, tube: Tube, garment: Garment, start: float, end: float) -> None:
    for place in _steps(start + 0.08, end, garment.scale):
        canvas.mark(
            tube.patch(-ALL_ROUND, ALL_ROUND, place, min(end, place + 0.45 * garment.scale)), garment.second
        )


def _pinstripes(canvas: Canvas, tube: Tube, garment: Garment, start: float, end: float) -> None:
    step = 3.2 * garment.scale
    for angle in _steps(-math.pi, math.pi - step, step):
        canvas.mark(tube.patch(angle, angle + 0.3 * step, start, end), garment.second)


def _checks(canvas: Canvas, tube: Tube, garment: Garment, start: float, end: float) -> None:
    blend = mix(garment.main, garment.second, 0.5)
    for place in _steps(start, end, garment.scale):
        canvas.mark(tube.patch(-ALL_ROUND, ALL_ROUND, place, min(end, place + 0.4 * garment.scale)), blend)
    step = 4.5 * garment.scale
    for angle in _steps(-math.pi, math.pi - step, step):
        canvas.mark(tube.patch(angle, angle + 0.4 * step, start, end), blend)
        for place in _steps(start, end, garment.scale):
            canvas.mark(
                tube.patch(angle, angle + 0.4 * step, place, min(end, place + 0.4 * garment.scale)),
                garment.second,
            )


def _dots(canvas: Canvas, tube: Tube, garment: Garment, start: float, end: float) -> None:
    size = 0.2 * garment.scale * abs(tube.spot(0, end)[1] - tube.spot(0, start)[1])
    for row, place in enumerate(_steps(start + 0.1, end - 0.05, 0.75 * garment.scale)):
        for angle in _steps(-math.pi + 0.3 * (row % 2), math.pi, 0.6):
            if tube.faces(angle, place):
                canvas.dot(tube.spot(angle, place), size, size, garment.second)


def _block(canvas: Canvas, tube: Tube, garment: Garment, start: float, end: float) -> None:
    canvas.mark(tube.patch(-ALL_ROUND, ALL_ROUND, start, start + 2.2 * garment.scale), garment.second)


def _front(canvas: Canvas, tube: Tube, identity: Identity) -> None:
    """Neckline, buttons, or the shirt that shows under an open jacket."""
    top = identity.top
    if top.cut == "jacket":
        wide = 1.6 * top.scale
        canvas.mark(tube.patch(-wide, wide, 0.0, 1.0), top.second)
        canvas.mark(tube.patch(-0.18, 0.18, 0.0, 0.05), identity.skin)
    elif top.cut == "shirt":
        canvas.mark(tube.patch(-0.06, 0.06, 0.05, 1.0), mix(top.main, INK, 0.4))
        canvas.mark(tube.patch(-1.1, 1.1, 0.0, 0.045), mix(top.main, LINEN, 0.5))
        canvas.mark(tube.patch(-0.3, 0.3, 0.0, 0.06), identity.skin)
    else:
        canvas.mark(tube.patch(-0.9, 0.9, 0.0, 0.06 if top.cut == "sweater" else 0.085), identity.skin)
        canvas.mark(tube.patch(2.4, 3.9, 0.0, 0.03), identity.skin)


def _print(canvas: Canvas, tube: Tube, badge: Print) -> None:
    for angle, side in ((0.0, "front"), (math.pi, "back")):
        if badge.side in (side, "both"):
            _stamp(canvas, tube, badge, angle)


def _stamp(canvas: Canvas, tube: Tube, badge: Print, angle: float) -> None:
    wide, tall = 0.42 * badge.size, 0.1 * badge.size
    for half, start, end in _STAMPS[badge.shape]:
        canvas.mark(
            tube.patch(angle - wide * half, angle + wide * half, 0.33 + tall * start, 0.33 + tall * end),
            badge.material,
        )


def draw_leg(person: Person, parts: tuple[int, int], points: tuple[Point, ...]) -> None:
    """The trouser leg over a leg whose hip, knee and ankle are given; nothing under a skirt."""
    bottom = person.identity.bottom
    if bottom.cut == "skirt":
        return
    tall, girth = person.height, person.identity.body.girth
    radii = (
        0.05 * tall * girth + 0.4 * bottom.ease,
        0.036 * tall * girth + 0.7 * bottom.ease,
        0.025 * tall + bottom.ease,
    )
    _covered(person, parts, points, radii, bottom, bottom.main)
    if bottom.pattern == "side":
        _side_stripe(person, points, radii)


def draw_seat(person: Person, part: int) -> None:
    """Hips and crotch in trousers, or the whole skirt."""
    bottom = person.identity.bottom
    tube = _skirt_tube(person) if bottom.cut == "skirt" else _seat_tube(person)
    wrap(person.canvas, tube, part, bottom.main)
    if bottom.pattern == "checks":
        _pattern(person.canvas, tube, bottom, 0.0, 1.0)


def _covered(
    person: Person,
    parts: tuple[int, int],
    points: tuple[Point, ...],
    radii: tuple[float, ...],
    garment: Garment,
    material: Material,
) -> None:
    """Cloth over the first `cover` of a two-bone limb; the upper piece lies over the lower one."""
    for bone in (1, 0):
        share = min(1.0, 2 * garment.cover - bone)
        if share > 0:
            ends = points[bone], _towards(points[bone], points[bone + 1], share)
            thin = radii[bone] + share * (radii[bone + 1] - radii[bone])
            _sleeve(person, parts[bone], ends, (radii[bone], thin), garment, material)


def _sleeve(
    person: Person,
    part: int,
    ends: tuple[Point, Point],
    radii: tuple[float, float],
    garment: Garment,
    material: Material,
) -> None:
    person.limb(part, ends, radii, material, hem=True)
    if garment.pattern not in ("stripes", "checks"):
        return
    start, end = (person.view(*p) for p in ends)
    step = 0.55 * garment.scale / max(math.dist(*ends), 0.05)
    second = garment.second if garment.pattern == "stripes" else mix(garment.main, garment.second, 0.6)
    for share in _steps(0.3 * step, 1.0 - 0.4 * step, step):
        person.canvas.band(
            start, end, tuple(r * person.pixels for r in radii), (share, share + 0.45 * step), second
        )


def _towards(start: Point, end: Point, share: float) -> Point:
    return tuple(a + share * (b - a) for a, b in zip(start, end))


def _side_stripe(person: Person, points: tuple[Point, ...], radii: tuple[float, ...]) -> None:
    side = 1.0 if points[0][0] > 0 else -1.0
    if person.view.near(side, 0.0, 0.0) < -0.5:
        return
    # the seam sits on the outer side, a little nearer to the camera than the outline
    seam = [person.view(p[0] + 0.75 * side * r, p[1], p[2]) for p, r in zip(points, radii)]
    wide = 0.011 * person.pixels
    person.canvas.band(seam[0], seam[1], (wide, wide), (0.0, 1.0), person.identity.bottom.second)
    if person.identity.bottom.cover > 0.6:
        person.canvas.band(seam[1], seam[2], (wide, wide), (0.0, 0.9), person.identity.bottom.second)


def _seat_tube(person: Person) -> Tube:
    body, tall, ease = person.identity.body, person.height, 0.4 * person.identity.bottom.ease
    across, ahead = 0.097 * tall * body.hips, 0.066 * tall * body.girth
    rows = ((0.0, 0.07, 0.92, 0.95), (0.5, 0.0, 1.0, 1.0), (0.8, -0.05, 0.9, 0.9), (1.0, -0.09, 0.5, 0.7))
    rows = [(p, up * tall / 1.7, across * a + ease, ahead * b + ease) for p, up, a, b in rows]
    return upright(person.view, (0.0, person.bones.pelvis[1], 0.0), rows, 1.0)


def _skirt_tube(person: Person) -> Tube:
    body, tall, bottom = person.identity.body, person.height, person.identity.bottom
    knees = person.bones.joints[9], person.bones.joints[12]
    across, ahead = 0.097 * tall * body.hips, 0.068 * tall * body.girth
    long = bottom.cover * 0.47 * tall
    # the hem is as wide as the step
    hem = max(ahead, 0.05 + max(abs(k[2]) for k in knees)) * (0.8 + 0.2 * bottom.cover)
    rows = (
        (0.0, 0.06, across * 0.85, ahead * 0.9),
        (0.3, -0.25 * long, across * 1.06, ahead * 1.05),
        (1.0, -long, across * (1.1 + 8 * bottom.ease), hem + bottom.ease),
    )
    return upright(person.view, (0.0, person.bones.pelvis[1], 0.0), rows, 1.0)
