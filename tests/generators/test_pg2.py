"""PG2: poses and masks against loops, networks as users call them, and what its discriminator compares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import reference
from tests.generators.networks import arrays, awake, rand, randn, same, seeded, snapshot
from torchreid_genext.generators._pg2_layers import Halving
from torchreid_genext.generators.identity import IdentityGenerator
from torchreid_genext.generators.pg2 import (
    BODY,
    PG2,
    Discriminator,
    Verdict,
    adversarial_loss,
    discriminator_loss,
    pose_maps,
    pose_mask,
    reconstruction_loss,
    refinement_loss,
)

SIZE = (32, 16)


def network(**settings: Any) -> PG2:
    torch.manual_seed(0)
    return awake(PG2(SIZE, **{"width": 3, "code": 5, "radius": 2, **settings}))


def images(count: int = 3, seed: int = 0, size: tuple[int, int] = SIZE) -> Tensor:
    return 2 * rand(count, 3, *size, seed=seed) - 1


def poses(count: int = 3, seed: int = 0) -> Tensor:
    """Whole pixels and others; some joints are missing, some below or right of the image."""
    points = rand(count, 18, 2, seed=seed) * torch.tensor([1.2 * SIZE[0], 1.2 * SIZE[1]])
    points[::2] = points[::2].floor()
    points[rand(count, 18, seed=seed + 1) < 0.2] = -1.0
    return points


def discriminator(arrangement: str = "pairwise", size: tuple[int, int] = SIZE) -> Discriminator:
    torch.manual_seed(0)
    return awake(Discriminator(size, arrangement=arrangement, width=4))


@pytest.mark.parametrize("radius", (0, 2, 5))
def test_maps_have_a_disc_for_each_joint(radius: int) -> None:
    for pose, maps in zip(poses(), pose_maps(poses(), SIZE, radius=radius), strict=True):
        for joint, found in zip(pose.numpy(), maps, strict=True):
            centres = [joint] if joint.min() >= 0 else []
            assert np.array_equal(found.numpy(), 2 * reference.pg2_discs(centres, SIZE, radius) - 1)


@pytest.mark.parametrize("radius", (1, 2, 4))
def test_mask_is_discs_along_limbs_and_the_gaps_between_them(radius: int) -> None:
    masks = pose_mask(poses(6), SIZE, radius=radius)
    assert masks.shape == (6, 1, *SIZE) and 0.1 < masks.mean() < 0.99
    for pose, mask in zip(poses(6).numpy(), masks[:, 0].numpy(), strict=True):
        assert np.array_equal(mask, reference.pg2_mask(pose, BODY, SIZE, radius))


def test_a_single_joint_is_no_body_and_any_negative_coordinate_is_a_missing_one() -> None:
    points = torch.full((2, 18, 2), -1.0)
    points[0, 4] = torch.tensor([10.0, 8.0])
    points[1, 3:5] = torch.tensor([[10.0, 8.0], [20.0, -0.5]])
    assert not pose_mask(points, SIZE).any()
    assert (pose_maps(points, SIZE).amax((2, 3)) > 0).sum(1).tolist() == [1, 1]


def test_poses_of_any_kind_of_number_are_the_same() -> None:
    whole = poses().floor().long()
    for draw in (pose_maps, pose_mask):
        assert torch.equal(draw(whole, SIZE), draw(whole.double(), SIZE))
        assert torch.equal(draw(whole, SIZE), draw(whole.bfloat16(), SIZE))


@pytest.mark.parametrize("kernel", (3, 5))
def test_halving_looks_further_down_and_right(kernel: int) -> None:
    conv, x = Halving(2, 3, kernel).double(), randn(1, 2, 8, 6).double()
    state = arrays(conv)
    wanted = reference.halving_convolved(x[0].numpy(), state["weight"], state["bias"])
    np.testing.assert_allclose(conv(x)[0].detach().numpy(), wanted, atol=1e-12)
    assert conv(randn(1, 2, 7, 5).double()).shape == (1, 3, 4, 3)


def test_official_size_has_the_published_shapes() -> None:
    with torch.device("meta"):
        made = PG2()
    assert (made.stage1.encode.in_features, made.stage1.encode.out_features) == (20480, 64)
    assert made.stage1.decode.out_features == 4096
    assert [block.convs[0].in_channels for block in made.stage1.up] == [768, 1024, 768, 512, 256]
    assert [narrow.out_channels for narrow in made.stage1.narrow] == [512, 384, 256, 128]
    assert [block[0].in_channels for block in made.stage2.up] == [768, 384, 128]


@pytest.mark.parametrize("size", ((32, 16), (64, 32), (96, 48), (128, 64)))
def test_images_keep_their_size_whatever_it_is(size: tuple[int, int]) -> None:
    made = PG2(size, width=1, code=2).generate(images(1, size=size), poses(1), poses(1))
    assert made.shape == (1, 3, *size)


@pytest.mark.parametrize("kind", (torch.float32, torch.bfloat16, torch.float64))
def test_images_are_float32_in_their_range_and_the_same_every_time(kind: torch.dtype) -> None:
    made = network().to(kind)
    made.stage2.head.bias.data.mul_(10)
    found = made.generate(images(), poses(), poses(seed=1))
    assert found.dtype == torch.float32 and not found.requires_grad
    assert found.abs().amax() == 1 and found.isfinite().all()
    others = [seeded(n) for n in range(3)]
    again = made.generate(images(), poses(seed=2), poses(seed=1), generators=others)
    assert torch.equal(found, again)  # its own pose and noise have no part


def test_an_image_depends_on_itself_and_its_target_alone() -> None:
    made, inputs = network(), (images(), poses(), poses(seed=1))
    whole = made.generate(*inputs)
    for row in range(3):
        alone = made.generate(*(each[row : row + 1] for each in inputs))
        torch.testing.assert_close(alone[0], whole[row], rtol=0, atol=1e-5)
    assert (whole - made.generate(inputs[0], inputs[1], poses(seed=2))).abs().amax() > 1e-3
    assert (whole - made.generate(images(seed=1), *inputs[1:])).abs().amax() > 1e-3


@torch.no_grad()
def test_stage_two_adds_a_difference_to_stage_one() -> None:
    made = network()
    coarse = made.coarse(images(), poses())
    torch.testing.assert_close(made(images(), poses()), coarse + made.stage2(coarse, images()))
    made.stage2.head.weight.zero_(), made.stage2.head.bias.zero_()
    assert torch.equal(made.generate(images(), poses(), poses()), coarse.clamp(-1, 1))


def test_a_saved_network_is_the_same(tmp_path: Path) -> None:
    made = network()
    found = PG2.load(made.save(tmp_path / "pg2.safetensors"))
    assert same(found, snapshot(made)) and found.config == made.config
    assert (found.image_size, found.radius) == (SIZE, 2) and not found.training
    inputs = images(), poses(), poses(seed=1)
    assert torch.equal(found.generate(*inputs), made.generate(*inputs))
    with pytest.raises(ValueError, match="expected a file of kind 'identity', got .* of 'pg2'"):
        IdentityGenerator.load(tmp_path / "pg2.safetensors")


@pytest.mark.parametrize("channels", (6, 3))
def test_discriminator_is_dcgans_with_statistics_of_the_batch(channels: int) -> None:
    made = discriminator({6: "pairwise", 3: "official"}[channels]).double()
    batch = randn(4, channels, *SIZE).double()
    wanted = reference.pg2_discriminator(arrays(made), batch.numpy())
    for mode in (True, False):
        np.testing.assert_allclose(made.train(mode)(batch).detach().numpy(), wanted, atol=1e-10)


def test_discriminator_starts_with_a_deviation_of_a_fiftieth() -> None:
    made = Discriminator(SIZE, width=16)
    weights = torch.cat([layer.weight.flatten() for layer in (*made.convs, made.head)])
    assert abs(weights.std() - 0.02) < 5e-4 and weights.abs().max() <= 0.02 * 3**0.5
    assert not any(layer.bias.any() for layer in (*made.convs, made.head))


def seen(count: int = 2) -> dict[str, Tensor]:
    return {name: images(count, seed) for seed, name in enumerate(("targets", "images", "coarse", "refined"))}


def test_pairs_have_the_reference_beside_target_and_result() -> None:
    made, shown = discriminator().double(), {name: each.double() for name, each in seen().items()}
    pairs = [torch.cat([shown["images"], shown[name]], 1) for name in ("targets", "refined")]
    wanted = reference.pg2_discriminator(arrays(made), torch.cat(pairs).numpy())
    found = made.judge(**shown)
    np.testing.assert_allclose(torch.cat(found[:2]).detach().numpy(), wanted, atol=1e-10)
    assert not found.others
    assert torch.equal(found.real, made.judge(**shown | {"coarse": images(2, 9).double()}).real)


def test_the_official_batch_is_judged_at_once_and_a_reference_is_not_real() -> None:
    made, shown = discriminator("official").double(), {name: each.double() for name, each in seen().items()}
    wanted = reference.pg2_discriminator(arrays(made), torch.cat(list(shown.values())).numpy())
    found = made.judge(**shown)
    together = torch.cat([found.real, *found.others, found.refined])
    np.testing.assert_allclose(together.detach().numpy(), np.delete(wanted, [4, 5]), atol=1e-10)
    assert not torch.equal(found.real, made.judge(**shown | {"coarse": images(2, 9).double()}).real)


def test_losses_are_what_the_formulas_say() -> None:
    a, b, mask = images(2, 0), images(2, 1), pose_mask(poses(2), SIZE)
    error = (a - b).abs().numpy()
    wanted = error.mean() + (error * mask.numpy()).sum() / error.size
    assert float(reconstruction_loss(a, b, mask)) == pytest.approx(wanted, rel=1e-5)
    real, last, other = (randn(5, seed=seed) for seed in range(3))

    def cross_entropy(logits: Tensor, label: int) -> float:
        odds = 1 / (1 + np.exp(-logits.double().numpy()))
        return float(-np.log(odds if label else 1 - odds).mean())

    assert float(adversarial_loss(last)) == pytest.approx(cross_entropy(last, 1), rel=1e-5)
    halves = cross_entropy(real, 1) + cross_entropy(last, 0)
    assert float(discriminator_loss(Verdict(real, last))) == pytest.approx(halves / 2, rel=1e-5)
    shared = (cross_entropy(last, 0) + cross_entropy(other, 0)) / 2
    found = float(discriminator_loss(Verdict(real, last, (other,))))
    assert found == pytest.approx((cross_entropy(real, 1) + shared) / 2, rel=1e-5)
    total, parts = refinement_loss(last, a, b, mask, weight=3)
    assert float(total) == pytest.approx(cross_entropy(last, 1) + 3 * wanted, rel=1e-5)
    assert parts.keys() == {"adversarial", "reconstruction"}


@pytest.mark.parametrize(
    ("call", "message"),
    (
        (lambda: PG2((31, 16)), r"expected images 32 pixels high at least, got \(31, 16\)"),
        (lambda: PG2((128, 24)), r"expected an image size in multiples of 16, got \(128, 24\)"),
        (lambda: Discriminator(arrangement="triple"), "unknown arrangement 'triple'; choose from pairwise"),
        (lambda: pose_maps(torch.zeros(18, 2), SIZE), r"expected keypoints \(B, 18, 2\), got \(18, 2\)"),
        (lambda: pose_mask(torch.zeros(1, 17, 2), SIZE), r"expected keypoints .* got \(1, 17, 2\)"),
        (lambda: pose_maps(torch.zeros(1, 18, 2), SIZE, radius=-1), "expected a radius >= 0, got -1"),
        (lambda: pose_mask(torch.zeros(1, 18, 2), SIZE, radius=0), "expected a radius >= 1, got 0"),
        (lambda: network().coarse(images(size=(32, 32)), poses()), r"expected images \(B, 3, 32, 16\)"),
        (lambda: network().coarse(images(), poses(2)), "expected keypoints of 3 images, got those of 2"),
        (lambda: network().coarse(images(), poses()[:, :17]), r"expected keypoints .* got \(3, 17, 2\)"),
    ),
)  # fmt: skip
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
