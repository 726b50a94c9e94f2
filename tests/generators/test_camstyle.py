"""Images in the style of other cameras: networks by hand, what they promise, and the distance of colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch import Tensor, nn
from torch.nn import functional as F

from tests import reference
from tests.generators.networks import arrays, rand, same, seeded, snapshot
from torchreid_genext.evaluation.camera_colors import ColorStatistics, color_distance, color_statistics
from torchreid_genext.generators._camstyle_layers import exponential
from torchreid_genext.generators._camstyle_networks import ResNetGenerator, initialize
from torchreid_genext.generators.camstyle import (
    CameraPair,
    CameraPairs,
    CameraStyle,
    ImagePool,
    PairDiscriminator,
    PatchDiscriminator,
    least_squares,
)

SIZE = (16, 8)
SOURCE, TARGET = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 2, 0, 2])


def noisy(network: nn.Module) -> nn.Module:
    """As if trained: no weight is zero."""
    random = seeded()
    for tensor in network.parameters():
        tensor.data.copy_(0.3 * torch.randn(tensor.shape, generator=random))
    return network.eval()


def style(**settings: Any) -> CameraStyle:
    return noisy(CameraStyle(3, **{"image_size": SIZE, "width": 3, "blocks": 2, **settings}))


def pair(first: int = 0, second: int = 2, **settings: Any) -> CameraPair:
    return noisy(CameraPair(first, second, **{"image_size": SIZE, "width": 3, "blocks": 2, **settings}))


def people(count: int = 4, size: tuple[int, int] = SIZE) -> Tensor:
    return 2 * rand(count, 3, *size) - 1


def seeds(count: int = 4) -> list[torch.Generator]:
    return [seeded(number) for number in range(count)]


def test_official_networks_have_as_many_parameters_as_the_papers() -> None:
    made = ResNetGenerator(), PatchDiscriminator(norm="instance")
    tracked = ResNetGenerator(2, dropout=0.5, tracked=True)
    assert [sum(p.numel() for p in each.parameters()) for each in made] == [11_378_179, 2_764_737]
    assert sum("running" in name for name, _ in tracked.named_buffers()) == 2 * 23
    assert len(tracked.dropouts) == 9


def test_official_generator_equals_its_description() -> None:
    made, images = noisy(ResNetGenerator(3, 2)), people(2)
    wanted = [reference.cyclegan_generator(arrays(made), image, 2) for image in images.double().numpy()]
    np.testing.assert_allclose(made(images).detach(), wanted, atol=1e-4)


def test_official_discriminator_equals_its_description() -> None:
    made, image = noisy(PatchDiscriminator(width=3, layers=2, norm="instance")), people(1, (32, 16))
    state, x = arrays(made), image[0].double().numpy()
    for number, stride in ((0, 2), (2, 2), (5, 1), (8, 1)):
        x = reference.strided(x, state[f"model.{number}.weight"], state[f"model.{number}.bias"], stride, 1)
        x = x if number in (0, 8) else reference.instance_normalized(x)
        x = x if number == 8 else np.where(x > 0, x, 0.2 * x)
    np.testing.assert_allclose(made(image).detach()[0], x[0], atol=1e-5)


@pytest.mark.parametrize(("layers", "seen"), [(3, 70), (2, 34)])
def test_a_patch_is_as_large_as_it_is_said_to_be(layers: int, seen: int) -> None:
    image = rand(1, 3, 128, 128).requires_grad_()
    answers = PatchDiscriminator(width=2, layers=layers)(image)
    middle = answers.shape[1] // 2
    answers[0, middle, middle].backward()
    rows = image.grad.abs().sum((0, 1, 3)).nonzero()[:, 0]
    assert rows.max() - rows.min() + 1 == seen


def test_answers_are_those_of_the_camera_that_is_asked_for() -> None:
    made, images = PatchDiscriminator(3, width=4, layers=2).eval(), people(4, (32, 16))
    everyone = made.model(images)
    for row, camera in enumerate(TARGET.tolist()):
        assert torch.equal(made(images, TARGET)[row], everyone[row, camera])
    assert torch.equal(made(images), everyone[:, 0])


def test_spectral_norm_sees_a_change_of_tone_that_instance_norm_takes_away() -> None:
    torch.manual_seed(0)
    images, changes = rand(8, 3, 64, 32), {}
    for norm in ("spectral", "instance"):
        made = PatchDiscriminator(width=8, layers=2, norm=norm).eval()
        answers = made(images)
        changes[norm] = ((made(0.5 * images) - answers).abs().mean() / answers.std()).item()
    assert changes["spectral"] > 2 * changes["instance"]


def test_pair_of_discriminators_judges_each_image_by_its_cameras_own() -> None:
    made, images = PairDiscriminator((4, 1), width=2, layers=1, norm="instance"), people()
    answers = made(images, torch.tensor([1, 4, 4, 1]))
    for row, judge in enumerate((1, 0, 0, 1)):
        torch.testing.assert_close(answers[row], made.judges[judge](images[row : row + 1])[0])


def naive_style(made: CameraStyle, image: Tensor, source: int, target: int) -> Tensor:
    """One image through the layers, with the scales and shifts of its two cameras."""

    def normed(layer: nn.Module, x: Tensor) -> Tensor:
        own = layer.norm.source.weight[source] + layer.norm.target.weight[target]
        scale, shift = own.reshape(2, -1, 1, 1)
        x = layer.conv(x[None])[0]
        x = torch.stack([(c - c.mean()) / (c.var(unbiased=False) + 1e-5).sqrt() for c in x])
        return x * (1 + scale) + shift

    x = toned = naive_tone(made, image, source, target)
    for layer in made.layers:
        if hasattr(layer, "layer"):
            x = x + normed(layer, normed(layer.layer, x).relu())
        else:
            x = normed(layer, x).relu()
    gain, offset = made.head(x[None])[0].chunk(2)
    return toned * (1 + gain) + offset


def naive_tone(made: CameraStyle, image: Tensor, source: int, target: int) -> Tensor:
    """Undo what one camera does to each pixel, and do what the other does."""
    state = {name: tensor.double().numpy() for name, tensor in made.tone.state_dict().items()}
    done, wanted = (expm(state["logarithm"][camera]) for camera in (source, target))
    pixels = image.double().flatten(1).T.numpy()
    neutral = [np.linalg.solve(done, pixel - state["offset"][source]) for pixel in pixels]
    toned = np.array([wanted @ pixel + state["offset"][target] for pixel in neutral])
    return torch.from_numpy(toned.T).float().view_as(image)


def test_there_and_back_and_to_itself_tone_changes_nothing() -> None:
    tone, images = style().tone, people()
    there = tone(images, SOURCE, TARGET)
    assert (there - images).abs().amax((1, 2, 3)).min() > 0.1
    torch.testing.assert_close(tone(there, TARGET, SOURCE), images, rtol=0, atol=1e-4)
    torch.testing.assert_close(tone(images, SOURCE, SOURCE), images, rtol=0, atol=1e-5)


def test_style_is_tone_gain_and_offset_from_features_that_cameras_scale_and_shift() -> None:
    made, images = style(), people()
    found = made(images, SOURCE, TARGET)
    wanted = [naive_style(made, *each) for each in zip(images, SOURCE.tolist(), TARGET.tolist())]
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made.generate(images, SOURCE, TARGET), found.detach().clamp(-1, 1))


def test_a_new_network_changes_nothing_and_learns_in_all_its_parts() -> None:
    made, images = CameraStyle(3, image_size=SIZE, width=3, blocks=1), people()
    torch.testing.assert_close(made.generate(images, SOURCE, TARGET), images)
    for _ in range(2):  # behind a head of zeros nothing is told what to do
        loss = (made(images, SOURCE, TARGET) - 0.5).square().mean()
        made.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter -= parameter.grad
    zeros = [p for name, p in made.named_parameters() if ".norm." in name or "tone" in name]
    assert all(parameter.any() for parameter in zeros)


def test_both_cameras_have_a_say_and_constant_channels_would_have_none() -> None:
    made, images = style(), people(1).repeat(9, 1, 1, 1)
    source, target = torch.cartesian_prod(torch.arange(3), torch.arange(3)).T
    found = made.generate(images, source, target)
    assert len(found.flatten(1).unique(dim=0)) == 9
    label = (
        torch.cat([images[:1], torch.ones(1, 1, *SIZE)], 1),
        torch.cat([images[:1], images[:1, :1] * 0], 1),
    )
    conv = nn.Conv2d(4, 5, 3)  # of StarGAN's inputs
    torch.testing.assert_close(*(F.instance_norm(conv(each)) for each in label), rtol=1e-3, atol=1e-3)


KINDS = {
    "style": lambda: (style(), SOURCE, TARGET),
    "pair": lambda: (pair(), torch.tensor([0, 2, 0, 2]), torch.tensor([2, 0, 2, 0])),
    "official": lambda: (pair(official=True), torch.tensor([0, 2, 0, 2]), torch.tensor([2, 0, 2, 0])),
    "pairs": lambda: (CameraPairs([pair(0, 1), pair(1, 2), pair(2, 0)]), SOURCE, TARGET),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_depends_on_its_own_inputs_alone(kind: str) -> None:
    (made, source, target), images = KINDS[kind](), people()
    together = made.generate(images, source, target, generators=seeds())
    assert together.shape == images.shape and together.dtype == torch.float32 and not together.requires_grad
    assert together.abs().max() <= 1
    assert torch.equal(together, made.generate(images, source, target, generators=seeds()))
    for row, random in enumerate(seeds()):
        one = slice(row, row + 1)
        alone = made.generate(images[one], source[one], target[one], generators=[random])
        torch.testing.assert_close(alone, together[one], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["style", "pair", "official"])
def test_saved_networks_come_back_and_run_in_half_precision(kind: str, tmp_path: Path) -> None:
    (made, source, target), images = KINDS[kind](), people()
    wanted = made.generate(images, source, target)
    again = type(made).load(made.save(tmp_path / "style.safetensors"))
    assert torch.equal(again.generate(images, source, target), wanted) and again.config == made.config
    half = again.to(torch.bfloat16).generate(images, source, target)
    assert half.dtype == torch.float32 and (half - wanted).abs().mean() < 0.05


def test_official_dropout_is_on_in_generation_and_each_image_has_its_own(tmp_path: Path) -> None:
    made, images = pair(official=True), people(1).repeat(2, 1, 1, 1)
    cameras = torch.tensor([0, 0]), torch.tensor([2, 2])
    before = snapshot(made)
    first, second = made.generate(images, *cameras, generators=seeds(2))
    assert not torch.equal(first, second) and same(made, before) and not made.training
    unseeded = made.generate(images, *cameras)
    torch.testing.assert_close(unseeded, first.expand_as(unseeded))
    quiet = pair()
    quiet.load_state_dict({name: tensor for name, tensor in old_names(made) if "running" not in name
                           and "batches" not in name})  # fmt: skip
    assert not torch.allclose(quiet.generate(images, *cameras)[0], first, atol=1e-3)


def old_names(made: CameraPair) -> list[tuple[str, Tensor]]:
    """Of the same layers without dropout, which stands before the second convolution of a block."""
    return [
        (name.replace("conv_block.6", "conv_block.5"), tensor) for name, tensor in made.state_dict().items()
    ]


def test_running_statistics_are_kept_in_training_and_asked_for_never() -> None:
    made, images = pair(official=True), people()
    cameras = torch.tensor([0, 2, 0, 2]), torch.tensor([2, 0, 2, 0])
    wanted = made.generate(images, *cameras)
    with torch.no_grad():
        made.train()(images, *cameras)
    statistics = [buffer for name, buffer in made.named_buffers() if name.endswith("running_mean")]
    assert all(buffer.any() for buffer in statistics)
    assert torch.equal(made.eval().generate(images, *cameras), wanted)


def test_dropout_by_generators_keeps_and_scales_as_torchs_does() -> None:
    layer = ResNetGenerator(2, 1, dropout=0.25).dropouts[0]
    layer.generators = seeds(2)
    found = layer(torch.ones(2, 50, 20, 20))
    torch.testing.assert_close(found.unique(), torch.tensor([0, 1 / 0.75]))
    assert (found > 0).float().mean().item() == pytest.approx(0.75, abs=0.01)


def test_the_target_decides_which_network_of_a_pair_draws() -> None:
    made, images = pair(), people(2)
    cameras = torch.tensor([0, 2]), torch.tensor([2, 2])  # the second is to stay as it is
    torch.testing.assert_close(made(images, *cameras), made.towards[1](images))


def test_pairs_answer_with_the_model_of_both_cameras() -> None:
    parts = [pair(0, 1), pair(1, 2), pair(2, 0)]
    for number, part in enumerate(parts):
        noisy(part).towards[0].model[1].bias.data += number
    found = CameraPairs(parts).generate(people(), SOURCE, TARGET)
    for row, part in enumerate((0, 1, 2, 2)):
        one = slice(row, row + 1)
        wanted = parts[part].generate(people()[one], SOURCE[one], TARGET[one])
        torch.testing.assert_close(found[one], wanted)


def test_cameras_and_sizes_that_do_not_fit_are_refused() -> None:
    images, cameras = people(1), (torch.tensor([0]), torch.tensor([3]))
    with pytest.raises(ValueError, match="unknown camera 3; choose from 0, 1, 2"):
        style().generate(images, *cameras)
    with pytest.raises(ValueError, match="unknown camera 3; choose from 0, 2"):
        pair().generate(images, *cameras)
    with pytest.raises(ValueError, match=r"expected pairs \[\(0, 2\)\], got images of \(0, 3\)"):
        CameraPairs([pair()]).generate(images, *cameras)
    with pytest.raises(ValueError, match=r"expected images \(B, 3, 16, 8\), got \(1, 3, 8, 16\)"):
        style().generate(images.mT, *cameras)
    for size, rule in (((16, 6), "multiples of 4"), ((16, 4), "an image size of 8 or more")):
        with pytest.raises(ValueError, match=rule):
            CameraStyle(2, image_size=size)
    with pytest.raises(ValueError, match="two or more cameras, got 1"):
        CameraStyle(1)
    with pytest.raises(ValueError, match="expected two cameras, got 2 twice"):
        CameraPair(2, 2)
    with pytest.raises(ValueError, match=r"each pair of cameras once, got \(0, 2\) again"):
        CameraPairs([pair(), pair(2, 0)])
    with pytest.raises(ValueError, match="pairs of one image size, got"):
        CameraPairs([pair(), pair(1, 2, image_size=(16, 16))])
    with pytest.raises(ValueError, match="unknown norm 'batch'; choose from spectral, instance"):
        PatchDiscriminator(norm="batch")
    with pytest.raises(ValueError, match="at least one layer, got 0"):
        PatchDiscriminator(layers=0)


def test_weights_begin_as_the_authors_do() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(30, 40, 5), nn.ConvTranspose2d(40, 30, 5))
    initialize(network)
    for layer in network:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02) and not layer.bias.any()


def numbered(first: int, count: int) -> Tensor:
    return torch.arange(first, first + count).float()[:, None, None, None].expand(-1, 3, 2, 2)


@pytest.mark.parametrize("size", [3, 4, 7])
def test_pool_shows_what_a_pool_of_one_image_after_the_other_shows(size: int) -> None:
    pool, batches, decisions, shown = ImagePool(size, (2, 2)), [], [], []
    for step in range(12):
        new = numbered(3 * step, 3)
        random = seeded(step)
        places = torch.randperm(size, generator=random)[:3].tolist()
        decisions.append((places, (torch.rand(3, generator=random) < 0.5).tolist()))
        images, cameras = pool.exchange(new, new[:, 0, 0, 0].long() + 100, seeded(step))
        assert torch.equal(images[:, 0, 0, 0].long() + 100, cameras)
        batches.append(new[:, 0, 0, 0].tolist())
        shown.append(images[:, 0, 0, 0].tolist())
    assert shown == reference.image_pool(size, batches, decisions) and shown != batches


def test_half_of_what_a_full_pool_shows_is_old() -> None:
    pool, old = ImagePool(50, (2, 2)), 0
    for step in range(60):
        images, _ = pool.exchange(numbered(20 * step, 20), torch.zeros(20).long(), seeded(step))
        old += int((images[:, 0, 0, 0] < 20 * step).sum()) if step >= 3 else 0
    assert old / (57 * 20) == pytest.approx(0.5, abs=0.05)


def test_pool_is_changed_in_place_and_without_places_there_is_none() -> None:
    pool = ImagePool(4, (2, 2))
    before = {name: buffer.data_ptr() for name, buffer in pool.named_buffers()}
    pool.exchange(numbered(1, 3), torch.arange(3), seeded())
    assert {name: buffer.data_ptr() for name, buffer in pool.named_buffers()} == before
    assert pool.count == 3 and pool.images[:, 0, 0, 0].tolist() == [1, 2, 3, 0]
    with pytest.raises(ValueError, match="a pool of at least a batch, 5 images, got 4"):
        pool.exchange(numbered(1, 5), torch.arange(5), seeded())
    images = numbered(1, 5)
    assert ImagePool(0, (2, 2)).exchange(images, torch.arange(5), seeded())[0] is images


def test_adversarial_loss_is_the_mean_square_of_what_is_missing() -> None:
    answers = torch.tensor([[0.5, -1.0], [2.0, 1.0]])
    assert least_squares(answers, True).item() == pytest.approx((0.25 + 4 + 1 + 0) / 4)
    assert least_squares(answers, False).item() == pytest.approx((0.25 + 1 + 4 + 1) / 4)


def test_distance_of_colors_equals_the_formula_pixel_by_pixel() -> None:
    a, b = rand(3, 3, 6, 4), 0.3 + 0.5 * rand(2, 3, 6, 4, seed=1) ** 2
    b[:, 1] = 0.7 * b[:, 0] + 0.3 * b[:, 1]
    found = color_distance(color_statistics(2 * a - 1), color_statistics(2 * b - 1))
    assert found == pytest.approx(reference.color_distance(a.double().numpy(), b.double().numpy()), rel=1e-6)
    assert found == pytest.approx(color_distance(color_statistics(2 * b - 1), color_statistics(2 * a - 1)))


def test_statistics_are_those_of_all_pixels_in_bytes_as_in_floats() -> None:
    images = (rand(300, 3, 3, 2) * 256).byte()
    found = color_statistics(images)
    pixels = images.double().movedim(1, 0).flatten(1).numpy() / 255
    np.testing.assert_allclose(found.mean, pixels.mean(1), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(pixels, bias=True), rtol=1e-9, atol=1e-12)
    other = color_statistics(images.float() / 127.5 - 1)
    assert color_distance(found, other) < 1e-10


def test_colors_without_spread_and_without_images() -> None:
    grey = ColorStatistics(torch.full((3,), 0.5).double(), torch.zeros(3, 3).double())
    white = ColorStatistics(torch.ones(3).double(), torch.zeros(3, 3).double())
    assert color_distance(grey, white) == pytest.approx(0.75) and color_distance(grey, grey) == 0
    with pytest.raises(ValueError, match=r"expected images \(N, 3, H, W\), got \(0, 3, 4, 4\)"):
        color_statistics(torch.zeros(0, 3, 4, 4))


def test_exponentials_of_small_matrices_are_those_of_torch() -> None:
    for norm in (0.0, 0.1, 1.0, 4.0):
        matrices = norm * (rand(5, 3, 3, seed=1) - 0.5)
        wanted = torch.matrix_exp(matrices.double())
        torch.testing.assert_close(exponential(matrices).double(), wanted, rtol=2e-6, atol=2e-6)
    leaf = rand(2, 3, 3, seed=2).double().requires_grad_()
    assert torch.autograd.gradcheck(exponential, leaf)
