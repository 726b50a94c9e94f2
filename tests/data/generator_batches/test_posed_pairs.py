"""Pairs of posed images: who is left out, what a batch holds, mirror images, and resuming."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from torchreid_genext.data.generator_batches.orders import IdentityBalanced, Partners, Shuffled, batches
from torchreid_genext.data.generator_batches.posed_pairs import (
    PosedImages,
    PosePairs,
    mirrored,
    pose_pairs,
    with_partners,
    with_poses,
)
from torchreid_genext.data.images.in_memory import ImageTensor
from torchreid_genext.data.poses import JOINTS
from torchreid_genext.data.poses.skeletons import scaled

PIDS = torch.tensor([4, 4, 1, 9, 1, 4, 9, 7, 4, 2, 2, 2])
CAMIDS = torch.tensor([0, 0, 1, 2, 1, 3, 0, 0, 0, 0, 1, 2])
HEIGHT, WIDTH = 6, 4


def images(folder: Path = Path(".")) -> ImageTensor:
    pixels = torch.randint(
        256, (12, 3, HEIGHT, WIDTH), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return ImageTensor(pixels, PIDS, CAMIDS, tuple(str(folder / f"{n}.png") for n in range(12)))


def keypoints() -> Tensor:
    random = torch.Generator().manual_seed(1)
    points = torch.rand(12, 18, 2, generator=random) * torch.tensor([HEIGHT - 1.0, WIDTH - 1.0])
    points[torch.rand(12, 18, generator=random) < 0.3] = -1
    return points


def source(order: Any = None, world: int = 1, rank: int = 0, first: int = 0, **options: Any) -> Any:
    order = order or Shuffled(12, 6, 0)
    made = pose_pairs(images(), keypoints(), order, Partners(PIDS), seed=3, **options)
    return made(first, rank, world)


def assert_same(found: PosePairs, expected: PosePairs) -> None:
    for name, values in expected._asdict().items():
        assert torch.equal(getattr(found, name), values), name


def test_pairs_are_those_of_plain_batches_with_their_joints() -> None:
    plain = batches(images(), Shuffled(12, 6, 0), partners=Partners(PIDS), seed=3)(5, 0, 1)
    for found, expected in zip(itertools.islice(source(first=5), 4), plain):
        for name in ("images", "others", "labels", "camids", "indices"):
            assert torch.equal(getattr(found, name), getattr(expected, name))
        assert torch.equal(found.keypoints, keypoints()[found.indices])
        for pixels, joints in zip(found.others, found.other_keypoints):
            (row,) = (images().images == pixels).all((1, 2, 3)).nonzero()[:, 0].tolist()
            assert torch.equal(joints, keypoints()[row])


@pytest.mark.parametrize("order", (Shuffled(12, 6, 0), IdentityBalanced(PIDS, 4, 3, 0)))
def test_training_that_resumes_sees_the_same_pairs_mirrored_alike(order: Any) -> None:
    through = list(itertools.islice(source(order, flip=0.5), 9))
    for first in (1, 4, 8):
        for found, expected in zip(source(order, first=first, flip=0.5), through[first:]):
            assert_same(found, expected)


@pytest.mark.parametrize("world", (2, 3))
def test_processes_together_see_the_batch_of_one(world: int) -> None:
    alone = next(source(first=4, flip=0.5))
    parts = [next(source(first=4, flip=0.5, rank=rank, world=world)) for rank in range(world)]
    assert_same(PosePairs(*map(torch.cat, zip(*parts))), alone)


def test_both_images_of_a_pair_are_mirrored_with_their_joints_or_none() -> None:
    seen = []
    for plain, found in itertools.islice(zip(source(), source(flip=0.5)), 60):
        for row in range(6):
            turned = not torch.equal(found.images[row], plain.images[row])
            seen.append(turned)
            for pixels, joints in (("images", "keypoints"), ("others", "other_keypoints")):
                before, now = (getattr(batch, pixels)[row] for batch in (plain, found))
                assert torch.equal(now, before.flip(-1) if turned else before)
                before, now = (getattr(batch, joints)[row] for batch in (plain, found))
                assert torch.equal(now, mirrored(before, WIDTH) if turned else before)
    assert 0.4 < np.mean(seen) < 0.6
    always = next(source(flip=1.0))
    assert torch.equal(always.images, next(source()).images.flip(-1))


def test_the_mirror_image_of_a_right_hand_is_a_left_hand() -> None:
    points = keypoints()
    found = mirrored(points, WIDTH)
    for number, joint in enumerate(JOINTS):
        other = {"right": joint.replace("right", "left"), "left": joint.replace("left", "right")}
        twin = JOINTS.index(other.get(joint.split("_")[0], joint))
        for before, after in zip(points[:, number], found[:, twin]):
            missing = bool((before < 0).any())
            wanted = torch.tensor([-1.0, -1.0] if missing else [before[0], WIDTH - 1 - before[1]])
            torch.testing.assert_close(after, wanted)
    torch.testing.assert_close(mirrored(found, WIDTH), points)
    assert torch.equal(mirrored(points, WIDTH, swap=False)[:, 2], found[:, 5])
    unswapped = next(source(flip=1.0, swap=False))
    assert torch.equal(unswapped.keypoints, mirrored(next(source()).keypoints, WIDTH, swap=False))


def test_a_joint_on_the_border_is_not_lost_in_the_mirror() -> None:
    point = torch.tensor([[2.0, WIDTH - 0.75]]).expand(18, 2)
    assert mirrored(point, WIDTH)[0].tolist() == [2.0, 0.0]


def posed(folder: Path, **changes: Any) -> tuple[ImageTensor, dict[str, np.ndarray]]:
    """Files twice as large as the images in memory, and the joints of some of them."""
    for name in range(12):
        Image.new("RGB", (2 * WIDTH, 2 * HEIGHT)).save(folder / f"{name}.png")
    random = np.random.default_rng(0)
    poses = {f"{n}.png": random.integers(0, (2 * HEIGHT, 2 * WIDTH), (18, 2)) for n in range(12)}
    del poses["3.png"]
    poses["5.png"] = np.full((18, 2), -1)
    return images(folder), poses | changes


def test_images_without_joints_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, poses = posed(tmp_path)
    with caplog.at_level(logging.WARNING):
        found = with_poses(whole, poses)
    assert found.left_out == {whole.paths[3]: "no joints", whole.paths[5]: "no joints"}
    assert f"2 of 12 images are left out, such as {whole.paths[3]}: no joints" in caplog.text
    assert found.images.paths == tuple(path for path in whole.paths if path not in found.left_out)
    assert len(found) == len(found.images) == 10
    for path, joints in zip(found.images.paths, found.keypoints):
        wanted = scaled(poses[Path(path).name], (2 * HEIGHT, 2 * WIDTH), (HEIGHT, WIDTH)).clip(min=0)
        np.testing.assert_allclose(joints, wanted, atol=1e-6)


def test_joints_on_the_border_are_there_and_those_outside_are_not(tmp_path: Path) -> None:
    pose = np.full((18, 2), 3.0)
    pose[:5] = [(0, 0), (11.5, 7.5), (12, 3), (3, 8), (-0.5, 3)]
    found = with_poses(*posed(tmp_path, **{"0.png": pose}))
    assert found.keypoints[0, :5].tolist() == [[0, 0], [5.5, 3.5], [-1, -1], [-1, -1], [-1, -1]]


def test_images_without_a_required_joint_are_left_out(tmp_path: Path) -> None:
    pose = np.full((18, 2), 3)
    pose[[8, 11]] = -1
    whole, poses = posed(tmp_path, **{"0.png": pose})
    required = ("right_shoulder", "right_hip", "left_hip")
    found = with_poses(whole, poses, required=required)
    assert found.left_out[whole.paths[0]] == "no right_hip, left_hip"
    assert len(found) == 9 and len(with_poses(whole, poses)) == 10


def test_people_with_a_single_image_are_left_out_of_pairs(tmp_path: Path) -> None:
    posed_images = with_poses(*posed(tmp_path))
    found = with_partners(posed_images)
    alone = [path for path, reason in found.left_out.items() if reason == "no other image of the person"]
    assert [Path(path).stem for path in alone] == ["6", "7"]  # the other image of 6's person has no joints
    assert len(found) == 8 and found.left_out.items() > posed_images.left_out.items()
    assert torch.equal(found.images.pids.bincount(minlength=10)[[1, 2, 4]], torch.tensor([2, 3, 3]))
    same_camera = with_partners(posed_images, posed_images.images.pids * 10 + posed_images.images.camids)
    assert [Path(path).stem for path in same_camera.images.paths] == ["0", "1", "2", "4", "8"]


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    whole, poses = posed(tmp_path)
    for call, message in (
        (lambda: with_poses(whole, poses, required=("hip",)), "unknown joint 'hip'; choose from nose, neck"),
        (
            lambda: with_poses(whole, {}),
            r"expected images with joints, got none of 12, such as .*0.png: no j",
        ),
        (lambda: with_poses(whole, {"0.png": [[1, 2]]}), r"expected a pose of shape \(18, 2\) of .*0.png"),
        (lambda: with_partners(PosedImages(whole.select([7]), keypoints()[:1])), "no other image of the per"),
        (lambda: source(flip=1.5), "expected a probability flip in 0..1, got 1.5"),
        (
            lambda: pose_pairs(whole, keypoints()[:5], Shuffled(12, 6, 0), Partners(PIDS)),
            r"expected keypoints \(12, 18, 2\), got \(5, 18, 2\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
