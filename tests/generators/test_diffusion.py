from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import reference
from tests.generators.networks import rand, randn
from torchreid_genext.generators import _diffusion
from torchreid_genext.generators._diffusion import PREDICTIONS, AngleSchedule, Estimate, Normalizer, Rates

SHAPE = (3, 2, 4)  # three samples


def close(found: Tensor, wanted: np.ndarray, tolerance: float = 1e-5) -> None:
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found.double().numpy(), wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("ends", ((0.95, 0.02), (1.0, 0.3)))
def test_rates_are_those_of_an_evenly_growing_angle(ends: tuple[float, float]) -> None:
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    found = AngleSchedule(*ends)(t)
    wanted = np.array([reference.diffusion_rates(time, *ends) for time in t.tolist()]).T
    close(torch.stack(found), wanted, 1e-12)
    close(found.signal**2 + found.noise**2, np.ones(11), 1e-12)
    assert (found.signal[0].item(), found.signal[-1].item()) == pytest.approx(ends)


@pytest.mark.parametrize("ends", ((0.95, 0.0), (0.5, 0.5), (0.3, 0.6), (1.01, 0.1), (math.nan, 0.1)))
def test_rates_out_of_order_are_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=f"0 < min_signal_rate < max.* <= 1, got {ends[1]} and {ends[0]}"):
        AngleSchedule(*ends)


def test_mixing_weighs_each_sample_with_its_own_rates() -> None:
    x, noise, rates = randn(*SHAPE), randn(*SHAPE, seed=1), AngleSchedule()(torch.tensor([0.0, 0.4, 1.0]))
    wanted = [s * a + n * b for a, b, s, n in zip(x.numpy(), noise.numpy(), *map(Tensor.tolist, rates))]
    close(rates.mix(x, noise), np.array(wanted))


@pytest.mark.parametrize("width", (2, 6, 32))
def test_embedding_is_sines_then_cosines_at_geometric_frequencies(width: int) -> None:
    variance = rand(5).double()
    wanted = np.array([reference.sinusoidal(v, width) for v in variance.tolist()])
    close(_diffusion.sinusoidal(variance, width), wanted, 1e-9)
    single = _diffusion.sinusoidal(variance.float(), width)
    assert single.dtype == torch.float32
    close(single, np.array([reference.sinusoidal(v, width) for v in variance.float().tolist()]), 1e-6)


