"""The six places: what is behind the people, drawn once per camera.

A scene is a wide picture of one fixed place; every crop takes another window of it, as a detector would.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from torchreid_genext.data.synthetic.people import Colour

_WIDE, _TALL = 7.0, 1.35  # the scene in units of the crop's width and height


@lru_cache(maxsize=32)
def scene(name: str, size: tuple[int, int], infrared: bool) -> Image.Image:
    """The whole picture of a place for crops of `size` (height, width)."""
    width, height = round(_WIDE * size[1]), round(_TALL * size[0])
    rng = np.random.default_rng([7, *name.encode()])
    sheet = _Sheet(width * 2, height * 2, rng)
    _SCENES[name](sheet)
    picture = _grained(sheet.image.reduce(2), rng)
    picture = picture.filter(ImageFilter.GaussianBlur(0.006 * size[0]))
    return _seen_in_infrared(picture) if infrared else picture


def window(picture: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A random crop of a scene, (H, W, 3) float32 in 0..255; the ground stays at the bottom."""
    left = int(rng.integers(0, picture.width - size[1] + 1))
    top = int((0.5 + 0.5 * rng.random()) * (picture.height - size[0]))
    return np.asarray(picture.crop((left, top, left + size[1], top + size[0])), np.float32)


class _Sheet:
    """A drawing surface in units of its own size: x and y run from 0 to 1, the ground begins at `ground`."""

    def __init__(self, width: int, height: int, rng: np.random.Generator) -> None:
        self.image = Image.new("RGB", (width, height))
        self.draw, self.rng = ImageDraw.Draw(self.image), rng
        self.width, self.height = width, height

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self.draw.rectangle(
            (left * self.width, top * self.height, right * self.width, bottom * self.height), colour
        )

    def poly(self, spots: list[tuple[float, float]], colour: Colour) -> None:
        self.draw.polygon([(x * self.width, y * self.height) for x, y in spots], colour)

    def ball(self, x: float, y: float, radius: float, colour: Colour, flat: float = 1.0) -> None:
        """A disc whose radius is a share of the height."""
        r = radius * self.height
        self.draw.ellipse(
            (x * self.width - r, y * self.height - flat * r, x * self.width + r, y * self.height + flat * r),
            colour,
        )

    def ring(self, x: float, y: float, radius: float, colour: Colour) -> None:
        r = radius * self.height
        self.draw.ellipse(
            (x * self.width - r, y * self.height - r, x * self.width + r, y * self.height + r),
            outline=colour,
            width=3,
        )

    def line(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, width: int = 2) -> None:
        self.draw.line((x0 * self.width, y0 * self.height, x1 * self.width, y1 * self.height), colour, width)

    def tone(self, colour: Colour, spread: float = 0.12) -> Colour:
        """The colour, a little lighter or darker."""
        factor = 1 + spread * self.rng.standard_normal()
        return tuple(int(min(255, max(0, c * factor))) for c in colour)

    def paving(self, ground: float, colour: Colour, joint: Colour, rows: int, columns: int) -> None:
        """A floor of slabs in perspective."""
        self.box(0, ground, 1, 1, colour)
        for i in range(rows):
            y = ground + (1 - ground) * (i / rows) ** 1.6
            self.line(0, y, 1, y, joint, 1 + i // 3)
        for i in range(-columns, 2 * columns):
            top = i / columns
            self.line(top, ground, 0.5 + (top - 0.5) * 1.7, 1, joint)

    def foliage(self, x: float, y: float, radius: float, colour: Colour, count: int = 40) -> None:
        for _ in range(count):
            dx, dy = self.rng.normal(0, 0.5, 2) * radius
            self.ball(
                x + dx * self.height / self.width,
                y + 0.7 * dy,
                radius * self.rng.uniform(0.15, 0.4),
                self.tone(colour, 0.2),
            )

    def bicycle(self, x: float, y: float, size: float, colour: Colour) -> None:
        step = 1.2 * size * self.height / self.width
        for wheel in (x - step, x + step):
            self.ring(wheel, y, size, (48, 48, 50))
        self.line(x - step, y, x, y - 1.2 * size, colour, 3)
        self.line(x, y - 1.2 * size, x + step, y, colour, 3)
        self.line(x + 0.8 * step, y - 1.7 * size, x + step, y, colour, 3)

    def car(self, x: float, y: float, size: float, colour: Colour) -> None:
        wide = size * self.height / self.width
        self.poly(
            [
                (x - 1.1 * wide, y - 0.9 * size),
                (x - 0.7 * wide, y - 1.5 * size),
                (x + 0.7 * wide, y - 1.5 * size),
                (x + 1.2 * wide, y - 0.9 * size),
            ],
            (70, 82, 92),
        )
        self.box(x - 2 * wide, y - 0.95 * size, x + 2 * wide, y - 0.15 * size, colour)
        for wheel in (x - 1.2 * wide, x + 1.2 * wide):
            self.ball(wheel, y - 0.15 * size, 0.32 * size, (34, 34, 36))


def _plaza(sheet: _Sheet) -> None:
    sheet.box(0, 0, 1, 0.45, (148, 156, 150))
    for _ in range(24):
        sheet.foliage(sheet.rng.random(), 0.2, 0.3, (72, 98, 62), 24)
    sheet.box(0, 0.36, 1, 0.44, (156, 74, 66))
    sheet.paving(0.44, (166, 164, 158), (140, 138, 132), 9, 22)
    for _ in range(16):
        sheet.bicycle(
            sheet.rng.random(), 0.47 + 0.05 * sheet.rng.random(), 0.07, sheet.tone((120, 124, 130), 0.3)
        )


def _shop(sheet: _Sheet) -> None:
    sheet.box(0, 0, 1, 0.6, (88, 84, 80))
    for i in range(9):
        x = i / 9
        sheet.box(x + 0.012, 0.08, x + 0.095, 0.58, sheet.tone((44, 46, 52), 0.3))
        sheet.box(x + 0.016, 0.1, x + 0.05, 0.56, sheet.tone((78, 92, 98), 0.3))
        sheet.box(x + 0.01, 0.0, x + 0.1, 0.07, sheet.tone((178, 150, 78), 0.25))
    sheet.paving(0.6, (130, 120, 110), (104, 96, 88), 5, 14)
    sheet.box(0, 0.64, 1, 0.66, (196, 176, 84))


def _street(sheet: _Sheet) -> None:
    sheet.box(0, 0, 1, 0.4, (176, 186, 196))
    for i in range(8):
        sheet.box(i / 8, 0.0, i / 8 + 0.11, 0.38, sheet.tone((150, 138, 126), 0.15))
        for j in range(6):
            sheet.box(
                i / 8 + 0.01 + 0.03 * (j % 3),
                0.05 + 0.15 * (j // 3),
                i / 8 + 0.028 + 0.03 * (j % 3),
                0.15 + 0.15 * (j // 3),
                (84, 94, 106),
            )
    sheet.box(0, 0.38, 1, 1, (104, 106, 110))
    for i in range(7):
        sheet.car(
            sheet.rng.random(),
            0.5,
            0.09,
            sheet.tone(((170, 172, 176), (120, 40, 42), (52, 62, 88))[i % 3], 0.15),
        )
    for i in range(14):
        sheet.poly(
            [(i / 14, 0.8), (i / 14 + 0.03, 0.8), (i / 14 + 0.02, 1), (i / 14 - 0.02, 1)], (196, 196, 190)
        )
    sheet.box(0, 0.52, 1, 0.56, (148, 146, 142))


def _park(sheet: _Sheet) -> None:
    sheet.box(0, 0, 1, 0.5, (132, 158, 148))
    for _ in range(26):
        sheet.foliage(sheet.rng.random(), 0.15 + 0.2 * sheet.rng.random(), 0.24, (58, 92, 48), 26)
    sheet.box(0, 0.46, 1, 1, (98, 124, 66))
    for _ in range(900):
        x, y = sheet.rng.random(), 0.47 + 0.53 * sheet.rng.random()
        sheet.line(x, y, x + 0.002, y - 0.015, sheet.tone((92, 122, 58), 0.25))
    for _ in range(12):
        x = sheet.rng.random()
        sheet.box(x, 0.05, x + 0.016, 0.55, sheet.tone((82, 66, 52), 0.15))
    sheet.poly([(0, 0.8), (1, 0.7), (1, 0.92), (0, 1)], (168, 152, 126))


def _brick(sheet: _Sheet) -> None:
    sheet.box(0, 0, 1, 0.62, (146, 98, 78))
    for row in range(20):
        sheet.line(0, row * 0.031, 1, row * 0.031, (166, 130, 112), 1)
        for column in range(60):
            x = (column + 0.5 * (row % 2)) / 60
            sheet.box(x, row * 0.031, x + 0.015, row * 0.031 + 0.026, sheet.tone((142, 92, 72), 0.09))
    for i in range(5):
        sheet.box(i / 5 + 0.06, 0.06, i / 5 + 0.13, 0.34, (206, 204, 196))
        sheet.box(i / 5 + 0.066, 0.08, i / 5 + 0.124, 0.33, (74, 88, 104))
    sheet.paving(0.62, (142, 136, 128), (118, 112, 106), 6, 30)


def _hall(sheet: _Sheet) -> None:
    sheet.box(0, 0, 1, 0.55, (206, 202, 190))
    for i in range(6):
        sheet.box(i / 6 + 0.02, 0.0, i / 6 + 0.045, 0.6, sheet.tone((172, 168, 160), 0.05))
        sheet.box(
            i / 6 + 0.065,
            0.1,
            i / 6 + 0.14,
            0.42,
            sheet.tone(((70, 116, 160), (190, 96, 60), (96, 140, 98))[i % 3], 0.15),
        )
    sheet.paving(0.55, (188, 184, 176), (156, 152, 146), 7, 18)
    for _ in range(10):
        sheet.ball(sheet.rng.random(), 0.62 + 0.3 * sheet.rng.random(), 0.12, (206, 203, 196), 0.2)


_SCENES: dict[str, Callable[[_Sheet], None]] = {
    "plaza": _plaza,
    "shop": _shop,
    "street": _street,
    "park": _park,
    "brick": _brick,
    "hall": _hall,
}


def _grained(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Uneven light and dirt: noise of two scales multiplied in."""
    for cell, strength in ((20, 0.12), (3, 0.06)):
        coarse = rng.normal(1.0, strength, (picture.height // cell + 2, picture.width // cell + 2))
        field = Image.fromarray(np.clip(coarse * 200, 0, 255).astype(np.uint8)).resize(
            picture.size, Image.Resampling.BICUBIC
        )
        picture = ImageChops.multiply(picture, Image.merge("RGB", (field,) * 3)).point(
            lambda v: min(255, v * 255 // 200)
        )
    return picture


def _seen_in_infrared(picture: Image.Image) -> Image.Image:
    """Grey, with leaves and grass bright and the sky dark, as in the near infrared."""
    red, green, blue = (np.asarray(band, np.float32) for band in picture.split())
    leaf = np.clip(2 * green - red - blue, 0, 80)
    grey = np.clip(0.5 * red + 0.4 * green + 1.2 * leaf, 0, 255).astype(np.uint8)
    return Image.merge("RGB", (Image.fromarray(grey),) * 3)
