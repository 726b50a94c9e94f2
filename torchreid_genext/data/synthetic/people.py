"""Who walks through SynthReID: bodies, the shared wardrobe, and the details that tell people apart.

Colours and patterns are drawn from short, skewed lists, so that many people wear the same outfit; what is
left to recognise somebody by is the build, the hair, the bag, the shoes, a print, the width of a stripe.
Every surface also has its own reflectance in the near infrared, independent of its visible colour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Colour = tuple[int, int, int]
Choice = TypeVar("Choice")

PALETTE: Mapping[str, Colour] = {
    "black": (38, 38, 42),
    "white": (226, 226, 222),
    "grey": (136, 138, 142),
    "navy": (40, 52, 92),
    "blue": (66, 108, 176),
    "red": (168, 46, 50),
    "beige": (188, 168, 136),
    "green": (66, 116, 78),
    "olive": (96, 98, 62),
    "brown": (104, 76, 58),
    "pink": (212, 140, 158),
    "yellow": (218, 186, 74),
}
_TOP_COLOURS = {
    "black": 15, "white": 13, "grey": 11, "navy": 9, "blue": 9, "red": 9, "beige": 6, "green": 7, "olive": 5,
    "brown": 5, "pink": 6, "yellow": 5,
}  # fmt: skip
_BOTTOM_COLOURS = {
    "black": 24, "navy": 21, "grey": 15, "beige": 12, "blue": 13, "white": 5, "olive": 6, "brown": 4,
}  # fmt: skip
_SMALL_COLOURS = {
    "black": 22, "white": 14, "grey": 12, "brown": 10, "navy": 9, "red": 10, "blue": 8, "beige": 5,
    "green": 4, "pink": 3, "yellow": 3,
}  # fmt: skip
_TOP_CUTS = {"tshirt": 40, "shirt": 18, "sweater": 16, "jacket": 20, "vest": 6}
_TOP_PATTERNS = {"plain": 52, "stripes": 17, "pinstripes": 6, "checks": 11, "dots": 4, "block": 10}
_BOTTOM_CUTS = {"trousers": 62, "shorts": 24, "skirt": 14}
_BOTTOM_PATTERNS = {"plain": 78, "side": 14, "checks": 8}
_SLEEVES = {
    "tshirt": (0.22, 0.38),
    "shirt": (0.25, 1.0),
    "sweater": (1.0, 1.0),
    "jacket": (1.0, 1.0),
    "vest": (0.0, 0.0),
}
_LEGS = {"trousers": (0.92, 1.0), "shorts": (0.34, 0.52), "skirt": (0.36, 0.8)}
_SKINS = {(232, 196, 170): 30, (216, 172, 140): 32, (188, 140, 108): 20, (140, 98, 72): 12, (96, 66, 50): 6}
_HAIR_COLOURS = {(34, 28, 26): 50, (66, 46, 34): 26, (112, 80, 50): 12, (186, 152, 98): 5, (150, 148, 146): 7}
_HAIR_STYLES = {"short": 46, "bob": 14, "long": 18, "ponytail": 10, "bun": 5, "bald": 7}


@dataclass(frozen=True)
class Material:
    """A surface: its visible colour (0..255 each) and how much near-infrared light it returns (0..1)."""

    colour: Colour
    infrared: float


@dataclass(frozen=True)
class Garment:
    """One piece of clothing.

    Attributes:
        cut: ``tshirt``, ``shirt``, ``sweater``, ``jacket``, ``vest`` for a top; ``trousers``, ``shorts``,
            ``skirt`` below.
        cover: share of the arm or leg it covers, 0..1.
        main: what most of it is made of.
        second: colour of the pattern, of the block, or of the shirt under a jacket.
        pattern: ``plain``, ``stripes``, ``pinstripes``, ``checks``, ``dots``, ``block``; ``side`` on
            trousers.
        scale: width of one repeat of the pattern, as a share of the garment's length.
        ease: how loosely it sits, in metres around the limb.
        length: how far a top reaches below the hip joints, in metres.
    """

    cut: str
    cover: float
    main: Material
    second: Material
    pattern: str = "plain"
    scale: float = 0.1
    ease: float = 0.015
    length: float = 0.06


@dataclass(frozen=True)
class Print:
    """A ``disc``, ``square``, ``bar`` or ``wedge`` on a top's ``front``, its ``back`` or ``both``."""

    shape: str
    side: str
    size: float
    material: Material


@dataclass(frozen=True)
class Bag:
    """A ``backpack``, ``messenger`` or ``handbag``; ``side`` is 1 (the person's left) or -1 (right)."""

    kind: str
    side: int
    size: float
    material: Material


@dataclass(frozen=True)
class Head:
    """Hair style and colour, a ``hat`` (``none``, ``cap``, ``beanie``) and glasses."""

    hair: str
    hair_material: Material
    hat: str
    hat_material: Material
    glasses: bool


@dataclass(frozen=True)
class Body:
    """Build: ``height`` in metres; the others multiply the average person's proportion (1.0)."""

    height: float = 1.70
    shoulders: float = 1.0
    hips: float = 1.0
    girth: float = 1.0
    legs: float = 1.0
    head: float = 1.0