@pytest.mark.parametrize("width", (0, 5))
def test_embedding_of_an_odd_width_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match=f"expected an even embedding width, got {width}"):
        _diffusion.sinusoidal(rand(2), width)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_estimates_of_perfect_answers_are_the_truth(prediction: str) -> None:
    x, noise = randn(*SHAPE).double(), randn(*SHAPE, seed=1).double()
    rates = AngleSchedule()(torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64))
    answer = _diffusion.target(prediction, x, noise, rates)
    found = _diffusion.estimate(prediction, answer, rates.mix(x, noise), rates)
    torch.testing.assert_close(found.signal, x)
    torch.testing.assert_close(found.noise, noise)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_estimates_and_targets_equal_the_equations_solved_pixel_by_pixel(prediction: str) -> None:
    noisy, output = randn(*SHAPE).double(), randn(*SHAPE, seed=1).double()
    rates = AngleSchedule()(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    found = _diffusion.estimate(prediction, output, noisy, rates)
    asked = _diffusion.target(prediction, noisy, output, rates)
    for i, (signal, noise) in enumerate(zip(*map(Tensor.tolist, rates))):
        parts = reference.taken_apart(prediction, output[i].numpy(), noisy[i].numpy(), signal, noise)
        close(found.signal[i], parts[0])
        close(found.noise[i], parts[1])
        of_x, of_noise = reference.network_says(prediction, signal, noise)
        close(asked[i], of_x * noisy[i].numpy() + of_noise * output[i].numpy())


@pytest.mark.parametrize("function", (_diffusion.estimate, _diffusion.target))
def test_unknown_prediction_lists_the_choices(function) -> None:
    with pytest.raises(ValueError, match="unknown prediction 'x0'; choose from eps, v, signal"):
        function("x0", randn(*SHAPE), randn(*SHAPE), AngleSchedule()(rand(3)))


def bend(noisy, signal, noise):
    """An imperfect denoiser of any array: a smooth answer for the noise, which depends on everything."""
    answer = 0.6 * noisy - 0.3 * signal * noisy**2 / (1 + noisy**2) + 0.1 * noise
    return (noisy - noise * answer) / signal, answer


def bent(noisy: Tensor, rates: Rates) -> Estimate:
    return Estimate(*bend(noisy, *(rate.to(noisy.dtype)[:, None, None] for rate in rates)))


@pytest.mark.parametrize("steps", (1, 2, 7))
@pytest.mark.parametrize("ends", ({}, {"max_signal_rate": 0.8, "min_signal_rate": 0.2}))
def test_sampler_equals_its_loop_over_images_and_steps(steps: int, ends: dict[str, float]) -> None:
    noise = randn(*SHAPE).double()
    wanted = np.array([reference.sampled(bend, image.numpy(), steps, **ends) for image in noise])
    close(_diffusion.sample(bent, noise, steps, AngleSchedule(**ends)), wanted)


@pytest.mark.parametrize("steps", (1, 2, 7))
@pytest.mark.parametrize("settle", (0, 1, 3))
def test_inversion_equals_its_loop_over_images_and_steps(steps: int, settle: int) -> None:
    x = randn(*SHAPE).double()
    wanted = np.array([reference.inverted(bend, image.numpy(), steps, settle) for image in x])
    close(_diffusion.invert(bent, x, steps, AngleSchedule(), settle=settle), wanted)


def test_batch_equals_samples_one_by_one() -> None:
    noise = randn(*SHAPE)
    together = _diffusion.sample(bent, noise, 4, AngleSchedule())
    alone = [_diffusion.sample(bent, one[None], 4, AngleSchedule()) for one in noise]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", (1, 5))
def test_who_knows_the_image_draws_it_whatever_the_noise(prediction: str, steps: int) -> None:
    x, schedule = randn(*SHAPE).double(), AngleSchedule()

    def perfect(noisy: Tensor, rates: Rates) -> Estimate:
        signal, noise = (rate.double()[:, None, None] for rate in rates)
        answer = _diffusion.target(prediction, x, (noisy - signal * x) / noise, rates)
        return _diffusion.estimate(prediction, answer, noisy, rates)

    for seed in (1, 2):
        found = _diffusion.sample(perfect, randn(*SHAPE, seed=seed).double(), steps, schedule)
        torch.testing.assert_close(found, x, atol=1e-5, rtol=0)


def linear(noisy: Tensor, rates: Rates) -> Estimate:
    """The best that can be done if x is normal with variance 0.25."""
    signal, noise = (rate.to(noisy.dtype)[:, None, None] for rate in rates)
    x = noisy * signal * 0.25 / (0.25 * signal**2 + noise**2)
    return Estimate(x, (noisy - signal * x) / noise)


def error_of_return(steps: int, settle: int = 8) -> float:
    x, schedule = 0.5 * randn(*SHAPE).double(), AngleSchedule()
    noise = _diffusion.invert(linear, x, steps, schedule, settle=settle)
    return (_diffusion.sample(linear, noise, steps, schedule) - x).abs().max().item()


def test_inverted_noise_leads_back_the_better_the_more_steps() -> None:
    errors = [error_of_return(steps) for steps in (5, 20, 80, 320)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1 * errors[0] and errors[-1] < 0.02


def test_settling_finds_the_noise_under_which_the_image_is_the_answer() -> None:
    x, schedule = 0.5 * randn(*SHAPE).double(), AngleSchedule(0.95, 0.9)
    errors = []
    for settle in (0, 1, 2, 4, 30):
        noise = _diffusion.invert(linear, x, 1, schedule, settle=settle)
        errors.append((_diffusion.sample(linear, noise, 1, schedule) - x).abs().max().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.3 and errors[-1] < 1e-6
    assert error_of_return(80, settle=8) < error_of_return(80, settle=0)


@pytest.mark.parametrize("steps", (0, -1))
@pytest.mark.parametrize("function", (_diffusion.sample, _diffusion.invert))
def test_no_step_is_refused(function, steps: int) -> None:
    with pytest.raises(ValueError, match=f"expected at least one step, got {steps}"):
        function(bent, randn(*SHAPE), steps, AngleSchedule())


@pytest.mark.parametrize("shape", ((4, 3), (4, 3, 2, 5)))
def test_normalizer_centres_and_scales_each_channel_and_back(shape: tuple[int, ...]) -> None:
    x, mean, variance = rand(*shape), torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.04, 1.0, 0.25])
    normalizer = Normalizer(mean, variance)
    found = normalizer(x)
    for channel in range(3):
        wanted = (x[:, channel] - mean[channel]) / variance[channel] ** 0.5
        torch.testing.assert_close(found[:, channel], wanted)
    torch.testing.assert_close(normalizer.inverse(found), x)


def test_channel_that_never_changes_stays_finite_and_comes_back() -> None:
    normalizer = Normalizer(torch.tensor([0.5]), torch.zeros(1))
    x = torch.full((2, 1, 3, 3), 0.5)
    assert torch.equal(normalizer(x), torch.zeros_like(x))
    assert torch.equal(normalizer.inverse(randn(2, 1, 3, 3)), x)


def test_statistics_are_copies_without_a_graph() -> None:
    mean = torch.rand(3, requires_grad=True)
    normalizer = Normalizer(mean, mean**2)
    assert not normalizer.mean.requires_grad and not normalizer.variance.requires_grad
    with torch.no_grad():
        mean.zero_()
    assert normalizer.mean.any()
