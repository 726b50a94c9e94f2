"""Drawing in three layers at once: colour, shade, and which part covers each pixel.

Colour is drawn flat; the shade layer (dark towards a shape's edge, light on the side of the lamp) is
blurred and multiplied in at the end, which rounds every shape and its pattern alike. The parts layer tells
what is on top of any pixel: that is how joints know whether something hides them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from torchreid_genext.data.synthetic.body import Point, Projection
from torchreid_genext.data.synthetic.people import Colour, Material

Spot = tuple[float, float]
# place along the tube (0..1), centre, half width across, half depth ahead
Section = tuple[float, Point, float, float]

_EDGE, _BODY, _SHINE = 150, 206, 238


class Canvas:
    """The three layers, `width` x `height` pixels, and the brushes that draw on all of them."""

    def __init__(self, width: int, height: int, ink: Callable[[Material], Colour], light: float) -> None:
        """Args: ink: colour of a material; light: where the lamp is, -1 (left) .. 1 (right)."""
        self.size, self.ink, self.light = (width, height), ink, light
        self.dim = 1.0  # shade factor of what is drawn next; far limbs get less light
        blank = ("RGB", 0), ("L", _BODY), ("L", 0)
        self._layers = [Image.new(mode, self.size, fill) for mode, fill in blank]
        self._colour, self._shade, self._parts = (ImageDraw.Draw(layer) for layer in self._layers)

    def shape(self, part: int, outline: Sequence[Spot], material: Material) -> None:
        """A flat shape with a dark edge; shade it further with `shine`."""
        if len(outline) > 2:
            self._colour.polygon(outline, self.ink(material))
            self._shade.polygon(outline, int(_EDGE * self.dim))
            self._parts.polygon(outline, part)

    def disc(self, part: int, centre: Spot, across: float, up: float, material: Material) -> None:
        """A round shape, lit like a ball."""
        box = _box(centre, across, up)
        self._colour.ellipse(box, self.ink(material))
        self._shade.ellipse(box, int(_EDGE * self.dim))
        self._parts.ellipse(box, part)
        lit = (centre[0] + 0.15 * self.light * across, centre[1] - 0.08 * up)
        self._shade.ellipse(_box(lit, 0.66 * across, 0.7 * up), int(_BODY * self.dim))
        self._shade.ellipse(_box(lit, 0.34 * across, 0.4 * up), int(_SHINE * self.dim))

    def shine(self, outline: Sequence[Spot], level: float = 1.0) -> None:
        """Light on a shape already drawn: `level` 0 is its edge tone, 1 the brightest."""
        if len(outline) > 2:
            self._shade.polygon(outline, int((_EDGE + (_SHINE - _EDGE) * level) * self.dim))

    def limb(
        self,
        part: int,
        start: Point,
        end: Point,
        radii: tuple[float, float],
        material: Material,
        hem: bool = False,
    ) -> None:
        """A tapered limb, round at both ends or cut straight at the far one (`hem`); radii in pixels."""
        thick, thin = radii
        _taper(self._colour, start, end, thick, thin, self.ink(material), hem)
        _taper(self._shade, start, end, thick, thin, int(_EDGE * self.dim), hem)
        _taper(self._parts, start, end, thick, thin, part, hem)
        push = 0.22 * self.light
        lit_start, lit_end = (start[0] + push * thick, start[1]), (end[0] + push * thin, end[1])
        _taper(self._shade, lit_start, lit_end, 0.64 * thick, 0.64 * thin, int(_BODY * self.dim), hem)
        _taper(self._shade, lit_start, lit_end, 0.3 * thick, 0.3 * thin, int(_SHINE * self.dim), hem)

    def band(
        self,
        start: Point,
        end: Point,
        radii: tuple[float, float],
        span: tuple[float, float],
        material: Material,
    ) -> None:
        """A stripe across a limb, from one share of its length to another."""
        ends = [_between(start, end, t) for t in span]
        wide = [radii[0] + t * (radii[1] - radii[0]) for t in span]
        self._colour.polygon(_slab(*ends, *wide), self.ink(material))

    def mark(self, outline: Sequence[Spot], material: Material) -> None:
        """Paint on what is there: a stripe, a print, an eye; shade and part stay."""
        if len(outline) > 2:
            self._colour.polygon(outline, self.ink(material))

    def dot(self, centre: Spot, across: float, up: float, material: Material) -> None:
        """A round `mark`."""
        self._colour.ellipse(_box(centre, across, up), self.ink(material))

    def crease(self, start: Spot, end: Spot, width: int = 1) -> None:
        """A fold: a thin shadow."""
        self._shade.line((start[0], start[1], end[0], end[1]), int(0.86 * _EDGE), width)

    def part_at(self, x: float, y: float) -> int:
        """The part drawn last at a pixel; 0 where nothing is, -1 outside the canvas."""
        column, row = math.floor(x + 0.5), math.floor(y + 0.5)
        inside = 0 <= column < self.size[0] and 0 <= row < self.size[1]
        return self._layers[2].getpixel((column, row)) if inside else -1

    def flatten(self, reduce: int) -> tuple[np.ndarray, np.ndarray]:
        """Colour times alpha (H, W, 3), 0..255, and alpha (H, W, 1), 0..1; `reduce` times smaller."""
        colour, shade, parts = self._layers
        soft = shade.filter(ImageFilter.BoxBlur(0.8 * reduce))
        lit = ImageChops.multiply(colour, Image.merge("RGB", (soft, soft, soft))).reduce(reduce)
        alpha = parts.point([0] + [255] * 255).reduce(reduce)
        return np.asarray(lit, np.float32) * (255 / _BODY), np.asarray(alpha, np.float32)[..., None] / 255


class Tube:
    """A body part of elliptic cross-sections, along which patterns are laid by angle and place.

    Angles are radians around the body: 0 ahead, positive to the person's left. Only what faces the camera is
    returned.
    """

    def __init__(self, view: Projection, sections: Sequence[Section]) -> None:
        self._view, self._sections = view, sections
        self._rings: dict[float, _Ring] = {}

    def spot(self, angle: float, place: float) -> Spot:
        """Canvas position of a point on the surface, whether or not it faces the camera."""
        return self._ring(place).spot(angle)

    def faces(self, angle: float, place: float) -> bool:
        """Whether a point of the surface looks towards the camera."""
        return math.cos(angle - self._ring(place).front) > 0

    def front(self, place: float) -> float:
        """The angle of the surface that looks straight at the camera."""
        return self._ring(place).front

    def outline(self, start: float = 0.0, end: float = 1.0) -> list[Spot]:
        """The silhouette between two places."""
        return self.patch(-2 * math.pi, 2 * math.pi, start, end)

    def lit(self, light: float, share: float, start: float = 0.0, end: float = 1.0) -> list[Spot]:
        """The middle of the silhouette, `share` of its width, moved towards the lamp."""
        middle, half = math.asin(0.3 * light), math.asin(share)
        front = self.front((start + end) / 2)
        return self.patch(front + middle - half, front + middle + half, start, end)

    def patch(self, low: float, high: float, start: float, end: float) -> list[Spot]:
        """The visible part of the surface between two angles and two places; empty if it faces away."""
        left, right, quarter = [], [], math.pi / 2
        for place in (start, *(s[0] for s in self._sections if start < s[0] < end), end):
            ring = self._ring(place)
            turn = 2 * math.pi * round((ring.front - (low + high) / 2) / (2 * math.pi))
            first, last = max(low + turn, ring.front - quarter), min(high + turn, ring.front + quarter)
            if first < last:
                left.append(ring.spot(first))
                right.append(ring.spot(last))
        return left + right[::-1]

    def _ring(self, place: float) -> _Ring:
        if place not in self._rings:
            self._rings[place] = _Ring(self._view, *self._section(place))
        return self._rings[place]

    def _section(self, place: float) -> tuple[Point, float, float]:
        """Centre, half width and half depth at a place, between the given sections."""
        for (low, c0, a0, b0), (high, c1, a1, b1) in zip(self._sections, self._sections[1:]):
            if place <= high:
                t = (place - low) / (high - low)
                return tuple(p + t * (q - p) for p, q in zip(c0, c1)), a0 + t * (a1 - a0), b0 + t * (b1 - b0)
        return self._sections[-1][1:]


class _Ring:
    """One cross-section on the canvas: centre, and the images of its two half axes."""

    def __init__(self, view: Projection, centre: Point, across: float, ahead: float) -> None:
        self._x, self._y, _ = view(*centre)
        self._across, self._ahead = view.vector(across, 0.0), view.vector(0.0, ahead)
        self.front = math.atan2(
            -math.sin(view.yaw) * max(ahead, 1e-6), math.cos(view.yaw) * max(across, 1e-6)
        )

    def spot(self, angle: float) -> Spot:
        sin, cos = math.sin(angle), math.cos(angle)
        return (
            self._x + sin * self._across[0] + cos * self._ahead[0],
            self._y + sin * self._across[1] + cos * self._ahead[1],
        )


def _box(centre: Spot, across: float, up: float) -> tuple[float, float, float, float]:
    return centre[0] - across, centre[1] - up, centre[0] + across, centre[1] + up


def _between(start: Point, end: Point, share: float) -> Spot:
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])


def _slab(start: Sequence[float], end: Sequence[float], thick: float, thin: float) -> list[Spot]:
    """The four corners of a limb of straight sides."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy) or 1.0
    nx, ny = -dy / length, dx / length
    return [
        (start[0] + thick * nx, start[1] + thick * ny),
        (end[0] + thin * nx, end[1] + thin * ny),
        (end[0] - thin * nx, end[1] - thin * ny),
        (start[0] - thick * nx, start[1] - thick * ny),
    ]


def _taper(
    draw: ImageDraw.ImageDraw, start: Point, end: Point, thick: float, thin: float, fill: object, hem: bool
) -> None:
    draw.polygon(_slab(start, end, thick, thin), fill)
    draw.ellipse(_box(start, thick, thick), fill)
    if not hem:
        draw.ellipse(_box(end, thin, thin), fill)
