"""COCO's joints and ours, and who is meant among several people."""

from __future__ import annotations

import numpy as np
import pytest

from torchreid_genext.data.poses import JOINTS
from torchreid_genext.data.poses.joints import COCO_JOINTS, Person, chosen_pose, from_coco, to_coco

NECK = JOINTS.index("neck")


def some_keypoints(*missing: str) -> np.ndarray:
    """COCO's 17 joints as x, y, confidence."""
    random = np.random.default_rng(0)
    points = np.concatenate([random.uniform(0, 64, (17, 2)), random.uniform(0.1, 1, (17, 1))], axis=1)
    points[[COCO_JOINTS.index(name) for name in missing]] = 0
    return points


def test_joints_keep_their_names() -> None:
    points = some_keypoints("left_knee")
    pose = from_coco(points)
    for name, (x, y, confidence) in zip(COCO_JOINTS, points):
        assert tuple(pose[JOINTS.index(name)]) == ((y, x) if confidence else (-1, -1)), name


def test_neck_is_the_middle_of_the_shoulders_where_both_are_there() -> None:
    pose = from_coco(some_keypoints())
    right, left = (pose[JOINTS.index(f"{side}_shoulder")] for side in ("right", "left"))
    np.testing.assert_allclose(pose[NECK], [(right[0] + left[0]) / 2, (right[1] + left[1]) / 2])
    for name in ("right_shoulder", "left_shoulder"):
        assert from_coco(some_keypoints(name))[NECK].tolist() == [-1, -1]


def test_way_back_loses_only_the_confidence_and_the_neck() -> None:
    points = some_keypoints("nose", "left_wrist")
    back = to_coco(from_coco(points))
    np.testing.assert_allclose(back[:, :2], points[:, :2])
    assert back[:, 2].tolist() == [2.0 * bool(c) for c in points[:, 2]]
    np.testing.assert_allclose(from_coco(back), from_coco(points))


def test_batches_equal_their_members() -> None:
    batch = np.stack([some_keypoints(), some_keypoints("nose", "right_shoulder")])
    np.testing.assert_array_equal(from_coco(batch), [from_coco(points) for points in batch])
    poses = from_coco(batch)
    np.testing.assert_array_equal(to_coco(poses), [to_coco(pose) for pose in poses])


def test_unsure_joints_and_those_outside_are_missing() -> None:
    points = some_keypoints()
    points[COCO_JOINTS.index("nose"), 2] = 0.3
    points[COCO_JOINTS.index("left_eye"), 0] = -2
    pose = from_coco(points, confidence=0.3)
    expected = {"nose", "left_eye"} | {name for name, point in zip(COCO_JOINTS, points) if point[2] <= 0.3}
    assert {JOINTS[j] for j in np.flatnonzero(pose[:, 0] == -1)} - {"neck"} == expected


def test_joint_with_one_coordinate_missing_is_missing() -> None:
    pose = from_coco(some_keypoints())
    pose[JOINTS.index("nose"), 1] = -1
    assert to_coco(pose)[0].tolist() == [0, 0, 0]


def test_other_numbers_of_joints_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(..., 17, 3\), got \(18, 3\)"):
        from_coco(np.zeros((18, 3)))
    with pytest.raises(ValueError, match=r"shape \(..., 18, 2\), got \(17, 2\)"):
        to_coco(np.zeros((17, 2)))


def test_best_score_is_chosen_then_the_largest_then_the_first() -> None:
    small, large = (np.full((18, 2), -1.0) for _ in range(2))
    small[:2], large[:2] = [(0, 0), (9, 9)], [(0, 0), (20, 10)]
    assert chosen_pose([Person(large, 1.0), Person(small, 2.0)]) is small
    assert chosen_pose([Person(small, 1.0), Person(large, 1.0)]) is large
    assert chosen_pose([Person(large, 1.0), Person(large.copy(), 1.0)]) is large
    assert (chosen_pose([]) == -1).all()
