"""Choosing poses that stand for all: clusters that are known, and a search of all choices as the oracle."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from torchreid_genext.data.poses.choosing import _HIDDEN, aligned, choose_poses
from torchreid_genext.data.poses.standard import standard_poses


def crowd(counts: dict[str, int], *, noise: float = 1.0, seed: int = 0) -> dict[str, np.ndarray]:
    """People in standard poses, each a little different, somewhere in the picture and of some size."""
    random, found = np.random.default_rng(seed), {}
    for name, count in counts.items():
        for number in range(count):
            pose = standard_poses(128, 64)[name]
            moved = pose + noise * random.standard_normal((18, 2))
            moved = moved * random.uniform(0.5, 2) + random.uniform(0, 40, 2)
            found[f"{name}_{number:03d}.jpg"] = np.where(pose == -1, -1, moved)
    return found


def naive_cost(points: np.ndarray, groups: list[list[int]]) -> float:
    """What k-means makes small, one joint after another."""
    cost = 0.0
    for group in groups:
        weights = {n: 1 / sum(not np.isnan(y) for y in points[n, :, 0]) for n in group}
        for joint in range(18):
            seen = [n for n in group if not np.isnan(points[n, joint, 0])]
            if seen:
                total = sum(weights[n] for n in seen)
                middle = sum(weights[n] * points[n, joint] for n in seen) / total
                cost += sum(weights[n] * ((points[n, joint] - middle) ** 2).sum() for n in seen)
            share = len(seen) / len(group)
            cost += sum(_HIDDEN * ((n in seen) - share) ** 2 / 18 for n in group)
    return cost


def test_one_of_each_kind_is_chosen_the_most_frequent_first() -> None:
    poses = crowd({"1": 12, "3": 30, "5": 7, "7": 20})
    chosen = choose_poses(poses, 4)
    assert [name[0] for name in chosen] == ["3", "7", "1", "5"]


def test_choice_is_the_best_of_all_ways_to_make_two_groups() -> None:
    poses = crowd({"1": 3, "2": 3, "4": 2}, noise=3.0)
    names = sorted(poses)
    points = aligned(np.array([poses[name] for name in names]))
    everyone = range(len(names))
    splits = [
        [list(some), [n for n in everyone if n not in some]]
        for k in range(1, len(names))
        for some in combinations(everyone, k)
    ]
    best = min(splits, key=lambda groups: naive_cost(points, groups))
    first, second = (names.index(name) for name in choose_poses(poses, 2))
    large, small = sorted(best, key=len, reverse=True)
    assert first in large and second in small


def test_choice_is_the_same_again_in_any_order_and_may_change_with_the_seed() -> None:
    poses = crowd({"1": 10, "4": 10, "6": 10}, noise=4.0)
    chosen = choose_poses(poses, 5, seed=3)
    assert choose_poses(dict(reversed(poses.items())), 5, seed=3) == chosen
    assert len(set(chosen)) == 5


def test_place_and_size_in_the_picture_do_not_matter() -> None:
    poses = crowd({"1": 6, "5": 6})
    moved = {
        name: np.where(pose == -1, -1, (1 + n % 3) * pose + 7 * n)
        for n, (name, pose) in enumerate(poses.items())
    }
    assert choose_poses(moved, 2) == choose_poses(poses, 2)


def test_missing_legs_do_not_make_another_pose() -> None:
    """Half of the people are cut off at the hips, and still the two sides are told apart."""
    poses = crowd({"1": 20, "5": 14})
    for name in list(poses)[::2]:
        poses[name][[9, 10, 12, 13]] = -1
    assert [name[0] for name in choose_poses(poses, 2)] == ["1", "5"]


def test_aligned_poses_of_equal_shape_are_equal() -> None:
    pose = standard_poses(128, 64)["1"]
    both = aligned(np.stack([pose, 3 * pose + [5, 9]]))
    np.testing.assert_allclose(both[0], both[1], atol=1e-9)


def test_poses_with_too_few_joints_are_not_chosen() -> None:
    poses = crowd({"1": 3})
    poses |= {"nobody.jpg": np.full((18, 2), -1.0), "hand.jpg": np.full((18, 2), -1.0)}
    poses["hand.jpg"][:3] = [[1, 2], [3, 4], [5, 6]]
    assert set(choose_poses(poses, 3)) == {name for name in poses if name.startswith("1_")}
    with pytest.raises(ValueError, match=r"expected count in 1..3, the different usable poses, got 4"):
        choose_poses(poses, 4)


def test_joints_outside_of_the_image_can_be_left_out() -> None:
    pose = standard_poses(128, 64)["1"]
    below = pose + [100, 0]  # feet and knees, and more, are out
    poses = {"a.jpg": pose, "b.jpg": below, "c.jpg": pose + [128, 0]}
    assert set(choose_poses(poses, 2, size=(128, 64))) == {"a.jpg", "b.jpg"}
    with pytest.raises(ValueError, match=r"expected count in 1..2"):
        choose_poses(poses, 3, size=(128, 64))


@pytest.mark.parametrize(
    ("joint", "inside"),
    [([127.5, 9], True), ([127.6, 9], False), ([9, 63.5], True), ([9, 63.6], False), ([128, 9], False),
     ([-0.5, 9], True), ([-0.6, 9], False), ([9, -0.5], True), ([9, -0.6], False)],
)  # fmt: skip
def test_the_border_of_an_image_is_half_a_pixel_beyond_its_last_one(joint: list[float], inside: bool) -> None:
    """A pose of four joints is of use as long as all of them are in the image."""
    pose = np.full((18, 2), -1.0)
    pose[:4] = [5, 5], [5, 9], [9, 5], joint
    poses = {"a.jpg": pose, "b.jpg": standard_poses(128, 64)["1"]}
    with pytest.raises(ValueError, match=f"expected count in 1..{2 if inside else 1}, "):
        choose_poses(poses, 3, size=(128, 64))


@pytest.mark.parametrize("count", [0, -1, 3])
def test_impossible_counts_are_refused(count: int) -> None:
    same = dict.fromkeys(["a.jpg", "b.jpg"], standard_poses(128, 64)["1"])
    same["c.jpg"] = standard_poses(128, 64)["2"]
    with pytest.raises(ValueError, match=rf"expected count in 1..2, the different usable poses, got {count}"):
        choose_poses(same, count)
    with pytest.raises(ValueError, match="expected count in 1..0"):
        choose_poses({}, 1)


def test_malformed_pose_is_named() -> None:
    with pytest.raises(ValueError, match=r"pose of shape \(18, 2\) of a.jpg, got \(17, 2\)"):
        choose_poses({"a.jpg": np.zeros((17, 2))}, 1)
