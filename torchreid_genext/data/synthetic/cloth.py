"""Cloth itself: wrapping a tube in a material, and blending two of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torchreid_genext.data.synthetic.body import Point, Projection
from torchreid_genext.data.synthetic.canvas import Canvas, Tube
from torchreid_genext.data.synthetic.people import Material

ALL_ROUND = 2 * math.pi
INK = Material((30, 26, 26), 0.2)
LINEN = Material((214, 214, 212), 0.7)


def wrap(canvas: Canvas, tube: Tube, part: int, material: Material) -> None:
    """Cover a tube with one material, shaded as a round thing."""
    canvas.shape(part, tube.outline(), material)
    canvas.shine(tube.lit(canvas.light, 0.8, 0.02, 1.0), 0.6)
    canvas.shine(tube.lit(canvas.light, 0.42, 0.06, 0.96), 1.0)


def upright(view: Projection, centre: Point, rows: Sequence[tuple[float, ...]], size: float) -> Tube:
    """A tube that stands upright around a centre.

    Args:
        view: from body coordinates to the canvas.
        centre: in body coordinates.
        rows: (place 0..1, height above the centre, half width, half depth) of each cross-section.
        size: what the last three are multiplied with, in metres.
    """
    left, height, ahead = centre
    return Tube(view, [(p, (left, height + up * size, ahead), a * size, b * size) for p, up, a, b in rows])


def mix(first: Material, second: Material, share: float) -> Material:
    """`share` of the second material woven into the first."""
    colour = tuple(round(a + share * (b - a)) for a, b in zip(first.colour, second.colour))
    return Material(colour, first.infrared + share * (second.infrared - first.infrared))
