"""Fusion with generated images: what it promises to images with and without them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from tests import reference
from torchreid_genext.retrieval.centralization import fuse_generated


@pytest.mark.parametrize("reduce", ("mean", "sum"))
def test_directions_are_fused_when_normalised_before(reduce: str) -> None:
    features, generated = 9 * torch.randn(7, 5), 4 * torch.randn(7, 3, 5)
    found = fuse_generated(features, generated, eta=2, reduce=reduce, normalize_before=True)
    unit = normalize(features).numpy(), normalize(generated, dim=2).numpy()
    np.testing.assert_allclose(found, reference.fuse_generated(*unit, 2, reduce), rtol=1e-5, atol=1e-6)


def test_lengths_matter_only_without_normalisation_before() -> None:
    features, generated = torch.randn(6, 4), torch.randn(6, 2, 4)
    longer = generated * torch.tensor([1.0, 50.0])[:, None]
    fused = [fuse_generated(features, images, normalize_before=True) for images in (generated, longer)]
    torch.testing.assert_close(*fused)
    assert not torch.allclose(fuse_generated(features, generated), fuse_generated(features, longer))


@pytest.mark.parametrize("reduce", ("mean", "sum"))
@pytest.mark.parametrize("normalize_before", (False, True))
def test_own_feature_that_stands_in_leaves_the_direction_alone(reduce: str, normalize_before: bool) -> None:
    features = torch.randn(8, 6)
    stand_ins = features[:, None].expand(-1, 5, -1)
    fused = fuse_generated(features, stand_ins, eta=2, reduce=reduce, normalize_before=normalize_before)
    torch.testing.assert_close(normalize(fused), normalize(features))


def test_mean_with_eta_is_sum_with_a_share_of_it() -> None:
    """The official demo's mean of 8 with eta 2 is the paper's sum with eta 0.25."""
    features, generated = torch.randn(6, 4), torch.randn(6, 8, 4)
    mean = fuse_generated(features, generated, eta=2, reduce="mean")
    torch.testing.assert_close(mean, fuse_generated(features, generated, eta=0.25, reduce="sum"))


def test_inputs_are_left_as_they_were_and_half_precision_is_fused_in_full() -> None:
    features, generated = torch.randn(6, 4), torch.randn(6, 3, 4).half()
    before = features.clone(), generated.clone()
    fused = fuse_generated(features, generated, normalize_before=True)
    assert torch.equal(features, before[0]) and torch.equal(generated, before[1])
    assert fused.dtype == torch.float32
    assert torch.equal(fused, fuse_generated(features, generated.float(), normalize_before=True))


def test_order_of_poses_does_not_matter() -> None:
    features, generated = torch.randn(6, 4), torch.randn(6, 5, 4)
    torch.testing.assert_close(
        fuse_generated(features, generated), fuse_generated(features, generated[:, torch.randperm(5)])
    )
