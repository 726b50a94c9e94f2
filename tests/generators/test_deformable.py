"""The Deformable GAN as users call it, and its losses against loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests import reference
from tests.generators.networks import awake, rand, randn, same, snapshot
from tests.generators.poses import standing
from torchreid_genext import checkpoints
from torchreid_genext.generators._deformable_networks import ScalarNorm
from torchreid_genext.generators._deformable_warp import carried
from torchreid_genext.generators.deformable import (
    SKIPS,
    DeformableGAN,
    Discriminator,
    OrientedGradients,
    VGG19Features,
    deceiving_loss,
    discriminating_loss,
    nearest_neighbour_map,
)
from torchreid_genext.generators.identity import IdentityGenerator

SIZE = (32, 16)
ENCODER, DECODER = (4, 5, 6, 7), (6, 5, 4)


def network(**settings: Any) -> DeformableGAN:
    torch.manual_seed(0)
    return awake(DeformableGAN(SIZE, **{"encoder": ENCODER, "decoder": DECODER, **settings}))


def scene(count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Images and the joints that they have and shall have, some of which are missing."""
    targets = standing(count, SIZE, seed=1)
    targets[0, 9] = targets[-1, 14] = -1.0
    return 2 * rand(count, 3, *SIZE) - 1, standing(count, SIZE), targets


