"""Fusion with generated images: what it promises to images with and without them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from tests import reference
from torchreid_genext.retrieval.centralization import fuse_generated
from torchreid_genext.retrieval.protocol import Chain, RetrievalSet, evaluate, transform


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


def sets(images: int = 12, poses: int = 3, width: int = 6) -> tuple[RetrievalSet, RetrievalSet]:
    def one() -> RetrievalSet:
        pids, camids = torch.arange(images) // 2, torch.arange(images) % 2
        return RetrievalSet(
            torch.randn(images, width), pids, camids, generated=torch.randn(images, poses, width)
        )

    return one(), one()


@pytest.mark.parametrize("side", ("query", "gallery"))
def test_a_side_is_fused_and_the_other_only_made_comparable(side: str) -> None:
    query, gallery = sets()
    other = {"query": "gallery", "gallery": "query"}[side]
    before = {"query": query, "gallery": gallery}
    bare = transform(query, gallery, f"fuse(eta=2,side={side})")
    assert torch.equal(getattr(bare, other).features, before[other].features)
    unit = transform(query, gallery, f"fuse(eta=2,side={side},normalize_before=True)")
    assert torch.equal(getattr(unit, other).features, normalize(before[other].features))
    for found, normalize_before in ((bare, False), (unit, True)):
        expected = fuse_generated(
            before[side].features, before[side].generated, eta=2, normalize_before=normalize_before
        )
        assert torch.equal(getattr(found, side).features, expected)


def test_step_asks_for_generated_features_of_its_sides_alone() -> None:
    query, gallery = sets()
    gallery = dataclasses.replace(gallery, generated=None)
    assert transform(query, gallery, "fuse(side=query)").query is not query
    with pytest.raises(ValueError, match="expected a gallery set with generated features for the step fuse"):
        transform(query, gallery, "fuse")


def test_step_names_what_it_does_not_know() -> None:
    rule = "unknown side 'joint' of step fuse; choose from query, gallery, both"
    with pytest.raises(ValueError, match=rule):
        Chain.parse("fuse(side=joint)")
    with pytest.raises(ValueError, match="unknown reduce 'max' of step fuse; choose from mean, sum"):
        Chain.parse("fuse(reduce=max)")


@pytest.mark.parametrize("eta", [float("inf"), float("nan")])
def test_weight_without_bounds_is_refused(eta: float) -> None:
    with pytest.raises(ValueError, match=f"expected a finite eta, got {eta}"):
        fuse_generated(torch.rand(2, 3), torch.rand(2, 1, 3), eta=eta)


def test_true_identities_help_and_other_peoples_hurt() -> None:
    """Features of each person scatter about a centre, generated ones about the centre of whom they show."""
    centres, people = 0.6 * torch.randn(30, 16), torch.arange(30).repeat(4)
    camids = torch.arange(4).repeat_interleave(30)
    images = RetrievalSet(
        centres[people] + torch.randn(120, 16),
        people,
        camids,
        generated=centres[people][:, None] + torch.randn(120, 8, 16),
    )
    swapped = dataclasses.replace(images, generated=images.generated[torch.randperm(120)])
    base, own, others = (
        evaluate(x, x, chain).mAP
        for x, chain in ((images, "l2"), (images, "fuse(eta=2)+l2"), (swapped, "fuse(eta=2)+l2"))
    )
    assert others < base - 0.05 and own > base + 0.2
