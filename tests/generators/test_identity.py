from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import reference
from tests.generators.networks import CODE, SIZE, WIDTHS, arrays, awake, generator, rand, randn, seeded
from torchreid_genext.generators._diffusion import PREDICTIONS
from torchreid_genext.generators.identity import (
    IdentityDenoiser,
    IdentityGenerator,
    IdentityTable,
    appearance_codes,
    denoising_loss,
    interpolate,
)


def naive(made: IdentityGenerator, code: Tensor):
    """The generator's denoiser of one normalised image, in NumPy."""
    state = {name.removeprefix("denoiser.unet."): array for name, array in arrays(made).items()}
    width, depth = made.denoiser.embedding_width, made.config["depth"]

    def predict(noisy: np.ndarray, noise: float) -> np.ndarray:
        context = np.array(reference.sinusoidal(noise**2, width))
        return reference.unet(state, noisy, code.double().numpy(), context, len(made.config["widths"]), depth)

    def denoise(noisy: np.ndarray, signal: float, noise: float):
        return reference.taken_apart(made.prediction, predict(noisy, noise), noisy, signal, noise)

    return predict, denoise


@pytest.mark.parametrize(
    ("widths", "depth", "code", "embedding"),
    (((4, 6), 1, 3, 2), ((2, 3, 4, 5), 2, 7, 8), ((5, 3, 4), 3, 1, 4)),
)
def test_denoiser_of_any_widths_answers_zero_before_training(
    widths: tuple[int, ...], depth: int, code: int, embedding: int
) -> None:
    denoiser = IdentityDenoiser(widths, depth=depth, code_width=code, embedding_width=embedding)
    inputs = randn(2, 3, 16, 8), rand(2), randn(2, code)
    assert torch.equal(denoiser(*inputs), torch.zeros(2, 3, 16, 8))
    assert awake(denoiser)(*inputs).std() > 0.1