VARIANTS = [
    *({"skips": skips} for skips in SKIPS), {"aggregation": "masked_max"}, {"aggregation": "avg"},
    {"poses": "stickman"}, {"estimator": "least_squares"}, {"sigma": 4.0},
]  # fmt: skip


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_every_variant_draws_images_alone_as_in_a_batch_and_comes_back_from_its_file(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    made, inputs = network(**settings), scene()
    images = made.generate(*inputs)
    assert images.shape == inputs[0].shape and images.dtype == torch.float32 and not images.requires_grad
    assert images.abs().max() <= 1 and images.std() > 0.01
    for i in range(3):
        alone = made.generate(*(each[i : i + 1] for each in inputs))
        torch.testing.assert_close(alone, images[i : i + 1], atol=1e-5, rtol=0)
    loaded = DeformableGAN.load(made.save(tmp_path / "weights.safetensors"))
    assert loaded.config == made.config and same(loaded, snapshot(made))
    assert torch.equal(loaded.generate(*inputs), images)


@pytest.mark.parametrize("settings", VARIANTS[:5], ids=str)
def test_what_is_drawn_depends_on_image_and_both_poses(settings: dict[str, Any]) -> None:
    made, (images, keypoints, targets) = network(**settings), scene()
    drawn = made.generate(images, keypoints, targets)
    for changed in (
        (-images, keypoints, targets),
        (images, targets, targets),
        (images, keypoints, keypoints),
    ):
        assert (made.generate(*changed) - drawn).abs().max() > 1e-3


def test_people_without_joints_are_drawn_too() -> None:
    images, keypoints, targets = scene()
    nobody = torch.full_like(keypoints, -1.0)
    for poses in ((nobody, targets), (keypoints, nobody), (nobody, nobody)):
        assert network().generate(images, *poses).isfinite().all()


def test_bfloat16_draws_nearly_the_same() -> None:
    made, inputs = network(), scene()
    exact = made.generate(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = made.generate(*inputs)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().mean() < 0.02
    assert (made.bfloat16().generate(*inputs) - exact).abs().mean() < 0.03


def test_gradients_reach_every_parameter_and_the_image() -> None:
    images, keypoints, targets = scene()
    made = network().train()
    images.requires_grad_()
    made(images, keypoints, targets).square().sum().backward()
    assert all(parameter.grad.any() for parameter in made.parameters()) and images.grad.any()


def test_dropout_forgets_in_training_only() -> None:
    made, inputs = network(dropout=0.5), scene()
    assert torch.equal(made(*inputs), made(*inputs))
    made.train()
    assert not torch.equal(made(*inputs), made(*inputs))
    assert torch.equal(network(dropout=0.0).train()(*inputs), made.eval()(*inputs))


def test_two_deepest_levels_join_where_they_are_and_others_where_the_body_goes() -> None:
    made, (images, keypoints, targets) = network(aggregation="masked_max"), scene(1)
    still = carried(images, made.geometry(keypoints, keypoints)[0])
    assert torch.equal(still, images)  # to their own place
    nobody = torch.full_like(keypoints, -1.0)
    assert not carried(images, made.geometry(nobody, targets)[0]).any()
    assert carried(images, network(skips="full").geometry(keypoints, targets)[0]).any()


def test_official_sizes() -> None:
    with torch.device("meta"):
        made, judge = DeformableGAN(), Discriminator()
    count = lambda network: sum(parameter.numel() for parameter in network.parameters())  # noqa: E731
    encoder = 16 * (64 * 128 + 128 * 256 + 256 * 512 + 512 * 512 + 512 * 512)
    decoder = 16 * (1024 * 512 + 1536 * 512 + 1536 * 512 + 1024 * 256 + 512 * 128)
    stems, head, norms = 9 * (21 + 18) * 64 + 128, 9 * 256 * 3 + 3, 2 * (8 + 5)
    assert count(made) == 2 * encoder + decoder + stems + head + norms
    levels = 16 * (42 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512)
    assert count(judge) == levels + 64 + 2 * 3


def test_normalisation_is_over_places_and_channels_with_eps_beside_the_deviation() -> None:
    norm, x = ScalarNorm(), 3 * randn(2, 4, 5, 3) + 1
    norm.weight.data, norm.bias.data = torch.tensor([1.5]), torch.tensor([0.2])
    wanted = [1.5 * (each - each.mean()) / (each.std(unbiased=False) + 1e-3) + 0.2 for each in x]
    torch.testing.assert_close(norm(x), torch.stack(wanted))
    flat = torch.ones(1, 4, 5, 3, requires_grad=True)
    norm(flat).sum().backward()
    assert flat.grad.isfinite().all()


def test_discriminator_judges_pairs_and_poses() -> None:
    torch.manual_seed(0)
    judge, (images, keypoints, targets) = awake(Discriminator(SIZE, widths=(4, 5))), scene()
    inputs = [images, keypoints, images.flip(0), targets]
    verdict = judge(*inputs)
    assert verdict.shape == (3, 3) and ((verdict > 0) & (verdict < 1)).all()
    for position in range(4):
        changed = [each.roll(1, 0) if i == position else each for i, each in enumerate(inputs)]
        assert (judge(*changed) - verdict).abs().max() > 1e-4
    torch.testing.assert_close(judge(*(each[:1] for each in inputs)), verdict[:1])
    with torch.autocast("cpu", torch.bfloat16):
        assert judge(*inputs).dtype == torch.float32


def test_adversarial_losses_are_logarithms_of_probabilities_and_never_infinite() -> None:
    real, fake = rand(4, 3).double(), rand(4, 3, seed=1).double()
    reals, fakes = real.flatten().tolist(), fake.flatten().tolist()
    wanted = np.mean([-np.log(p + 1e-7) for p in reals])
    wanted += np.mean([-np.log(1 - p + 1e-7) for p in fakes])
    assert discriminating_loss(real, fake).item() == pytest.approx(wanted)
    assert deceiving_loss(fake).item() == pytest.approx(np.mean([-np.log(p + 1e-7) for p in fakes]))
    sure = torch.ones(2, 3)
    assert discriminating_loss(0 * sure, sure).isfinite() and deceiving_loss(0 * sure).isfinite()


@pytest.mark.parametrize("window", (1, 3, 5, 13))
def test_nearest_neighbours_are_those_of_a_loop(window: int) -> None:
    real, generated = randn(2, 3, 6, 5), randn(2, 3, 6, 5, seed=1)
    found = nearest_neighbour_map(real, generated, window=window)
    for one, *features in zip(found, real.numpy(), generated.numpy(), strict=True):
        np.testing.assert_allclose(one, reference.nearest_neighbour(*features, window), rtol=1e-5)


def test_nearest_neighbour_loss_forgives_what_lies_a_little_aside() -> None:
    real = randn(1, 3, 8, 8)
    aside = real.roll((1, -1), (2, 3))
    assert nearest_neighbour_map(real, aside)[0, 1:, :-1].max() == 0
    assert nearest_neighbour_map(real, aside, window=1).min() > 0


def test_nearest_neighbour_loss_has_the_gradient_of_the_distance_to_the_nearest() -> None:
    real, generated = randn(1, 2, 4, 4).double(), randn(1, 2, 4, 4, seed=1).double().requires_grad_()
    nearest_neighbour_map(real, generated).sum().backward()
    step = 1e-3
    for place in ((0, 0, 0, 0), (0, 1, 2, 3)):
        further = generated.detach().clone()
        further[place] += step
        rise = nearest_neighbour_map(real, further).sum() - nearest_neighbour_map(real, generated).sum()
        assert rise.item() / step == pytest.approx(generated.grad[place].item(), abs=1e-2)


def test_oriented_gradients_are_colours_and_slopes_in_all_directions() -> None:
    ramp = torch.arange(8.0).expand(1, 3, 6, 8) / 8
    found = OrientedGradients(4)(ramp)
    assert torch.equal(found[:, :3], ramp)
    inner = found[0, 3:, 2, 3]
    torch.testing.assert_close(inner, torch.tensor([1 / 8, 0, 0, 0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(OrientedGradients(4)(ramp.mT)[0, 3:, 3, 2], inner.roll(1), atol=1e-6, rtol=0)
    assert not OrientedGradients()(torch.ones(1, 3, 5, 5))[:, 3:].abs().gt(1e-6).any()


@pytest.mark.parametrize(("layer", "depth"), (("block1_conv1", 2), ("block1_conv2", 4), ("block2_conv1", 7)))
def test_features_are_torchvisions(layer: str, depth: int, tmp_path: Path) -> None:
    sides = (3, 64, 64, 128)
    convolutions = [nn.Conv2d(i, o, 3, padding=1) for i, o in zip(sides, sides[1:])]
    official = nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), nn.MaxPool2d(2),
                             convolutions[2], nn.ReLU())  # fmt: skip
    state = {f"features.{name}": tensor for name, tensor in official.state_dict().items()}
    path = checkpoints.save(tmp_path / "vgg19.safetensors", state)
    images = 2 * rand(2, 3, 8, 6) - 1
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    wanted = official[:depth](((images + 1) / 2 - mean) / std)
    torch.testing.assert_close(VGG19Features.load(path, layer)(images), wanted)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = checkpoints.save(tmp_path / "other.safetensors", {"features.0.weight": torch.ones(64, 3, 3, 3)})
    with pytest.raises(ValueError, match="features.0.bias"):
        VGG19Features.load(path)


def test_caffes_preprocessing_and_its_official_exchange_of_means() -> None:
    black = -torch.ones(1, 3, 2, 2)
    found = {kind: VGG19Features("block1_conv1", preprocessing=kind).prepare(black)[0, :, 0, 0].tolist()
             for kind in ("caffe", "official")}  # fmt: skip
    assert found["caffe"] == pytest.approx([-103.939, -116.779, -123.68])  # blue, green, red
    assert found["official"] == pytest.approx([-123.68, -116.779, -103.939])
    red = torch.tensor([1.0, -1.0, -1.0])[None, :, None, None]
    prepared = VGG19Features("block1_conv1", preprocessing="caffe").prepare(red)
    assert prepared.flatten().tolist() == pytest.approx([-103.939, -116.779, 255 - 123.68])


@pytest.mark.parametrize(
    ("settings", "message"),
    (
        ({"skips": "stn"}, "unknown skips 'stn'; choose from deformable, full, none"),
        ({"aggregation": "sum"}, "unknown aggregation 'sum'; choose from max, avg, masked_max"),
        ({"estimator": "x"}, "unknown estimator 'x'; choose from dlt, least_squares"),
        ({"poses": "x"}, "unknown poses 'x'; choose from heatmaps, stickman"),
        ({"sigma": 0.0}, "expected sigma > 0, got 0.0"),
        ({"decoder": (4, 4)}, "expected 3 widths of the decoder, got 2"),
        ({"encoder": (4, 4, 4, 4, 4, 4), "decoder": (4, 4, 4, 4, 4)}, "an image size in multiples of 32"),
    ),
)
def test_networks_that_cannot_be_built_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(**settings)


def test_other_unknown_words_and_sizes_are_refused(tmp_path: Path) -> None:
    images, keypoints, targets = scene()
    with pytest.raises(ValueError, match=r"expected images \(B, 3, 32, 16\), got \(3, 3, 16, 16\)"):
        network()(images[:, :, :16], keypoints, targets)
    with pytest.raises(ValueError, match=r"expected keypoints of shape \(3, 18, 2\), got \(2, 18, 2\)"):
        network()(images, keypoints, targets[:2])
    with pytest.raises(ValueError, match="images large enough for 4 widths, got 32 x 16"):
        Discriminator(SIZE)
    with pytest.raises(ValueError, match="expected an odd window, got 4"):
        nearest_neighbour_map(images, images, window=4)
    with pytest.raises(ValueError, match="unknown layer 'conv1'; choose from block1_conv1"):
        VGG19Features("conv1")
    with pytest.raises(ValueError, match="unknown preprocessing 'tf'; choose from torchvision, caffe, offic"):
        VGG19Features(preprocessing="tf")
    with pytest.raises(ValueError, match="expected a file of kind 'identity'"):
        IdentityGenerator.load(network().save(tmp_path / "weights.safetensors"))


def test_it_learns_to_put_people_where_they_shall_be() -> None:
    """A few steps on one pair, so that what is learnt is at least learnable."""
    made, (images, keypoints, targets) = network(dropout=0.0).train(), scene(2)
    wanted = carried(images, made.geometry(keypoints, targets)[0]).clamp(-0.9, 0.9)
    optimizer = torch.optim.Adam(made.parameters(), 5e-3)
    errors = []
    for _ in range(15):
        loss = F.l1_loss(made(images, keypoints, targets), wanted)
        errors.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert errors[-1] < 0.8 * errors[0]
