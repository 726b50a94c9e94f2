from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import reference
from tests.generators.networks import (
    CODE,
    SIZE,
    WIDTHS,
    arrays,
    awake,
    generator,
    inverter,
    rand,
    randn,
    same,
    seeded,
    snapshot,
)
from torchreid_genext.generators._diffusion import PREDICTIONS
from torchreid_genext.generators.identity import IdentityGenerator
from torchreid_genext.generators.inverter import Inverter, NoiseInverter, refine


@pytest.mark.parametrize(
    ("widths", "depth", "hidden", "size"),
    ((WIDTHS, 2, (9, 7), SIZE), ((3, 5), 1, (), (4, 6)), ((2, 3, 4, 5), 3, (6,), (16, 8))),
)
def test_inverter_equals_its_description(widths, depth: int, hidden, size: tuple[int, int]) -> None:
    made = inverter(widths=widths, depth=depth, hidden=hidden, image_size=size)
    state, images, nothing = arrays(made), rand(2, 3, *size), np.zeros(0)
    wanted = []
    for image in images.double().numpy():
        x = reference.convolved(image, state["stem.weight"], state["stem.bias"])
        x = reference.encoded(state, x, nothing, len(widths), depth)[0]
        x = x.transpose(1, 2, 0).ravel()
        for i in range(len(hidden) + 1):
            x = x / (1 + np.exp(-x)) if i else x
            x = state[f"dense.{i}.weight"] @ x + state[f"dense.{i}.bias"]
        wanted.append(x)
    np.testing.assert_allclose(made(images).detach(), wanted, atol=1e-5, rtol=1e-4)


