"""What gets in the way between the camera and the person."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from torchreid_genext.data.synthetic.canvas import Canvas
from torchreid_genext.data.synthetic.people import Material

OCCLUDERS = ("pole", "bush", "car", "barrier", "sign", "pedestrian")


@dataclass(frozen=True)
class Occluder:
    """Something between the camera and the person.

    Attributes:
        kind: one of `OCCLUDERS`.
        place: where, from -1 (left edge of the crop) to 1 (right edge).
        cover: how much of the crop it reaches over, 0..1.
        seed: its own look (and who the passing pedestrian is).
    """

    kind: str
    place: float = 0.0
    cover: float = 0.4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in OCCLUDERS:
            raise ValueError(f"unknown occluder {self.kind!r}; choose from {', '.join(OCCLUDERS)}")


def draw_occluder(canvas: Canvas, occluder: Occluder, part: int) -> None:
    """Draw a thing (not a pedestrian) over what is on the canvas."""
    _THINGS[occluder.kind](canvas, occluder, part, np.random.default_rng([11, occluder.seed]))


def _pole(canvas: Canvas, thing: Occluder, part: int, rng: np.random.Generator) -> None:
    width, height = canvas.size
    x, half = _across(canvas, thing), width * (0.04 + 0.14 * thing.cover)
    grey = int(rng.integers(70, 170))
    canvas.shape(part, _box(x - half, 0, x + half, height), Material((grey, grey, grey + 4), 0.5))
    canvas.shine(_box(x - half / 2, 0, x + half / 3, height))


def _bush(canvas: Canvas, thing: Occluder, part: int, rng: np.random.Generator) -> None:
    width, height = canvas.size
    top = height * (1 - 0.85 * thing.cover)
    for _ in range(70):
        y = rng.uniform(top, height * 1.03)
        radius = width * rng.uniform(0.05, 0.12)
        x = _across(canvas, thing) + width * rng.uniform(-0.75, 0.75)
        green = Material(
            tuple(int(c * rng.uniform(0.7, 1.25)) for c in (62, 92, 48)), float(rng.uniform(0.6, 0.85))
        )
        canvas.disc(part, (x, y + 0.25 * abs(x - _across(canvas, thing))), radius, radius, green)


def _car(canvas: Canvas, thing: Occluder, part: int, rng: np.random.Generator) -> None:
    width, height = canvas.size
    x, top = _across(canvas, thing), height * (1 - 0.7 * thing.cover)
    paint = Material(
        tuple(int(c) for c in ((176, 178, 182), (132, 36, 40), (44, 56, 92), (40, 40, 44))[rng.integers(4)]),
        float(rng.uniform(0.3, 0.8)),
    )
    glass = Material((72, 84, 96), 0.3)
    canvas.shape(
        part,
        [
            (x - width, top),
            (x - 0.5 * width, top - 0.12 * height),
            (x + 0.6 * width, top - 0.12 * height),
            (x + width, top),
        ],
        glass,
    )
    canvas.shape(part, _box(x - 1.4 * width, top, x + 1.4 * width, height), paint)
    canvas.shine(_box(x - 1.4 * width, top + 3, x + 1.4 * width, top + 0.12 * height))


def _barrier(canvas: Canvas, thing: Occluder, part: int, rng: np.random.Generator) -> None:
    width, height = canvas.size
    white, red = Material((214, 212, 206), 0.8), Material((176, 52, 46), 0.6)
    top = height * (1 - 0.75 * thing.cover)
    for row in range(2):
        y = top + row * 0.16 * height
        canvas.shape(part, _box(0, y, width, y + 0.09 * height), white)
        canvas.shine(_box(0, y + 2, width, y + 0.07 * height), 0.8)
        for i in range(4):
            x = (i - thing.place * 0.5) * 0.3 * width
            canvas.mark(
                [
                    (x, y),
                    (x + 0.14 * width, y),
                    (x + 0.24 * width, y + 0.09 * height),
                    (x + 0.1 * width, y + 0.09 * height),
                ],
                red,
            )


def _sign(canvas: Canvas, thing: Occluder, part: int, rng: np.random.Generator) -> None:
    width, height = canvas.size
    x, half = _across(canvas, thing), width * (0.18 + 0.2 * thing.cover)
    top = height * rng.uniform(0.2, 0.5)
    board = Material(
        ((196, 190, 176), (52, 84, 140), (170, 140, 60))[rng.integers(3)], float(rng.uniform(0.3, 0.8))
    )
    canvas.shape(part, _box(x - half, top, x + half, top + 0.3 * height), board)
    canvas.shine(_box(x - 0.9 * half, top + 3, x + 0.9 * half, top + 0.28 * height))
    post = 0.03 * width
    foot = _box(x - post, top + 0.3 * height, x + post, height)
    canvas.shape(part, foot, Material((96, 96, 98), 0.5))


def _box(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _across(canvas: Canvas, thing: Occluder) -> float:
    return canvas.size[0] * (0.5 + 0.5 * thing.place)


_THINGS: dict[str, Callable[[Canvas, Occluder, int, np.random.Generator], None]] = {
    "pole": _pole,
    "bush": _bush,
    "car": _car,
    "barrier": _barrier,
    "sign": _sign,
}
