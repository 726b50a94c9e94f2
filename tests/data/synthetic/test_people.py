"""The wardrobe: repeatable people, shared garments, infrared that colour does not tell."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from torchreid_genext.data.synthetic.people import PALETTE, pick, random_identity

CROWD = [random_identity((1, i)) for i in range(400)]


def nearest_colour(colour: tuple[int, int, int]) -> str:
    return min(
        PALETTE, key=lambda name: sum((a - b) ** 2 for a, b in zip(PALETTE[name], colour, strict=True))
    )


def test_a_seed_is_a_person() -> None:
    assert random_identity((1, 5)) == CROWD[5] != random_identity((2, 5))


def test_no_two_of_a_crowd_are_the_same() -> None:
    assert len(set(CROWD)) == len(CROWD)


def test_many_share_colour_and_cut_of_both_garments() -> None:
    outfits = Counter(
        (p.top.cut, nearest_colour(p.top.main.colour), p.bottom.cut, nearest_colour(p.bottom.main.colour))
        for p in CROWD
    )
    shared = sum(count for count in outfits.values() if count > 1)
    assert shared > 0.4 * len(CROWD)


def test_infrared_reflectance_does_not_follow_the_visible_colour() -> None:
    brightness = [sum(p.top.main.colour) for p in CROWD]
    assert abs(np.corrcoef(brightness, [p.top.main.infrared for p in CROWD])[0, 1]) < 0.15


def test_colours_and_reflectances_are_within_range() -> None:
    for person in CROWD:
        for material in (person.skin, person.top.main, person.top.second, person.bottom.main, person.shoes):
            assert all(0 <= channel <= 255 for channel in material.colour) and 0 <= material.infrared <= 1


@pytest.mark.parametrize("kind", ["backpack", "messenger", "handbag"])
def test_every_kind_of_bag_is_carried(kind: str) -> None:
    assert any(p.bag is not None and p.bag.kind == kind for p in CROWD)


def test_pick_follows_the_weights() -> None:
    rng = np.random.default_rng(0)
    drawn = Counter(pick(rng, {"a": 6, "b": 3, "c": 1, "never": 0}) for _ in range(4000))
    assert drawn["never"] == 0
    np.testing.assert_allclose([drawn[k] / 4000 for k in "abc"], [0.6, 0.3, 0.1], atol=0.03)