@dataclass(frozen=True)
class Identity:
    """Everything that makes a person look the same in every picture of them."""

    body: Body
    skin: Material
    head: Head
    top: Garment
    bottom: Garment
    shoes: Material
    soles: Material
    bag: Bag | None = None
    badge: Print | None = None


def random_identity(seed: int | tuple[int, ...]) -> Identity:
    """Dress a person from the shared wardrobe.

    Args:
        seed: the person; equal seeds give equal people, whatever was drawn before.

    Returns:
        The identity, ready for `render`.
    """
    rng = np.random.default_rng(seed)
    top = _top(rng)
    return Identity(
        body=_body(rng),
        skin=_skin(rng),
        head=_head(rng),
        top=top,
        bottom=_bottom(rng),
        shoes=_material(rng, _SMALL_COLOURS),
        soles=_material(rng, {"white": 5, "black": 4, "brown": 1}),
        bag=_bag(rng),
        badge=_badge(rng) if top.pattern in ("plain", "block") else None,
    )


def pick(rng: np.random.Generator, weights: Mapping[Choice, float]) -> Choice:
    """Draw one key with a chance in proportion to its weight."""
    edges = np.cumsum(list(weights.values()))
    return list(weights)[int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))]


def _material(rng: np.random.Generator, colours: Mapping[str, float]) -> Material:
    return _dyed(rng, PALETTE[pick(rng, colours)])


def _dyed(rng: np.random.Generator, colour: Colour) -> Material:
    """A batch of cloth: a little lighter or darker than the list, with an infrared reflectance of its own."""
    tone = 1 + 0.09 * rng.standard_normal()
    return Material(
        tuple(int(np.clip(c * tone, 12, 240)) for c in colour), round(float(rng.uniform(0.15, 0.9)), 3)
    )


def _body(rng: np.random.Generator) -> Body:
    height, shoulders, hips, girth, legs, head = rng.standard_normal(6).clip(-2, 2)
    return Body(
        height=round(1.69 + 0.08 * height, 3),
        shoulders=round(1 + 0.06 * shoulders, 3),
        hips=round(1 + 0.06 * hips, 3),
        girth=round(1.02 + 0.11 * girth, 3),
        legs=round(1 + 0.025 * legs, 3),
        head=round(1 + 0.04 * head, 3),
    )


def _skin(rng: np.random.Generator) -> Material:
    return Material(pick(rng, _SKINS), round(float(rng.uniform(0.55, 0.7)), 3))


def _head(rng: np.random.Generator) -> Head:
    hair = Material(pick(rng, _HAIR_COLOURS), round(float(rng.uniform(0.25, 0.5)), 3))
    return Head(
        hair=pick(rng, _HAIR_STYLES),
        hair_material=hair,
        hat=pick(rng, {"none": 84, "cap": 11, "beanie": 5}),
        hat_material=_material(rng, _SMALL_COLOURS),
        glasses=bool(rng.random() < 0.22),
    )


def _top(rng: np.random.Generator) -> Garment:
    cut = pick(rng, _TOP_CUTS)
    low, high = _SLEEVES[cut]
    # a shirt's sleeves are either short or long, never in between
    cover = float(rng.choice([low, high])) if cut == "shirt" else float(rng.uniform(low, high))
    pattern = "plain" if cut == "jacket" else pick(rng, _TOP_PATTERNS)
    return Garment(
        cut,
        round(cover, 3),
        _material(rng, _TOP_COLOURS),
        _material(rng, _TOP_COLOURS),
        pattern,
        scale=float(rng.choice([0.09, 0.13, 0.18])),
        ease=round(float(rng.uniform(0.008, 0.03)), 3),
        length=round(float(rng.uniform(0.02, 0.16)), 3),
    )


def _bottom(rng: np.random.Generator) -> Garment:
    cut = pick(rng, _BOTTOM_CUTS)
    return Garment(
        cut,
        round(float(rng.uniform(*_LEGS[cut])), 3),
        _material(rng, _BOTTOM_COLOURS),
        _material(rng, _SMALL_COLOURS),
        "plain" if cut == "skirt" else pick(rng, _BOTTOM_PATTERNS),
        scale=float(rng.choice([0.1, 0.15])),
        ease=round(float(rng.uniform(0.004, 0.035)), 3),
        length=0.0,
    )


def _bag(rng: np.random.Generator) -> Bag | None:
    kind = pick(rng, {"none": 46, "backpack": 24, "messenger": 15, "handbag": 15})
    side = int(rng.choice([-1, 1]))
    bag = Bag(kind, side, round(float(rng.uniform(0.85, 1.2)), 3), _material(rng, _SMALL_COLOURS))
    return None if kind == "none" else bag


def _badge(rng: np.random.Generator) -> Print | None:
    shape, side = (
        pick(rng, {"disc": 3, "square": 3, "bar": 3, "wedge": 2}),
        pick(rng, {"front": 5, "back": 2, "both": 3}),
    )
    badge = Print(
        shape,
        side,
        round(float(rng.uniform(0.6, 1.3)), 3),
        _material(rng, _TOP_COLOURS | {"red": 15, "yellow": 12}),
    )
    return badge if rng.random() < 0.65 else None
