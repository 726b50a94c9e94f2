"""Features on their way from pose to pose, against a loop over pixels and parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import reference
from tests.generators.networks import rand, randn
from torchreid_genext.generators._deformable_warp import AGGREGATIONS, warp

SIZE = (8, 6)


def scene(parts: int = 4, channels: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Features, transforms with many coordinates at a half, and masks that leave pixels to nobody."""
    shifts = (8 * randn(2, parts, 2, 3)).round() / 4
    transforms = torch.eye(2, 3).double() + shifts * torch.tensor([0.5, 0.5, 4.0])
    return randn(2, channels, *SIZE, seed=1), transforms, rand(2, parts, *SIZE, seed=2) < 0.5


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_parts_meet_as_in_a_loop(how: str) -> None:
    features, transforms, masks = scene()
    masks[:, :, 2, 3], masks[:, :, 5, 1] = True, False
    found = warp(features, transforms, masks, how=how)
    for one, *inputs in zip(found, features, transforms, masks, strict=True):
        np.testing.assert_allclose(one, reference.carried(*map(np.asarray, inputs), how), atol=1e-6)


def test_official_maximum_lets_nothing_negative_pass_where_a_part_is_silent() -> None:
    features, transforms, masks = scene()
    masks[:, :, 0] = True
    features = -features.abs()
    transforms = torch.eye(2, 3).double().expand_as(transforms)
    everywhere = masks.all(1)[:, None].expand_as(features)
    found = warp(features, transforms, masks)
    assert torch.equal(found[everywhere], features[everywhere]) and not found[~everywhere].any()
    sane = warp(features, transforms, masks, how="masked_max")
    covered = masks.any(1)[:, None].expand_as(features)
    assert torch.equal(sane[covered], features[covered]) and not sane[~covered].any()


@pytest.mark.parametrize(
    ("place", "wanted"), ((0.5, 2), (0.49999997, 1), (-0.49999997, 1), (-0.5, 0), (2.5, 4), (3.5, 0))
)
def test_halves_are_rounded_away_from_zero(place: float, wanted: int) -> None:
    features = torch.arange(1.0, 5.0)[None, None, None]
    transform = torch.tensor([[[[0, 0, place], [0, 1, 0]]]], dtype=torch.float64)
    found = warp(features, transform, torch.ones(1, 1, 1, 4, dtype=torch.bool))
    assert found.flatten().tolist() == [wanted] * 4


def test_deeper_levels_take_every_so_many_pixels_of_masks_and_shifts() -> None:
    features, transforms, _ = scene()
    masks = rand(2, 4, 4 * SIZE[0], 4 * SIZE[1]) < 0.5
    smaller = transforms / torch.tensor([1, 1, 4])
    assert torch.equal(warp(features, transforms, masks), warp(features, smaller, masks[:, :, ::4, ::4]))


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_gradients_go_back_to_the_pixels_that_were_fetched(how: str) -> None:
    features, transforms, masks = scene(channels=2)
    leaf = features.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: warp(x, transforms, masks, how=how), leaf)


def test_a_batch_is_carried_one_by_one_and_in_any_layout_and_precision() -> None:
    features, transforms, masks = scene()
    found = warp(features, transforms, masks)
    for i in range(2):
        one = slice(i, i + 1)
        assert torch.equal(found[one], warp(features[one], transforms[one], masks[one]))
    last = features.contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, warp(last, transforms, masks))
    half = warp(features.bfloat16(), transforms, masks)
    assert half.dtype == torch.bfloat16 and torch.equal(half, found.bfloat16())


def test_nothing_to_carry_is_zero_and_has_no_gradient() -> None:
    features, transforms, masks = scene()
    features.requires_grad_()
    found = warp(features, transforms + 1000, masks)
    found.sum().backward()
    assert not found.any() and not features.grad.any()
    assert not warp(features, transforms, torch.zeros_like(masks)).any()


def test_unknown_words_and_sizes_are_refused() -> None:
    features, transforms, masks = scene()
    with pytest.raises(ValueError, match="unknown aggregation 'sum'; choose from max, avg, masked_max"):
        warp(features, transforms, masks, how="sum")
    with pytest.raises(ValueError, match="a whole number of times larger than features of 8 x 6, got 12 x 9"):
        warp(features, transforms, torch.ones(2, 4, 12, 9, dtype=torch.bool))