def test_bfloat16_answers_nearly_as_float32() -> None:
    denoiser, inputs = generator().denoiser, (randn(4, 3, *SIZE), rand(4), randn(4, CODE))
    exact = denoiser(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = denoiser(*inputs)
    assert rounded.dtype == torch.bfloat16
    assert 0 < (rounded.float() - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_estimates_under_bfloat16_stay_float32(prediction: str) -> None:
    made, noisy, code = generator(prediction=prediction), randn(2, 3, *SIZE), randn(2, CODE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = made.denoise(noisy, made.schedule(rand(2)), code)
    assert found.signal.dtype == found.noise.dtype == torch.float32


def test_people_drawn_under_bfloat16_look_the_same() -> None:
    made, code, noise = generator(), randn(2, CODE), randn(2, 3, *SIZE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images = made(code, noise, steps=3)
    torch.testing.assert_close(images, made(code, noise, steps=3), atol=0.05, rtol=0)


def test_noise_level_and_code_reach_the_answer_and_gradients_reach_the_table() -> None:
    made, noisy, variance = generator(), randn(2, 3, *SIZE), rand(2)
    code = made.table(torch.tensor([1, 4]))
    answer = made.denoiser(noisy, variance, code)
    assert (made.denoiser(noisy, 1 - variance, code) - answer).abs().max() > 1e-3
    assert (made.denoiser(noisy, variance, code + 0.5) - answer).abs().max() > 1e-3
    answer.square().sum().backward()
    touched = made.table.weight.grad.any(dim=1)
    assert touched.tolist() == [False, True, False, False, True, False, False]


@pytest.mark.parametrize("offender", (-1, 7, 1501))
def test_identity_outside_the_table_is_named(offender: int) -> None:
    with pytest.raises(ValueError, match=rf"expected identities in 0\.\.6, got {offender}"):
        IdentityTable(7, 3)(torch.tensor([0, offender, 6]))


def test_table_starts_small_and_gives_its_rows() -> None:
    table = IdentityTable(200, 10)
    assert 0.049 < table.weight.abs().max() <= 0.05
    assert abs(table.weight.mean()) < 0.005
    assert torch.equal(table(torch.tensor([3, 0, 3, 199])), table.weight[[3, 0, 3, 199]])


@pytest.mark.parametrize("size", ((10, 4), (8, 6), (0, 4), (8,), (8, 4, 3)))
def test_size_that_does_not_halve_is_refused(size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected an image size in multiples of 4, got"):
        IdentityGenerator(3, widths=WIDTHS, image_size=size)


def test_unknown_prediction_is_refused_when_built() -> None:
    with pytest.raises(ValueError, match="unknown prediction 'x'; choose from eps, v, signal"):
        generator(prediction="x")


@pytest.mark.parametrize("shape", ((2, 3, 8, 8), (2, 1, 8, 4), (3, 8, 4), (2, 3, 4, 8)))
def test_images_and_noise_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    made, wrong, code = generator(), rand(*shape), randn(2, CODE)
    message = r"expected images \(B, 3, 8, 4\), got \(" + ", ".join(map(str, shape)) + r"\)"
    with pytest.raises(ValueError, match=message):
        made(code, wrong)
    with pytest.raises(ValueError, match=message):
        made.invert(wrong, code)
    with pytest.raises(ValueError, match=message):
        denoising_loss(made, wrong, code, rand(2), randn(2, 3, *SIZE))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_people_equal_those_drawn_one_by_one_in_numpy(prediction: str) -> None:
    ends = {"max_signal_rate": 0.9, "min_signal_rate": 0.2}
    made = generator(prediction=prediction, mean=(0.4, 0.5, 0.6), variance=(0.04, 0.01, 0.09), **ends)
    code, noise = randn(2, CODE), randn(2, 3, *SIZE, seed=1)
    normalized = [
        reference.sampled(naive(made, code[i])[1], noise[i].double().numpy(), 3, **ends) for i in range(2)
    ]
    found = made.generate_normalized(code, noise, steps=3).detach()
    tolerance = 2e-4 * np.abs(normalized).max()  # variances in float32 leave 4e-4 rad in the highest phases
    np.testing.assert_allclose(found, normalized, atol=tolerance)
    scale = np.array([0.2, 0.1, 0.3])[:, None, None]
    wanted = np.clip(np.array([0.4, 0.5, 0.6])[:, None, None] + scale * np.array(normalized), 0, 1)
    np.testing.assert_allclose(made(code, noise, steps=3).detach(), wanted, atol=0.3 * tolerance)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_inverted_noise_equals_that_found_one_by_one_in_numpy(prediction: str) -> None:
    made = generator(prediction=prediction)
    code, images = randn(2, CODE), rand(2, 3, *SIZE)
    wanted = [
        reference.inverted(naive(made, code[i])[1], (images[i].double().numpy() - 0.5) / 0.25, 3, settle=2)
        for i in range(2)
    ]
    np.testing.assert_allclose(made.invert(images, code, steps=3).detach(), wanted, atol=1e-3, rtol=1e-3)


def test_same_noise_and_code_give_the_same_person_alone_or_in_a_batch() -> None:
    made, code, noise = generator(), randn(4, CODE), randn(4, 3, *SIZE, seed=1)
    together = made(code, noise)
    assert torch.equal(together, made(code, noise))
    assert 0 <= together.min() and together.max() <= 1 and together.std() > 0.05
    alone = [made(code[i : i + 1], noise[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
    assert (made(code.flip(0), noise) - together).abs().max() > 0.01


def test_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one step, got 0"):
        generator()(randn(2, CODE), randn(2, 3, *SIZE), steps=0)


def test_noise_of_an_image_depends_on_its_place_only() -> None:
    made = generator(image_size=(16, 8))
    many, few = made.noise(9, seeded(3)), made.noise(2, seeded(3))
    assert many.shape == (9, 3, 16, 8)
    assert torch.equal(many[:2], few)
    assert not torch.equal(many, made.noise(9, seeded(4)))
    assert abs(many.mean()) < 0.1 and abs(many.std() - 1) < 0.1


def test_codes_of_trained_identities_only_are_given() -> None:
    made = generator()
    assert torch.equal(made.trained_codes(), made.table.weight)
    made.trained[:] = torch.tensor([0, 1, 0, 0, 1, 0, 0], dtype=torch.bool)
    assert torch.equal(made.trained_codes(), made.table.weight[[1, 4]])
    assert not made.trained_codes().requires_grad


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("loss", ("l1", "l2"))
def test_loss_equals_its_formula_image_by_image(prediction: str, loss: str) -> None:
    made = generator(prediction=prediction, mean=(0.4, 0.5, 0.6), variance=(0.04, 0.01, 0.09))
    images, noise, code = rand(2, 3, *SIZE), randn(2, 3, *SIZE, seed=1), randn(2, CODE)
    t, wanted = torch.tensor([0.2, 0.9]), []
    mean, scale = (np.array(values)[:, None, None] for values in ((0.4, 0.5, 0.6), (0.2, 0.1, 0.3)))
    for i in range(2):
        x, e = (images[i].double().numpy() - mean) / scale, noise[i].double().numpy()
        s, n = reference.diffusion_rates(t[i].item())
        of_x, of_noise = reference.network_says(prediction, s, n)
        error = naive(made, code[i])[0](s * x + n * e, n) - (of_x * x + of_noise * e)
        wanted.append(np.mean(np.abs(error) if loss == "l1" else error**2))
    found = denoising_loss(made, images, code, t, noise, loss=loss).detach()
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_loss_unless_told_is_the_squared_error() -> None:
    arguments = generator(), rand(2, 3, *SIZE), randn(2, CODE), rand(2), randn(2, 3, *SIZE)
    assert torch.equal(denoising_loss(*arguments), denoising_loss(*arguments, loss="l2"))


def test_unknown_loss_lists_the_choices() -> None:
    arguments = generator(), rand(2, 3, *SIZE), randn(2, CODE), rand(2), randn(2, 3, *SIZE)
    with pytest.raises(ValueError, match="unknown loss 'huber'; choose from l1, l2"):
        denoising_loss(*arguments, loss="huber")


def test_ways_between_codes_start_and_end_there_and_arcs_keep_their_length() -> None:
    first, second, share = torch.randn(5), torch.randn(5), torch.linspace(0, 1, 4)
    for spherical in (False, True):
        way = interpolate(first, second, share, spherical=spherical)
        torch.testing.assert_close(way[[0, -1]], torch.stack([first, second]))
    torch.testing.assert_close(interpolate(first, second, share), torch.lerp(first, second, share[:, None]))
    x, y = torch.tensor([2.0, 0, 0]), torch.tensor([0, 4.0, 0])
    third = 3**0.5 / 2
    expected = [[2, 0, 0], [third * 8 / 3, 4 / 3, 0], [5 / 3, third * 10 / 3, 0], [0, 4, 0]]
    torch.testing.assert_close(interpolate(x, y, share, spherical=True), torch.tensor(expected))


def test_arcs_between_equal_directions_are_those_directions() -> None:
    code = torch.randn(4)
    way = interpolate(code, 2 * code, torch.tensor([0.0, 0.5, 1.0]), spherical=True)
    torch.testing.assert_close(way, torch.stack([code, 1.5 * code, 2 * code]))


def test_appearance_codes_tell_people_by_their_looks() -> None:
    kinds = torch.rand(2, 3, 32, 16)
    averages = torch.cat([kinds[:1].expand(3, -1, -1, -1), kinds[1:].expand(3, -1, -1, -1)])
    averages = averages + 0.01 * torch.rand(6, 3, 32, 16)
    codes = appearance_codes(averages, 4)
    assert codes.shape == (6, 4)
    torch.testing.assert_close(codes.square().mean(), torch.tensor(1.0))
    torch.testing.assert_close(codes.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    distances = torch.cdist(codes, codes)
    assert distances[:3, :3].max() < 0.2 * distances[:3, 3:].min()


def test_appearance_codes_keep_distances_and_fill_up_with_zeros() -> None:
    averages = torch.rand(4, 3, 16, 8, dtype=torch.float64).float()
    codes = appearance_codes(averages, 9)
    assert codes[:, 4:].abs().max() < 1e-5
    ratio = torch.pdist(codes) / torch.pdist(averages.flatten(1))
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
