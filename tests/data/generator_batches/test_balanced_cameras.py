"""Batches of as many images of each camera, and data that is too little to learn cameras from."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from torchreid_genext.data.generator_batches.balanced_cameras import CameraBalanced, check_cameras

CAMIDS = torch.tensor([0, 2, 1, 0, 0, 1, 2, 2, 0, 2, 2, 2])  # 4, 2 and 6 images


def test_batches_have_as_many_images_of_each_camera() -> None:
    order = CameraBalanced(CAMIDS, 2, seed=0)
    assert (order.batch_size, order.steps_per_epoch) == (6, 3)
    for step in range(20):
        assert Counter(CAMIDS[order.indices(step)].tolist()) == {0: 2, 1: 2, 2: 2}


def test_all_images_of_a_camera_come_before_any_comes_again_and_in_new_orders() -> None:
    order, seen = CameraBalanced(CAMIDS, 3, seed=1), {0: [], 1: [], 2: []}
    for step in range(16):
        for index in order.indices(step).tolist():
            seen[CAMIDS[index].item()].append(index)
    for camera, count in ((0, 4), (1, 2), (2, 6)):
        rounds = [tuple(seen[camera][i : i + count]) for i in range(0, 48, count)]
        assert {tuple(sorted(each)) for each in rounds} == {
            tuple((CAMIDS == camera).nonzero()[:, 0].tolist())
        }
        assert len(set(rounds)) > 1


def test_a_step_depends_on_seed_and_number_alone_and_processes_share_it() -> None:
    order = CameraBalanced(CAMIDS, 4, seed=3)
    whole = order.indices(7)
    assert torch.equal(CameraBalanced(CAMIDS, 4, seed=3).indices(7), whole)
    assert not torch.equal(CameraBalanced(CAMIDS, 4, seed=4).indices(7), whole)
    parts = [order.indices(7, rank, 2) for rank in range(2)]
    assert torch.equal(torch.cat(parts), whole)
    assert all(Counter(CAMIDS[part].tolist()) == {0: 2, 1: 2, 2: 2} for part in parts)


def test_a_pair_of_cameras_has_its_own_batches() -> None:
    order = CameraBalanced(CAMIDS, 1, seed=0, cameras=(2, 0))
    assert order.steps_per_epoch == 6
    assert [CAMIDS[order.indices(step)].tolist() for step in range(3)] == [[2, 0]] * 3


def test_too_little_to_learn_from_is_named() -> None:
    assert check_cameras(CAMIDS) == [0, 1, 2] and check_cameras(CAMIDS, (2, 0)) == [2, 0]
    for camids, cameras, rule in (
        ([0, 0, 1], None, "two or more images of every camera, got 1 of camera 1"),
        ([0, 0, 2, 2], None, "two or more images of every camera, got 0 of camera 1"),
        ([0, 0, 1, 1], (0, 5), "two or more images of every camera, got 0 of camera 5"),
        ([0, 0, 0], None, "images of two or more cameras, got 1"),
    ):
        with pytest.raises(ValueError, match=rule):
            check_cameras(camids, cameras)
    with pytest.raises(ValueError, match="images >= 1 of each camera, got 0"):
        CameraBalanced(CAMIDS, 0, seed=0)
    with pytest.raises(ValueError, match="expected a step >= 0, got -1"):
        CameraBalanced(CAMIDS, 1, seed=0).indices(-1)
    with pytest.raises(ValueError, match="2 processes can share equally, got 9 images in groups of 3"):
        CameraBalanced(CAMIDS, 3, seed=0).indices(0, 0, 2)