def test_noise_inverter_is_a_unet_without_a_code() -> None:
    made = awake(NoiseInverter(WIDTHS, depth=1, image_size=SIZE))
    images, nothing = rand(2, 3, *SIZE), np.zeros(0)
    state = {name.removeprefix("unet."): array for name, array in arrays(made).items()}
    wanted = [reference.unet(state, x, nothing, nothing, 3, 1) for x in images.double().numpy()]
    np.testing.assert_allclose(made(images).detach(), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", (Inverter, NoiseInverter))
def test_images_of_another_size_are_refused(kind: type) -> None:
    with pytest.raises(ValueError, match=r"expected images \(B, 3, 8, 4\), got \(2, 3, 8, 8\)"):
        kind(WIDTHS, image_size=SIZE)(rand(2, 3, 8, 8))


@pytest.mark.parametrize("kind", (Inverter, NoiseInverter))
def test_networks_that_cannot_be_built_are_refused(kind: type) -> None:
    with pytest.raises(ValueError, match=r"image size in multiples of 4, got \(10, 6\)"):
        kind(WIDTHS, image_size=(10, 6))
    with pytest.raises(ValueError, match="two or more positive widths"):
        kind((4,), image_size=SIZE)
    with pytest.raises(ValueError, match="at least one block a level, got 0"):
        kind(WIDTHS, depth=0, image_size=SIZE)


TIMES = (0.3, 0.8)


def problem(images: int = 3) -> tuple[Tensor, Tensor]:
    return rand(images, 3, *SIZE), randn(images, CODE, seed=1)


def noises(draws: int, seed: int, times: int = len(TIMES)) -> Tensor:
    return torch.randn(times * draws, 1, 3, *SIZE, generator=seeded(seed))[:, 0]


def errors(made: IdentityGenerator, image: Tensor, code: Tensor, draws: int, seed: int) -> Tensor:
    """Mean squared errors (times x draws,) of one image and code, a noise at a time."""
    x, found = (image - 0.5) / 0.25, []
    for i, noise in enumerate(noises(draws, seed)):
        s, n = reference.diffusion_rates(TIMES[i % len(TIMES)])
        of_x, of_noise = reference.network_says(made.prediction, s, n)
        variance = torch.tensor([n**2], dtype=torch.float32)
        answer = made.denoiser((s * x + n * noise)[None].float(), variance, code[None])[0]
        found.append((answer - of_x * x - of_noise * noise).square().mean())
    return torch.stack(found)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("pull", (0.0, 0.5))
def test_refinement_equals_adams_descent_image_by_image(prediction: str, pull: float) -> None:
    made, (images, codes) = generator(prediction=prediction), problem()
    settings = {"steps": 4, "step_size": 0.1, "times": TIMES, "draws": 2, "seed": 5, "pull": pull}
    found, wanted = refine(made, images, codes, **settings), []
    for image, code in zip(images, codes):

        def gradient(x: np.ndarray, image: Tensor = image, code: Tensor = code) -> np.ndarray:
            now = torch.tensor(x, dtype=torch.float32, requires_grad=True)
            badness = errors(made, image, now, 2, 5).mean() + pull * (now - code).square().sum()
            return torch.autograd.grad(badness, now)[0].double().numpy()

        wanted.append(reference.adam(gradient, code.numpy(), steps=4, step_size=0.1))
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    assert np.abs(np.array(wanted) - codes.numpy()).max() > 0.2


def test_no_step_returns_the_codes_as_another_tensor() -> None:
    images, codes = problem()
    found = refine(generator(), images, codes, steps=0)
    assert torch.equal(found, codes) and found.data_ptr() != codes.data_ptr()


def test_error_of_denoising_falls_for_every_image() -> None:
    made, (images, codes) = generator(), problem()
    totals = []
    for steps in (0, 5, 40):
        found = refine(made, images, codes, steps=steps, times=TIMES, seed=5)
        totals.append([errors(made, *pair, 1, 5).mean().item() for pair in zip(images, found)])
    for start, middle, end in zip(*totals):
        assert end < middle < start


def test_refined_code_does_not_depend_on_the_batch() -> None:
    made, (images, codes) = generator(), problem(4)
    together = refine(made, images, codes, steps=6)
    alone = [refine(made, images[i : i + 1], codes[i : i + 1], steps=6) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-3, rtol=0)


def test_seed_decides_on_the_noise() -> None:
    made, (images, codes) = generator(), problem()
    first, again, other = (refine(made, images, codes, steps=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=1e-3)


def test_refinement_leaves_generator_images_and_codes_as_they_are() -> None:
    made, (images, codes) = generator(), problem()
    before, copies = snapshot(made), (images.clone(), codes.clone())
    refine(made, images, codes, steps=3, pull=0.1)
    assert same(made, before) and not made.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in made.parameters())
    assert torch.equal(images, copies[0]) and torch.equal(codes, copies[1])


def test_codes_of_a_network_are_refined_without_its_graph() -> None:
    made, (images, _) = generator(), problem()
    codes = inverter()(images)
    found = refine(made, images, codes, steps=3, pull=0.1)
    assert codes.requires_grad and not found.requires_grad


def test_refinement_works_where_gradients_are_switched_off() -> None:
    made, (images, codes) = generator(), problem()
    wanted = refine(made, images, codes, steps=3, pull=0.1)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = refine(made, images.clone(), codes.clone(), steps=3, pull=0.1)
        assert torch.equal(found, wanted) and not found.requires_grad


def test_pull_keeps_codes_near_the_first() -> None:
    made, (images, codes) = generator(), problem()
    far, near = (refine(made, images, codes, steps=30, pull=pull) - codes for pull in (0.0, 10.0))
    assert (near.norm(dim=1) < 0.5 * far.norm(dim=1)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    (
        ({"times": (0.5, 1.1)}, r"expected times in 0\.\.1, got \[0.5, 1.1\]"),
        ({"times": (-0.1,)}, r"expected times in 0\.\.1, got \[-0.1\]"),
        ({"times": ()}, r"expected times in 0\.\.1, got \[\]"),
        ({"draws": 0}, "expected at least one draw of noise, got 0"),
    ),
)
def test_refinement_of_nothing_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refine(generator(), *problem(), **settings)


def test_refinement_refuses_other_sizes_and_a_generator_in_training() -> None:
    images, codes = problem()
    with pytest.raises(ValueError, match=r"expected images \(B, 3, 8, 4\), got \(3, 3, 4, 8\)"):
        refine(generator(), images.mT, codes)
    with pytest.raises(ValueError, match="generator in evaluation mode, got one in training mode"):
        refine(generator().train(), images, codes)


def test_unit_codes_keep_their_direction_and_have_one_length() -> None:
    images, free = rand(3, 3, *SIZE), inverter()
    made = inverter(unit=True)
    made.load_state_dict(free.state_dict())
    code = free(images)
    torch.testing.assert_close(made(images), code / code.norm(dim=1, keepdim=True) * CODE**0.5)


def test_unit_codes_stay_of_unit_scale_while_they_are_refined() -> None:
    made, images = generator(), rand(3, 3, *SIZE)
    code = randn(3, CODE)
    code = code / code.norm(dim=1, keepdim=True) * CODE**0.5
    found = refine(made, images, code, steps=3, step_size=0.3, unit=True)
    torch.testing.assert_close(found.square().mean(1), torch.ones(3))
    once = refine(made, images, code, steps=1, step_size=0.3)
    expected = once / once.norm(dim=1, keepdim=True) * CODE**0.5
    torch.testing.assert_close(refine(made, images, code, steps=1, step_size=0.3, unit=True), expected)
    assert not torch.allclose(once, expected)
