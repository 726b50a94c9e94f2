"""Drawing: silhouettes and patches of tubes, and the three layers under one brush."""

from __future__ import annotations

import math

import numpy as np
import pytest

from torchreid_genext.data.synthetic.body import Projection
from torchreid_genext.data.synthetic.canvas import Canvas, Tube
from torchreid_genext.data.synthetic.cloth import mix, upright
from torchreid_genext.data.synthetic.people import Material

RED = Material((200, 0, 0), 0.5)
ACROSS, AHEAD = 3.0, 1.0


def ellipse_tube(yaw: float) -> Tube:
    """A column ten high, 3 wide and 1 deep (half axes), seen from the front of a level camera."""
    view = Projection(yaw, 0, (0.0, 10.0), (1.0, 1.0))
    return upright(view, (0.0, 0.0, 0.0), [(0.0, 10.0, ACROSS, AHEAD), (1.0, 0.0, ACROSS, AHEAD)], 1.0)


def canvas() -> Canvas:
    return Canvas(40, 20, lambda material: material.colour, 0.0)


@pytest.mark.parametrize("yaw", [0, 30, 77, 90, 145, 180, 260, 333])
def test_silhouette_is_as_wide_as_the_ellipse_looks(yaw: int) -> None:
    half = math.hypot(ACROSS * math.cos(math.radians(yaw)), AHEAD * math.sin(math.radians(yaw)))
    outline = np.array(ellipse_tube(yaw).outline())
    np.testing.assert_allclose([outline[:, 0].min(), outline[:, 0].max()], [-half, half], atol=1e-9)
    np.testing.assert_allclose([outline[:, 1].min(), outline[:, 1].max()], [0, 10], atol=1e-9)


@pytest.mark.parametrize(("yaw", "shown"), [(0, True), (60, True), (120, False), (180, False), (300, True)])
def test_patch_on_the_chest_is_seen_from_the_front_only(yaw: int, shown: bool) -> None:
    assert bool(ellipse_tube(yaw).patch(-0.1, 0.1, 0.2, 0.4)) == shown == ellipse_tube(yaw).faces(0.0, 0.3)


def test_patch_on_the_back_is_found_whichever_way_its_angle_is_written() -> None:
    tube = ellipse_tube(180)
    first, second = (
        tube.patch(math.pi - 0.2, math.pi + 0.2, 0, 1),
        tube.patch(-math.pi - 0.2, 0.2 - math.pi, 0, 1),
    )
    np.testing.assert_allclose(first, second, atol=1e-9)
    assert len(first) == 4


def test_patch_at_the_edge_is_cut_by_the_silhouette() -> None:
    tube = ellipse_tube(0)
    patch = np.array(tube.patch(1.2, 2.5, 0, 1))
    np.testing.assert_allclose(patch[:, 0].max(), ACROSS, atol=1e-9)
    np.testing.assert_allclose(patch[:, 0].min(), ACROSS * math.sin(1.2), atol=1e-9)


def test_tube_between_its_sections_is_interpolated() -> None:
    view = Projection(0, 0, (0, 0), (1, 1))
    tube = upright(
        view, (0.0, 0.0, 0.0), [(0.0, 0.0, 1.0, 1.0), (0.5, -2.0, 3.0, 1.0), (1.0, -4.0, 0.0, 0.0)], 2.0
    )
    np.testing.assert_allclose(tube.spot(math.pi / 2, 0.25), (4.0, 2.0), atol=1e-9)


def test_shape_covers_colour_and_parts_and_a_mark_the_colour_only() -> None:
    paper = canvas()
    paper.shape(5, [(10, 5), (30, 5), (30, 15), (10, 15)], RED)
    paper.mark([(15, 8), (25, 8), (25, 12), (15, 12)], Material((0, 200, 0), 0.5))
    assert (paper.part_at(20, 10), paper.part_at(12, 6), paper.part_at(2, 2)) == (5, 5, 0)
    colour, alpha = paper.flatten(1)
    assert colour[10, 20].argmax() == 1 and colour[6, 12].argmax() == 0
    assert alpha[10, 20] == 1 and alpha[2, 2] == 0 and colour[2, 2].sum() == 0


@pytest.mark.parametrize("spot", [(-1, 5), (40, 5), (5, -0.6), (5, 20)])
def test_outside_the_canvas_is_no_part(spot: tuple[float, float]) -> None:
    assert canvas().part_at(*spot) == -1


def test_limb_is_brighter_in_the_middle_than_at_the_edge() -> None:
    paper = canvas()
    paper.limb(3, (5, 10, 0), (35, 10, 0), (6, 6), RED)
    colour, _ = paper.flatten(1)
    assert colour[10, 20, 0] > 1.2 * colour[5, 20, 0] > 0


def test_hem_cuts_the_far_end_straight() -> None:
    for hem, part in ((False, 3), (True, 0)):
        paper = canvas()
        paper.limb(3, (10, 10, 0), (25, 10, 0), (5, 5), RED, hem=hem)
        assert paper.part_at(28, 10) == part and paper.part_at(6, 10) == 3


def test_mix_blends_colour_and_infrared() -> None:
    assert mix(RED, Material((100, 100, 0), 0.1), 0.25) == Material((175, 25, 0), 0.4)
