"""The jointed body: where the 18 OpenPose joints of a walking or standing person are, in three dimensions.

Body coordinates are metres: *left* (towards the person's own left), *up* (from the ground) and *ahead* (where
the person faces). A `Projection` turns them by the view's yaw and the camera's pitch and drops the depth, so
that what is near stays as large as what is far: at the distance of a surveillance camera the difference is
small.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

from torchreid_genext.data.synthetic.people import Body

Point = tuple[float, float, float]

# Joints of the face by their number in poses.JOINTS: angle around the head, from ahead to the person's left.
FACE = {0: 0.0, 14: -0.5, 15: 0.5, 16: -1.65, 17: 1.65}

# Heights and lengths as shares of the body's height.
_ANKLE, _KNEE, _HIP, _SHOULDER, _HEAD = 0.045, 0.275, 0.515, 0.815, 0.925
_HIP_WIDTH, _SHOULDER_WIDTH = 0.054, 0.108
_UPPER_ARM, _FOREARM = 0.168, 0.148


@dataclass(frozen=True)
class Pose:
    """A moment of a person's movement.

    Attributes:
        phase: place in the walking cycle, 0..1; the right heel strikes at 0, the left one at 0.5.
        stride: 0 stands still, 1 walks briskly.
        left_arm, right_arm: how far the forearm is lifted towards the chest, 0 (hanging) .. 1 (looking at a
            phone).
        lean: how far the trunk bends forward, in degrees.
        head_turn: where the head looks, in degrees to the person's left.
    """

    phase: float = 0.0
    stride: float = 0.0
    left_arm: float = 0.0
    right_arm: float = 0.0
    lean: float = 2.0
    head_turn: float = 0.0


@dataclass(frozen=True)
class View:
    """How the camera sees the person.

    Attributes:
        yaw: degrees; 0 faces the camera, 90 walks to the right of the image, 180 walks away.
        zoom: 1 fits the whole person into the crop, 2 shows half of them.
        shift: how far the crop's centre moves (right, down), as a share of the crop's width and height.
    """

    yaw: float = 0.0
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Skeleton:
    """Joints and the few other points that clothes hang on, in body coordinates (left, up, ahead)."""

    joints: tuple[Point, ...]  # in the order of poses.JOINTS
    head: Point
    pelvis: Point
    chest: Point
    heels: tuple[Point, Point]  # right, left
    toes: tuple[Point, Point]
    hands: tuple[Point, Point]
    head_turn: float  # radians


class Projection:
    """Maps body coordinates to (x, y) on the canvas and a depth that grows towards the camera."""

    def __init__(
        self, yaw: float, pitch: float, origin: tuple[float, float], scale: tuple[float, float]
    ) -> None:
        """Args: yaw, pitch: degrees; origin: canvas point under the body; scale: (x, y) pixels per metre."""
        self.yaw = math.radians(yaw)
        self._cos, self._sin = math.cos(self.yaw), math.sin(self.yaw)
        self._tilt_cos, self._tilt_sin = math.cos(math.radians(pitch)), math.sin(math.radians(pitch))
        self.origin, self.scale = origin, scale

    def turned(self, centre: Point, turn: float) -> Projection:
        """The same view of something that is turned by `turn` radians about its own upright axis."""
        view = copy.copy(self)
        view.yaw = self.yaw + turn
        view._cos, view._sin = math.cos(view.yaw), math.sin(view.yaw)
        view.origin = self(centre[0], 0.0, centre[2])[:2]
        return view

    def __call__(self, left: float, up: float, ahead: float) -> Point:
        near = ahead * self._cos - left * self._sin
        x = self.origin[0] + self.scale[0] * (left * self._cos + ahead * self._sin)
        y = self.origin[1] - self.scale[1] * (up * self._tilt_cos - near * self._tilt_sin)
        return x, y, near * self._tilt_cos + up * self._tilt_sin

    def vector(self, left: float, ahead: float) -> tuple[float, float]:
        """How a level displacement looks on the canvas."""
        near = ahead * self._cos - left * self._sin
        return self.scale[0] * (left * self._cos + ahead * self._sin), self.scale[1] * near * self._tilt_sin

    def near(self, left: float, up: float, ahead: float) -> float:
        """How far in front of the body's axis a point lies, in metres, whatever its height."""
        return ahead * self._cos - left * self._sin


def skeleton(body: Body, pose: Pose) -> Skeleton:
    """Place the joints of a person in a pose.

    Args:
        body: the person's build.
        pose: the moment.

    Returns:
        All points in body coordinates, with the lower foot on the ground.
    """
    height = body.height
    right_leg, left_leg = (_leg(body, pose, side) for side in (-1, 1))
    sink = min(
        right_leg[3][1], left_leg[3][1], right_leg[2][1] - _ANKLE * height, left_leg[2][1] - _ANKLE * height
    )
    right_leg, left_leg = (tuple(_raised(p, -sink) for p in leg) for leg in (right_leg, left_leg))
    hip = (0.0, _HIP * height * body.legs - sink, 0.0)
    trunk = (_SHOULDER - _HIP) * height
    bend = math.radians(pose.lean)
    chest = (0.0, hip[1] + trunk * math.cos(bend), trunk * math.sin(bend))
    right_arm, left_arm = (_arm(body, pose, chest, side) for side in (-1, 1))
    head = (0.0, chest[1] + (_HEAD - _SHOULDER) * height, chest[2] + 0.012 * height + 0.25 * chest[2])
    turn = math.radians(pose.head_turn)
    face = _face(head, body, turn)
    joints = (face[0], chest, *right_arm[:3], *left_arm[:3], *right_leg[:3], *left_leg[:3], *face[1:])
    return Skeleton(
        joints,
        head,
        hip,
        chest,
        (right_leg[4], left_leg[4]),
        (right_leg[3], left_leg[3]),
        (right_arm[3], left_arm[3]),
        turn,
    )


