"""Parts of people and their transforms against loops, and what becomes of parts that are missing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import reference
from tests.generators.networks import rand, randn, seeded
from tests.generators.poses import standing
from torchreid_genext.data.poses import heatmaps as heatmaps_of_files
from torchreid_genext.generators import _deformable_parts as parts
from torchreid_genext.generators._deformable_drawing import person_mask, stickman
from torchreid_genext.generators._deformable_polygons import bars, filled
from torchreid_genext.generators._deformable_transforms import (
    ESTIMATORS,
    fit,
    part_transforms,
    uniform_transform,
)

SIZE = (64, 32)
MISSING = torch.tensor([-1.0, -1.0])
NOWHERE = torch.tensor([[1, 0, 1000], [0, 1, 1000]], dtype=torch.float64)


def without(poses: Tensor, *joints: int) -> Tensor:
    changed = poses.clone()
    changed[:, joints] = MISSING
    return changed


def applied(transform: Tensor, points: Tensor) -> Tensor:
    """A matrix (2, 3) on points (N, 2) of (y, x)."""
    return (points.flip(-1).double() @ transform[:, :2].T + transform[:, 2]).flip(-1)


def test_pixels_in_on_and_beside_convex_polygons() -> None:
    start, end = torch.randint(-3, 15, (2, 40, 2), generator=seeded()).double()
    aside = torch.stack([end[:, 1] - start[:, 1], start[:, 0] - end[:, 0]], 1).sign()
    corners = torch.stack([start + aside, start - aside, end - aside, end + aside], 1)
    corners = corners[(start != end).any(1)]
    for polygon, found in zip(corners.numpy(), filled(corners, (12, 9)), strict=True):
        wanted = [[reference.convex_contains(polygon, y, x) for x in range(9)] for y in range(12)]
        assert np.array_equal(found.numpy(), wanted)


def test_a_polygon_without_an_area_is_its_corners() -> None:
    found = filled(bars(torch.tensor([2.0, 3.0]), torch.tensor([2.0, 3.0]), 1), (5, 6))
    assert found.nonzero().tolist() == [[2, 3]]


def test_heatmaps_are_those_of_the_files_and_lead_back_to_the_joints() -> None:
    poses = without(standing(3, SIZE), 0, 7)
    poses[1, 4] = torch.tensor([5.0, -1.0])
    maps = parts.heatmaps(poses, SIZE, 2.5)
    marked = torch.where(poses.amin(-1, True) < 0, -1, poses)
    torch.testing.assert_close(maps, heatmaps_of_files(marked, SIZE, sigma=2.5))
    assert maps[1, 4].max() == 0
    assert torch.equal(parts.peaks(maps), marked.long())


def test_masks_are_the_body_a_square_and_rectangles() -> None:
    poses = standing(2, SIZE)
    masks, (corners, _) = parts.part_masks(poses, SIZE), parts.limb_rectangles(poses, 0.5)
    assert masks[:, 0].all()
    for person in range(2):
        for limb in range(person, 8, 3):
            polygon = corners[person, limb].numpy()
            wanted = [[reference.convex_contains(polygon, y, x) for x in range(32)] for y in range(64)]
            assert (masks[person, 2 + limb].numpy() != wanted).sum() <= 2  # rounding decides on the edges
        half = int(0.4 * parts.torso_scale(poses)[person])
        y, x = (int(place) for place in poses[person, list(parts.HEAD)].mean(0))
        square = torch.zeros(SIZE, dtype=torch.bool)
        square[max(y - half, 0) : y + half, max(x - half, 0) : x + half] = True
        assert torch.equal(masks[person, 1], square)


def test_parts_that_are_missing_have_no_mask_and_come_from_nowhere() -> None:
    poses = standing(2, SIZE)
    legless = without(poses, 9)
    masks, transforms = parts.part_masks(legless, SIZE), part_transforms(poses, legless)
    assert masks.flatten(2).any(2).tolist() == [[part not in (2, 4) for part in range(10)]] * 2
    gone = (transforms == NOWHERE).all(-1).all(-1)
    assert gone.tolist() == [[part in (2, 4) for part in range(10)]] * 2


def test_a_limb_that_the_source_lacks_is_that_of_the_other_side() -> None:
    source, target = standing(1, SIZE), standing(1, SIZE, seed=1)
    mirrored = source.clone()
    mirrored[:, [8, 9, 10]] = source[:, [11, 12, 13]]
    lacking = part_transforms(without(source, 10), target)
    (rectangle, _), (wanted, _) = parts.limb_rectangles(target, 0.3), parts.limb_rectangles(source, 0.3)
    torch.testing.assert_close(applied(lacking[0, 4], rectangle[0, 2]), wanted[0, 3])
    assert torch.equal(part_transforms(without(source, 10, 13), target)[0, 4], NOWHERE)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_rectangles_of_limbs_are_carried_corner_by_corner(estimator: str) -> None:
    source, target = standing(2, SIZE), standing(2, SIZE, seed=1)
    transforms = part_transforms(source, target, estimator=estimator)
    (wanted, _), (corners, _) = (parts.limb_rectangles(each, 0.3) for each in (source, target))
    for person in range(2):
        for limb in range(8):
            torch.testing.assert_close(
                applied(transforms[person, 2 + limb], corners[person, limb]), wanted[person, limb]
            )


def test_fits_equal_those_of_a_loop() -> None:
    target, source = rand(5, 6, 2).double() * 30, rand(5, 6, 2, seed=1).double() * 30
    everything = torch.ones(5, 6, dtype=torch.bool)
    for found, *points in zip(fit(target, source, everything), target, source, strict=True):
        np.testing.assert_allclose(
            found, reference.direct_linear_transform(*map(np.asarray, points)), rtol=1e-9
        )
    squares = fit(target, source, everything, estimator="least_squares")
    for found, to, by in zip(squares, target.numpy(), source.numpy(), strict=True):
        wanted = np.linalg.lstsq(np.c_[to, np.ones(6)], by, rcond=None)[0].T
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)


def test_points_that_do_not_count_change_nothing() -> None:
    target, source = rand(1, 5, 2).double() * 30, rand(1, 5, 2, seed=1).double() * 30
    counted = torch.tensor([[True, False, True, True, True]])
    wanted = fit(target[counted][None], source[counted][None], torch.ones(1, 4, dtype=torch.bool))
    torch.testing.assert_close(fit(target, source, counted), wanted)


def test_torso_head_and_whole_body_are_fit_to_their_joints() -> None:
    source, target = standing(1, SIZE), without(standing(1, SIZE, seed=1), 16)
    transforms = part_transforms(source, target)
    joints = {0: [8, 11, 5, 2], 1: [0, 14, 15, 17, 2, 5]}
    for part, chosen in joints.items():
        to, by = (each[0, chosen].flip(-1).double().numpy() for each in (target, source))
        np.testing.assert_allclose(transforms[0, part], reference.direct_linear_transform(to, by), rtol=1e-8)
    to, by = (each[0, [8, 11, 5, 2, 9, 12]].flip(-1).double().numpy() for each in (target, source))
    found = uniform_transform(source, target)[0, 0]
    np.testing.assert_allclose(found, reference.direct_linear_transform(to, by), rtol=1e-8)


def awkward() -> Tensor:
    """Limbs and torsos without length or width, people of one point, and nobody at all."""
    poses = standing(6, SIZE)
    poses[0, 4] = poses[0, 3]
    poses[1, [2, 5, 8, 11], 1] = 16.0
    poses[2] = torch.tensor([30.0, 10.0])
    poses[3] = MISSING
    poses[4, [2, 5, 8, 11]] = MISSING
    poses[5, [8, 11]] = poses[5, [2, 5]]
    return poses


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_degenerate_poses_give_neither_infinite_transforms_nor_errors(estimator: str) -> None:
    poses = awkward()
    sources, targets = poses.repeat(6, 1, 1), poses.repeat_interleave(6, 0)
    transforms = part_transforms(sources, targets, estimator=estimator)
    assert transforms.isfinite().all()
    assert torch.equal(transforms[0, 8], NOWHERE)  # a forearm without length
    assert torch.equal(transforms[3 * 7], NOWHERE.expand(10, 2, 3))
    assert uniform_transform(sources, targets, estimator=estimator).isfinite().all()
    assert parts.part_masks(targets, SIZE).shape == (36, 10, *SIZE)


def test_the_length_of_a_torso_of_which_one_side_is_hidden_is_that_of_the_other() -> None:
    poses = standing(1, SIZE)
    sides = [(poses[0, hip] - poses[0, shoulder]).norm() for hip, shoulder in ((8, 2), (11, 5))]
    assert parts.torso_scale(without(poses, 8)).item() == pytest.approx(sides[1].item())
    assert parts.torso_scale(poses).item() == pytest.approx((sum(s**2 for s in sides) / 2).sqrt().item())
    assert parts.torso_scale(without(poses, 8, 5)).item() == 0
    assert parts.has_torso(torch.cat([poses, without(poses, 8), without(poses, 9)])).tolist() == [1, 0, 1]


def test_every_person_is_measured_alone() -> None:
    sources, targets = standing(4, SIZE), awkward()[:4]
    for person in range(4):
        one = slice(person, person + 1)
        torch.testing.assert_close(
            part_transforms(sources, targets)[one], part_transforms(sources[one], targets[one])
        )
        for drawn in (parts.part_masks, person_mask, stickman, parts.heatmaps):
            assert torch.equal(drawn(targets, SIZE)[one], drawn(targets[one], SIZE))


def test_a_persons_mask_holds_joints_and_what_is_between_them() -> None:
    poses = standing(1, SIZE)
    mask = person_mask(poses, SIZE, radius=2.0)[0]
    y, x = poses[0].long().unbind(-1)
    assert mask[y, x].all()
    between = ((poses[0, 8] + poses[0, 9]) / 2).long()
    assert mask[tuple(between)]
    assert mask.float().mean() < 0.5
    alone = person_mask(without(poses, *range(1, 18)), SIZE, radius=3.0)[0]
    assert alone.sum() == 25  # a disc of pixels nearer than 3, closed
    assert not person_mask(without(poses, *range(18)), SIZE).any()


def test_stickmen_have_a_right_side_a_left_side_and_a_torso() -> None:
    poses = standing(1, (128, 64))
    right, left, torso = stickman(poses, (128, 64))[0]
    middle = [tuple(((poses[0, a] + poses[0, b]) / 2).round().int().tolist()) for a, b in ((9, 10), (12, 13))]
    assert (right[middle[0]], right[middle[1]], left[middle[0]], left[middle[1]]) == (1, 0, 0, 1)
    y, x = poses[0, list(parts.TORSO)].mean(0).int()
    assert torso[y, x] == 1 and set(right.unique().tolist()) == {0.0, 0.5, 1.0}
    assert not stickman(without(poses, 2), (128, 64))[0, 2].any()


def test_unknown_estimators_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown estimator 'ransac'; choose from dlt, least_squares"):
        fit(randn(1, 4, 2), randn(1, 4, 2), torch.ones(1, 4, dtype=torch.bool), estimator="ransac")
