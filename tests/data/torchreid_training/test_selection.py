"""Which generated images join the real ones: shares of people, of real images and of poses."""

from __future__ import annotations

from collections import Counter

import pytest

from torchreid_genext.data.torchreid_training.datasets import augmenting
from torchreid_genext.data.torchreid_training.selection import Augmentation, choose


def crowd(people: int = 20, images: int = 6, poses: int = 8) -> tuple[list[int], list[list[str]]]:
    names = [person for person in range(people) for _ in range(images)]
    return names, [[str(pose) for pose in range(poses)]] * len(names)


@pytest.mark.parametrize("count", [1, 7, 20, 60, 119, 120, 121, 333, 960])
def test_choice_is_spread_over_people_images_and_poses(count: int) -> None:
    people, poses = crowd()
    chosen = choose(people, poses, count, seed=3)
    assert len(set(chosen)) == count
    for values, kinds, slack in (
        ([people[row] for row, _ in chosen], set(people), 1),
        ([row for row, _ in chosen], range(120), 1),
        ([pose for _, pose in chosen], poses[0], 2),
    ):
        counts = Counter(values)
        assert max(counts[kind] for kind in kinds) - min(counts[kind] for kind in kinds) <= slack


def test_people_get_pictures_in_proportion_to_their_images() -> None:
    people = [0] * 10 + [1] * 30 + [2] * 60
    chosen = choose(people, [["1", "2"]] * 100, 50, seed=0)
    counts = Counter(people[row] for row, _ in chosen)
    assert all(abs(counts[person] - share) <= 1 for person, share in ((0, 5), (1, 15), (2, 30)))


def test_poses_of_one_person_take_turns() -> None:
    people, poses = crowd(people=4, images=8, poses=8)
    for count, each in ((32, 8), (16, 4)):
        chosen = choose(people, poses, count, seed=1)
        for person in range(4):
            assert len({pose for row, pose in chosen if people[row] == person}) == each


def test_choice_depends_on_the_seed_alone_and_grows_with_the_count() -> None:
    people, poses = crowd()
    long = choose(people, poses, 500, seed=5)
    assert choose(people, poses, 130, seed=5) == long[:130]
    assert choose(people, poses, 500, seed=6) != long


def test_images_without_pictures_are_passed_over_and_with_few_used_up() -> None:
    poses = [["1", "2"], [], ["2"], ["1", "2", "3"]]
    assert set(choose([0, 0, 1, 1], poses, 6, seed=0)) == {
        (row, pose) for row, have in enumerate(poses) for pose in have
    }
    assert {row for row, _ in choose([0, 0, 1, 1], poses, 3, seed=0)} == {0, 2, 3}
    assert choose([0, 1], [[], []], 0, seed=0) == []


def test_options_out_of_range_are_refused() -> None:
    for ratio in (-0.5, float("nan"), float("inf")):
        with pytest.raises(
            ValueError, match=f"expected a finite ratio of generated images >= 0, got {ratio}"
        ):
            Augmentation(ratio=ratio)
    with (
        pytest.raises(ValueError, match="unknown camera .*'old'; choose from same, new, per_pose, style"),
        augmenting(camera="old"),
    ):
        pass