def head_radii(body: Body) -> Point:
    """Half axes of the head: across, up, ahead."""
    size = body.height * body.head
    return 0.046 * size, 0.068 * size, 0.056 * size


def _raised(point: Point, up: float) -> Point:
    return point[0], point[1] + up, point[2]


def _swing(point: Point, length: float, angle: float) -> Point:
    """The far end of a bone that hangs from `point`, swung `angle` radians ahead."""
    return point[0], point[1] - length * math.cos(angle), point[2] + length * math.sin(angle)


def _leg(body: Body, pose: Pose, side: int) -> tuple[Point, Point, Point, Point, Point]:
    """Hip, knee, ankle, toe, heel; the pelvis at its standing height."""
    height, long = body.height, body.height * body.legs
    phase = pose.phase + (0.5 if side > 0 else 0.0)
    thigh = math.radians(4 + 25 * math.cos(2 * math.pi * phase)) * pose.stride
    # the knee folds most while the leg swings through, and gives a little when the heel takes the weight
    knee = math.radians(6 + 56 * _bump(phase, 0.74, 0.11) + 10 * _bump(phase, 0.14, 0.08)) * pose.stride
    hip = (side * _HIP_WIDTH * height * body.hips, _HIP * long, 0.0)
    knee_at = _swing(hip, (_HIP - _KNEE) * long, thigh)
    ankle = _swing(knee_at, (_KNEE - _ANKLE) * long, thigh - knee)
    splay = side * 0.03 * (1.6 - pose.stride)
    ankle = (ankle[0] + 0.3 * splay, ankle[1], ankle[2])
    tip = 0.55 * (thigh - knee) + 0.25 * pose.stride * _bump(phase, 0.0, 0.08)
    toe = _foot(ankle, 0.082 * height, tip, splay, height)
    heel = _foot(ankle, -0.03 * height, tip, -0.2 * splay, height)
    return hip, knee_at, ankle, toe, heel


def _foot(ankle: Point, ahead: float, tip: float, splay: float, height: float) -> Point:
    drop = 0.028 * height
    return (
        ankle[0] + splay,
        ankle[1] - drop * math.cos(tip) + ahead * math.sin(tip),
        ankle[2] + ahead * math.cos(tip) + drop * math.sin(tip),
    )


def _arm(body: Body, pose: Pose, chest: Point, side: int) -> tuple[Point, Point, Point, Point]:
    """Shoulder, elbow, wrist, hand; arms swing against the leg of their side."""
    height = body.height
    lift = pose.left_arm if side > 0 else pose.right_arm
    swing = -math.cos(2 * math.pi * (pose.phase + (0.5 if side > 0 else 0.0))) * pose.stride * (1 - lift)
    shoulder = (side * _SHOULDER_WIDTH * height * body.shoulders, chest[1] - 0.012 * height, chest[2])
    upper = math.radians(22 * swing + 14 * lift)
    elbow = _swing(shoulder, _UPPER_ARM * height, upper)
    elbow = (elbow[0] + side * 0.022 * height * body.girth, elbow[1], elbow[2])
    lower = upper + math.radians(10 + 16 * max(swing, 0.0) + 98 * lift)
    wrist = _swing(elbow, _FOREARM * height, lower)
    wrist = (wrist[0] - side * (0.004 + 0.06 * lift) * height, wrist[1], wrist[2])
    hand = _swing(wrist, 0.045 * height, lower)
    return shoulder, elbow, wrist, hand


def _face(head: Point, body: Body, turn: float) -> tuple[Point, Point, Point, Point, Point]:
    """Nose, right eye, left eye, right ear, left ear on the head's surface."""
    across, up, ahead = head_radii(body)

    def at(angle: float, height: float, out: float) -> Point:
        angle += turn
        return (
            head[0] + out * across * math.sin(angle),
            head[1] + height * up,
            head[2] + out * ahead * math.cos(angle),
        )

    return (
        at(FACE[0], -0.12, 1.05),
        at(FACE[14], 0.1, 0.95),
        at(FACE[15], 0.1, 0.95),
        at(FACE[16], 0.0, 1.0),
        at(FACE[17], 0.0, 1.0),
    )


def _bump(phase: float, centre: float, width: float) -> float:
    """A smooth hill on the walking cycle."""
    away = (phase - centre + 0.5) % 1.0 - 0.5
    return math.exp(-((away / width) ** 2))
