"""Standard poses of a data set itself: its own poses, clustered, and one of each cluster.

Poses are first moved and scaled onto the mean pose, each by the joints that it has, since crops cut people
differently. How far a pose is from a cluster is then told by the places of its joints, and by the joints that
only one of the two shows: a back has no eyes. K-means with both finds the clusters, from several beginnings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from torchreid_genext.data.poses.joints import single_pose

__all__ = ["aligned", "choose_poses"]

_FEWEST_JOINTS = 4  # of a pose that can be told from others
_HIDDEN = 0.25  # what a joint counts that only one of two poses shows, in squares of the people's size
_ALIGNMENTS, _STARTS, _ROUNDS = 5, 8, 100


def choose_poses(
    poses: Mapping[str, ArrayLike], count: int, *, size: tuple[int, int] | None = None, seed: int = 0
) -> list[str]:
    """Choose poses that stand for all poses of a data set.

    Args:
        poses: file name to (18, 2) array of (y, x) pixels, -1 missing. Those of less than four joints are not
            chosen; their order does not matter.
        count: how many.
        size: (height, width) of the images; joints outside of them count as missing, as in annotations with
            the true place of hidden joints. None takes all.
        seed: of the beginnings of clusters.

    Returns:
        File names, each the pose nearest to the middle of its cluster, that of the largest cluster first.

    Raises:
        ValueError: if a pose is not (18, 2), or there are not as many different usable poses.
    """
    names = sorted(poses)
    joints = np.array([_inside(single_pose(name, poses[name]), size) for name in names]).reshape(-1, 18, 2)
    usable = (joints != -1).all(axis=2).sum(axis=1) >= _FEWEST_JOINTS
    different = len(np.unique(joints[usable], axis=0))
    if not 1 <= count <= different:
        raise ValueError(f"expected count in 1..{different}, the different usable poses, got {count}")
    names = [name for name, fit in zip(names, usable) if fit]
    clusters = _clusters(_Points.of(joints[usable]), count, np.random.default_rng(seed))
    return [names[member] for member in clusters]


def aligned(joints: np.ndarray) -> np.ndarray:
    """Poses moved and scaled onto their mean pose.

    Args:
        joints: (N, 18, 2) of (y, x), -1 missing; at least two joints a pose.

    Returns:
        (N, 18, 2) without unit, NaN where a joint is missing.
    """
    there = (joints != -1).all(axis=2, keepdims=True)
    weights = there / there.sum(axis=1, keepdims=True)
    centred = joints - (weights * joints).sum(axis=1, keepdims=True)
    spread = (weights * centred**2).sum(axis=(1, 2), keepdims=True)
    moved = centred / np.sqrt(np.maximum(spread, 1e-12))
    for _ in range(_ALIGNMENTS):
        mean = _unit((there * moved).sum(axis=0) / np.maximum(there.sum(axis=0), 1), there.any(axis=0))
        middle = (weights * mean).sum(axis=1, keepdims=True)
        fit = (weights * centred * (mean - middle)).sum(axis=(1, 2), keepdims=True)
        moved = centred * np.maximum(fit, 1e-6) / np.maximum(spread, 1e-12) + middle
    return np.where(there, moved, np.nan)


def _inside(pose: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    outside = (pose == -1).any(axis=1)
    if size is not None:
        outside |= ((pose < -0.5) | (pose > np.array(size) - 0.5)).any(axis=1)
    return np.where(outside[:, None], -1.0, pose)


def _unit(mean: np.ndarray, known: np.ndarray) -> np.ndarray:
    """A pose around 0 and of size 1, without which poses would shrink together."""
    centred = mean - mean[known[:, 0]].mean(axis=0)
    return centred / np.sqrt((centred[known[:, 0]] ** 2).sum(axis=1).mean())


@dataclass(frozen=True)
class _Points:
    """Joints (N, 36), 0 where missing; whether they are there, and their weights in a pose, (N, 18)."""

    joints: np.ndarray
    there: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, poses: np.ndarray) -> _Points:
        joints = aligned(poses)
        there = ~np.isnan(joints[..., 0])
        places = np.nan_to_num(joints).reshape(len(poses), -1)
        return cls(places, there.astype(float), there / there.sum(axis=1, keepdims=True))

    @cached_property
    def weighted(self) -> np.ndarray:
        return self.joints * self.weights.repeat(2, axis=1)

    @cached_property
    def squares(self) -> np.ndarray:
        """What is left of the distance to a cluster at 0 that shows no joint."""
        return (self.weighted * self.joints).sum(axis=1) + _HIDDEN * self.there.mean(axis=1)

    def distances(self, members: np.ndarray) -> np.ndarray:
        """Of all poses to the middles of some groups of them, (K, N).

        Args:
            members: (K, N) float, 1 where a pose belongs to a group.
        """
        total = np.maximum(members @ self.weights, 1e-12)
        middles = members @ self.weighted / total.repeat(2, axis=1)
        shown = members @ self.there / members.sum(axis=1, keepdims=True)
        lengths = (middles**2).reshape(len(members), -1, 2).sum(axis=2) @ self.weights.T
        places = lengths - 2 * middles @ self.weighted.T
        seen = (shown**2).mean(axis=1, keepdims=True) - 2 * shown @ self.there.T / self.there.shape[1]
        return np.maximum(self.squares + places + _HIDDEN * seen, 0)


def _clusters(points: _Points, count: int, random: np.random.Generator) -> list[int]:
    """The middle pose of each cluster in the best of several results, large clusters first."""
    results = [_k_means(points, count, random) for _ in range(_STARTS)]
    table = min(results, key=lambda distances: distances.min(axis=0).sum())
    owner = _owners(table)
    sizes = np.bincount(owner, minlength=count)
    middles = [int(np.where(owner == k, table[k], np.inf).argmin()) for k in range(count)]
    return [middles[k] for k in np.lexsort((middles, -sizes))]


def _k_means(points: _Points, count: int, random: np.random.Generator) -> np.ndarray:
    """Distances (count, N) of all poses to all clusters, when no pose changes its cluster any more."""
    table, owner = _beginning(points, count, random), None
    for _ in range(_ROUNDS):
        new = _owners(table)
        if owner is not None and (new == owner).all():
            break
        owner = new
        table = points.distances((owner == np.arange(count)[:, None]).astype(float))
    return table


def _beginning(points: _Points, count: int, random: np.random.Generator) -> np.ndarray:
    """Poses by chance, the likelier the farther they are from those that were chosen before."""
    number = len(points.joints)
    table = np.empty((0, number))
    while len(table) < count:
        far = table.min(axis=0) if len(table) else np.ones(number)
        share = far / far.sum() if far.sum() > 0 else np.full(number, 1 / number)
        alone = (np.arange(number) == random.choice(number, p=share)).astype(float)
        table = np.vstack([table, points.distances(alone[None])])
    return table


def _owners(table: np.ndarray) -> np.ndarray:
    """The nearest cluster of each pose; a cluster without any gets the pose that is farthest from its own."""
    owner, nearest = table.argmin(axis=0), table.min(axis=0)
    for k in range(len(table)):
        if not (owner == k).any():
            shared = np.bincount(owner, minlength=len(table))[owner] > 1
            far = np.where(shared, nearest, -1.0).argmax()
            owner[far], nearest[far] = k, 0.0
    return owner
