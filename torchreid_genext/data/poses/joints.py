"""Body poses as 18 OpenPose joints, COCO's 17 keypoints with their confidences, and who is meant.

A pose is an (18, 2) array of (y, x) pixels; -1 in either coordinate means that the joint is missing.
COCO has no neck; here it is the middle of the shoulders, as usual where such joints are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "COCO_JOINTS", "JOINTS", "LIMBS", "Person", "are_shares", "checked_pose", "chosen_pose", "from_coco",
    "marked", "present", "single_pose", "to_coco",
]  # fmt: skip

JOINTS = (
    "nose",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
)
LIMBS = (
    (1, 2),
    (1, 5),
    (2, 3),
    (3, 4),
    (5, 6),
    (6, 7),
    (1, 8),
    (8, 9),
    (9, 10),
    (1, 11),
    (11, 12),
    (12, 13),
    (1, 0),
    (0, 14),
    (14, 16),
    (0, 15),
    (15, 17),
)
# OpenPose walks around the colour wheel, one step a joint
COCO_JOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee",
    "left_ankle", "right_ankle",
)  # fmt: skip

_NECK = JOINTS.index("neck")
_SHOULDERS = JOINTS.index("right_shoulder"), JOINTS.index("left_shoulder")
_OURS = [joint for joint in range(len(JOINTS)) if joint != _NECK]
_THEIRS = [COCO_JOINTS.index(JOINTS[joint]) for joint in _OURS]
_OF_A_SHARE = 2.0  # nobody is two pixels small, but joints may lie a little outside of the image
_FARTHEST = 2**53  # pixels; whole numbers beyond are not exact any more


def checked_pose(pose: ArrayLike) -> np.ndarray:
    """A pose as an array.

    Raises:
        ValueError: if its shape is not (18, 2).
    """
    points = np.asarray(pose)
    if points.shape != (len(JOINTS), 2):
        raise ValueError(f"expected a pose of shape ({len(JOINTS)}, 2), got {points.shape}")
    return points


def from_coco(keypoints: ArrayLike, *, confidence: float = 0.0) -> np.ndarray:
    """Poses of COCO's 17 keypoints; the neck is there where both shoulders are.

    Args:
        keypoints: (..., 17, 3) of x and y in pixels, and visibility or confidence.
        confidence: joints with no more than this are missing, and so are those left of or above the image.

    Returns:
        (..., 18, 2) float of (y, x), -1 missing.

    Raises:
        ValueError: if the shape is another.
    """
    points = np.asarray(keypoints, float)
    if points.shape[-2:] != (len(COCO_JOINTS), 3):
        raise ValueError(f"expected keypoints of shape (..., {len(COCO_JOINTS)}, 3), got {points.shape}")
    poses = np.full((*points.shape[:-2], len(JOINTS), 2), -1.0)
    poses[..., _OURS, :] = present(points[..., _THEIRS, :], confidence)
    right, left = (poses[..., joint, :] for joint in _SHOULDERS)
    both = ((right != -1) & (left != -1)).all(axis=-1, keepdims=True)
    poses[..., _NECK, :] = np.where(both, (right + left) / 2, -1)
    return poses


def to_coco(poses: ArrayLike) -> np.ndarray:
    """COCO's 17 keypoints of poses; the neck is lost.

    Args:
        poses: (..., 18, 2) of (y, x) pixels, -1 missing.

    Returns:
        (..., 17, 3) float of x, y and visibility, which is 2; all three are 0 where the joint is missing.

    Raises:
        ValueError: if the shape is another.
    """
    points = np.asarray(poses, float)
    if points.shape[-2:] != (len(JOINTS), 2):
        raise ValueError(f"expected poses of shape (..., {len(JOINTS)}, 2), got {points.shape}")
    keypoints = np.empty((*points.shape[:-2], len(COCO_JOINTS), 3))
    keypoints[..., _THEIRS, :] = marked(points, 2.0)[..., _OURS, :]
    return keypoints


def present(keypoints: np.ndarray, confidence: float) -> np.ndarray:
    """Joints (..., 2) of (y, x), of keypoints (..., 3) of x, y, confidence: -1 if unsure or outside."""
    there = (keypoints[..., 2] > confidence) & (keypoints[..., :2] >= 0).all(axis=-1)
    return np.where(there[..., None], keypoints[..., 1::-1], -1.0)


def marked(joints: np.ndarray, mark: float) -> np.ndarray:
    """Keypoints (..., 3) of x, y, mark, of joints (..., 2) of (y, x); 0 where one is missing."""
    there = (joints != -1).all(axis=-1, keepdims=True)
    return np.where(
        there, np.concatenate([joints[..., ::-1], np.full_like(there, mark, float)], axis=-1), 0.0
    )


def single_pose(name: str, pose: ArrayLike) -> np.ndarray:
    """The pose (18, 2) of an image, or an error that names it."""
    joints = np.asarray(pose, float)
    if joints.shape != (len(JOINTS), 2):
        raise ValueError(f"expected a pose of shape ({len(JOINTS)}, 2) of {name}, got {joints.shape}")
    if not (np.abs(joints) < _FARTHEST).all():
        raise ValueError(f"expected joints of {name} in pixels, -1 where missing, got NaN or infinity")
    return joints


def are_shares(places: ArrayLike, where: str) -> bool:
    """Whether places are shares of an image and not pixels, which nothing but their size gives away.

    Args:
        places: (M, 2) of all joints in a file that are there.
        where: names the file in errors.

    Raises:
        ValueError: if most are shares, and some are not.
    """
    places = np.asarray(places, float).reshape(-1, 2)
    small = (np.abs(places) < _OF_A_SHARE).all(axis=1)
    if len(places) / 2 < small.sum() < len(places):
        far = places[~small][0].tolist()
        raise ValueError(f"expected pixels, or shares of the image, in {where}, got most in 0..1, and {far}")
    return bool(len(places) and small.all())


@dataclass(frozen=True, eq=False)
class Person:
    """Somebody in an image.

    Attributes:
        pose: (18, 2) of (y, x) pixels, -1 missing.
        score: how sure it is that this is somebody.
    """

    pose: np.ndarray
    score: float

    @property
    def extent(self) -> float:
        """Area of the box around the joints, in square pixels."""
        there = self.pose[(self.pose != -1).all(axis=1)]
        return float(np.ptp(there, axis=0).prod()) if len(there) else 0.0


def chosen_pose(people: Sequence[Person]) -> np.ndarray:
    """Of those with the best score the pose of the largest; all joints are missing where nobody is."""
    if not people:
        return np.full((len(JOINTS), 2), -1.0)
    return max(people, key=lambda person: (person.score, person.extent)).pose
