"""The jointed body: proportions, walking, and how a view turns and tilts it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from torchreid_genext.data.poses import JOINTS
from torchreid_genext.data.synthetic.body import Pose, Projection, Skeleton, skeleton
from torchreid_genext.data.synthetic.people import Body

PHASES = [i / 16 for i in range(16)]


def joint(bones: Skeleton, name: str) -> np.ndarray:
    return np.array(bones.joints[JOINTS.index(name)])


def distance(bones: Skeleton, first: str, second: str) -> float:
    return float(np.linalg.norm(joint(bones, first) - joint(bones, second)))


@pytest.mark.parametrize("side", ["left", "right"])
def test_thighs_and_shins_keep_their_length_in_every_phase(side: str) -> None:
    walking = [skeleton(Body(), Pose(phase, stride=1.0)) for phase in PHASES]
    thighs = [distance(bones, f"{side}_hip", f"{side}_knee") for bones in walking]
    assert np.ptp(thighs) < 1e-9
    # splayed feet may lengthen the shin by a few millimetres
    assert np.ptp([distance(bones, f"{side}_knee", f"{side}_ankle") for bones in walking]) < 5e-3


@pytest.mark.parametrize("stride", [0.0, 0.5, 1.0])
def test_the_lower_foot_stands_on_the_ground(stride: float) -> None:
    for phase in PHASES:
        bones = skeleton(Body(), Pose(phase, stride))
        lowest = min(
            p[1] for p in (*bones.toes, *(joint(bones, f"{side}_ankle") for side in ("left", "right")))
        )
        assert -1e-9 <= lowest <= 0.05 * Body().height


def test_half_a_cycle_later_left_and_right_have_changed_places() -> None:
    now, later = skeleton(Body(), Pose(0.2, 1.0)), skeleton(Body(), Pose(0.7, 1.0))
    for part in ("knee", "ankle", "elbow", "wrist"):
        mirrored = joint(later, f"left_{part}") * [-1, 1, 1]
        np.testing.assert_allclose(joint(now, f"right_{part}"), mirrored, atol=1e-9)


def test_arms_swing_against_the_legs() -> None:
    bones = skeleton(Body(), Pose(phase=0.0, stride=1.0))
    assert joint(bones, "right_ankle")[2] > 0 > joint(bones, "left_ankle")[2]
    assert joint(bones, "right_wrist")[2] < joint(bones, "left_wrist")[2]


def test_lifted_arm_brings_the_wrist_to_the_chest() -> None:
    bones = skeleton(Body(), Pose(right_arm=1.0))
    assert joint(bones, "right_wrist")[1] > joint(bones, "right_elbow")[1]
    assert joint(bones, "right_wrist")[2] > 0.15 > joint(bones, "left_wrist")[2]


def test_taller_body_has_longer_bones_everywhere() -> None:
    small, tall = skeleton(Body(height=1.6), Pose()), skeleton(Body(height=1.92), Pose())
    np.testing.assert_allclose(np.array(tall.joints)[:, 1], 1.2 * np.array(small.joints)[:, 1], rtol=0.02)


def test_head_turn_moves_the_nose_to_that_side() -> None:
    assert joint(skeleton(Body(), Pose(head_turn=40)), "nose")[0] > 0.03
    assert abs(joint(skeleton(Body(), Pose()), "nose")[0]) < 1e-9


def test_projection_follows_the_compass() -> None:
    """A point one metre ahead: at the camera, to the right, away, to the left."""
    seen = [Projection(yaw, 0, (0, 0), (1, 1))(0, 0, 1) for yaw in (0, 90, 180, 270)]
    np.testing.assert_allclose([x for x, _, _ in seen], [0, 1, 0, -1], atol=1e-9)
    np.testing.assert_allclose([near for _, _, near in seen], [1, 0, -1, 0], atol=1e-9)


def test_left_hand_is_on_the_right_of_a_picture_from_the_front() -> None:
    assert Projection(0, 0, (0, 0), (1, 1))(1, 0, 0)[0] == 1


def test_projection_equals_rotation_matrices() -> None:
    yaw, pitch, point = 33.0, 12.0, np.array([0.3, 1.2, -0.4])
    a, b = math.radians(yaw), math.radians(pitch)
    turn = np.array([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
    tilt = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    x, up, near = tilt @ turn @ point
    found = Projection(yaw, pitch, (5, 7), (2, 3))(*point)
    np.testing.assert_allclose(found, (5 + 2 * x, 7 - 3 * up, near), atol=1e-12)


def test_vector_is_the_difference_of_two_projected_points() -> None:
    view = Projection(70, 15, (3, 4), (2, 5))
    there, here = view(0.5, 1.0, -0.2), view(0.1, 1.0, 0.4)
    np.testing.assert_allclose(view.vector(0.4, -0.6), np.subtract(there, here)[:2], atol=1e-12)
