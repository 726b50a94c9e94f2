"""The tasks of generative identity: their losses by hand, what they train, what they leave alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests import reference
from tests.generators.networks import CODE, SIZE, generator, inverter, prior, seeded
from torchreid_genext.generators.identity import denoising_loss
from torchreid_genext.generators.inverter import NoiseInverter
from torchreid_genext.training.identity import (
    CrossTask,
    GeneratorTask,
    IdentityLosses,
    PriorTask,
    soft_margin_triplet,
)
from torchreid_genext.training.inversion import InverterTask, NoiseInverterTask, SyntheticPairs
from torchreid_genext.training.task import check_task


class Pairs(NamedTuple):
    images: Tensor
    labels: Tensor
    others: Tensor


class Alone(NamedTuple):
    images: Tensor
    labels: Tensor


def batch(size: int = 6) -> Pairs:
    shape = 2, size, 3, *SIZE
    images, others = torch.randint(256, shape, dtype=torch.uint8, generator=seeded())
    return Pairs(images, torch.arange(size) % 3, others)


def as_it_is(images: Tensor, random: torch.Generator) -> Tensor:
    return images


def sgd(*modules: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for module in modules for p in module.parameters()], 0.01)


def classifier() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(CODE), nn.Linear(CODE, 7))


def ranking(codes: Tensor, labels: Tensor) -> Tensor:
    assert torch.allclose(codes.norm(dim=1), torch.ones(len(codes)))
    return (codes * labels[:, None]).square().mean()


LOSSES = IdentityLosses(F.cross_entropy, ranking, classification_weight=2.0, ranking_weight=0.5)


def drawn(like: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.rand(len(like), generator=random), torch.randn(like.shape, generator=random)


def tasks() -> dict[str, Any]:
    made, codes, found, people = generator(), prior(), inverter(), classifier()
    noise, pairs = NoiseInverter((4, 6, 8), image_size=SIZE), SyntheticPairs(generator(), codes, steps=2)
    options = {"augment": as_it_is, "losses": LOSSES}
    return {
        "generator": GeneratorTask(made, sgd(made), augment=as_it_is),
        "prior": PriorTask(codes, sgd(codes), generator()),
        "inverter": InverterTask(found, people, sgd(found, people), pairs, **options),
        "noise": NoiseInverterTask(noise, sgd(noise), pairs),
        "cross": CrossTask(found, made, people, sgd(found, made, people), flip=as_it_is,
                           denoised=0.5, examples=batch().images[:2], **options),
    }  # fmt: skip


@pytest.mark.parametrize("name", tasks())
def test_a_task_draws_pictures_and_reaches_every_parameter_that_it_trains(name: str) -> None:
    task = tasks()[name]
    check_task(task)
    (phase,) = task.phases
    shown = torch.randn(9, CODE) if name == "prior" else batch()
    loss, scalars = task.loss(phase, shown, seeded())
    assert loss.ndim == 0 and all(torch.as_tensor(value).isfinite() for value in scalars.values())
    loss.backward()
    trained = [p for group in task.phases[phase].optimizer.param_groups for p in group["params"]]
    silent = sum(p.grad is None for p in trained)
    assert silent == (1 if name == "cross" else 0)  # there the table has no part
    with torch.no_grad():
        assert all(picture.width > 12 for picture in task.pictures(seeded()).values())


@pytest.mark.parametrize("name", tasks())
def test_a_loss_is_the_same_for_the_same_generator(name: str) -> None:
    shown = torch.randn(9, CODE, generator=seeded()) if name == "prior" else batch()
    losses = []
    for seed in (3, 3, 4):
        torch.manual_seed(0)
        task = tasks()[name]
        losses.append(task.loss(next(iter(task.phases)), shown, seeded(seed))[0])
    assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])


def test_generators_loss_is_denoising_under_the_table_with_a_pull() -> None:
    made, shown, random = generator(), batch(), seeded(3)
    task = GeneratorTask(made, sgd(made), augment=as_it_is, loss="l1", pull=0.25)
    loss, scalars = task.loss("denoise", shown, seeded(3))
    images, code = shown.images / 255, made.table.weight[shown.labels]
    wanted = denoising_loss(made, images, code, *drawn(images, random), loss="l1").mean()
    torch.testing.assert_close(scalars["denoising"], wanted)
    torch.testing.assert_close(loss, wanted + 0.25 * code.square().mean())


def test_cross_denoises_images_under_the_codes_of_their_others() -> None:
    made, found, shown, random = generator(), inverter(unit=True), batch(), seeded(3)
    options = {"augment": as_it_is, "flip": as_it_is, "examples": shown.images[:2]}
    task = CrossTask(found, made, classifier(), sgd(found), **options, denoised=0.5, denoising=3.0)
    loss, _ = task.loss("cross", shown, seeded(3))
    images, code = shown.images[:3] / 255, found(shown.others / 255)[:3]
    torch.testing.assert_close(loss, 3 * denoising_loss(made, images, code, *drawn(images, random)).mean())


def test_cross_classifies_and_ranks_the_codes_of_both_images() -> None:
    made, found, people, shown = generator(), inverter(), classifier(), batch()
    options = {"augment": as_it_is, "flip": as_it_is, "examples": shown.images[:2], "losses": LOSSES}
    task = CrossTask(found, made, people, sgd(found), **options, denoising=0.0)
    loss, _ = task.loss("cross", shown, seeded(3))
    codes, labels = torch.cat([found(shown.others / 255), found(shown.images / 255)]), shown.labels.repeat(2)
    wanted = 2 * F.cross_entropy(people(codes), labels) + 0.5 * ranking(F.normalize(codes, dim=1), labels)
    torch.testing.assert_close(loss, wanted)


@pytest.mark.parametrize(("data", "made"), (("synthetic", 6), ("real", 0), ("mixed", 3)))
def test_inverter_learns_codes_of_the_prior_and_of_the_table(data: str, made: int) -> None:
    found, frozen, shown, random = inverter(), (generator(), prior()), batch(), seeded(3)
    pairs, options = SyntheticPairs(*frozen, steps=2), {"augment": as_it_is, "data": data, "denoising": 0.0}
    task = InverterTask(found, classifier(), sgd(found), pairs, **options)
    loss, _ = task.loss("invert", shown, seeded(3))
    images, codes = pairs(made, random)
    real = 6 - made
    first, second = real - real // 2, real // 2  # images, and others of the first of these people
    seen = torch.cat([shown.images[:first] / 255, shown.others[:second] / 255, images])
    labels = torch.cat([shown.labels[:first], shown.labels[:second]])
    wanted = torch.cat([frozen[0].table.weight[labels], codes])
    error = F.mse_loss(found(seen), wanted) / frozen[1].normalizer.variance.mean()
    torch.testing.assert_close(loss, error)


def test_inverter_learns_from_batches_without_pairs_too() -> None:
    found, frozen, shown = inverter(), (generator(), prior()), batch()
    options = {"augment": as_it_is, "data": "real", "denoising": 0.0}
    task = InverterTask(found, classifier(), sgd(found), SyntheticPairs(*frozen), **options)
    loss, _ = task.loss("invert", Alone(shown.images, shown.labels), seeded(3))
    error = F.mse_loss(found(shown.images / 255), frozen[0].table.weight[shown.labels])
    torch.testing.assert_close(loss, error / frozen[1].normalizer.variance.mean())


def test_inverter_lets_the_generator_denoise_a_share_of_the_real_images() -> None:
    found, frozen, shown = inverter(), (generator(), prior()), batch()
    options = {"augment": as_it_is, "data": "real", "denoised": 0.5, "denoising": 3.0}
    task = InverterTask(found, classifier(), sgd(found), SyntheticPairs(*frozen), **options)
    loss, parts = task.loss("invert", Alone(shown.images, shown.labels), seeded(3))
    images = shown.images[:3] / 255
    wanted = denoising_loss(frozen[0], images, found(images), *drawn(images, seeded(3))).mean()
    torch.testing.assert_close(parts["denoising"], wanted)
    torch.testing.assert_close(loss, parts["code"] + 3 * wanted)


def test_a_pool_of_pairs_is_made_once_and_the_same_after_an_interruption() -> None:
    frozen, steps = (generator(), prior()), {"steps": 2, "prior_steps": 2}
    made = [SyntheticPairs(*frozen, **steps, pool=5)(40, seeded(3)) for _ in range(2)]
    assert torch.equal(made[0][0], made[1][0]) and torch.equal(made[0][1], made[1][1])
    images, codes = SyntheticPairs(*frozen, **steps)(5, seeded())
    assert len(made[0][1].unique(dim=0)) == 5
    for image, code in zip(*made[0], strict=True):
        row = (codes - code).abs().sum(1).argmin()
        assert torch.equal(codes[row], code) and (images[row] - image).abs().max() <= 0.5 / 255 + 1e-6


def test_losses_of_weight_zero_are_left_out() -> None:
    codes, labels = torch.randn(4, CODE), torch.arange(4)
    none = IdentityLosses(F.cross_entropy, ranking, classification_weight=0.0, ranking_weight=0.0)
    loss, parts = none(codes, labels, classifier())
    assert loss == 0 and parts == {}
    _, parts = IdentityLosses(F.cross_entropy, ranking, ranking_weight=0.0)(codes, labels, classifier())
    assert list(parts) == ["classification"]


def test_losses_are_computed_in_full_precision_under_autocast() -> None:
    codes, labels, people = torch.randn(4, CODE), torch.arange(4), classifier().eval()
    exact, _ = LOSSES(codes, labels, people)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(LOSSES(codes, labels, people)[0], exact, rtol=0, atol=0)


def test_soft_margin_triplet_is_the_mean_over_hardest_triplets() -> None:
    codes, labels = F.normalize(torch.randn(9, CODE).double(), dim=1), torch.arange(9) % 3
    expected = reference.soft_margin_triplet(codes.numpy(), labels.numpy(), 2.5)
    assert soft_margin_triplet(codes, labels, scale=2.5).item() == pytest.approx(expected)


def test_soft_margin_triplet_of_one_person_is_finite_and_can_be_learnt_from() -> None:
    codes = F.normalize(torch.randn(3, CODE), dim=1)[[0, 1, 2, 2]].requires_grad_()
    loss = soft_margin_triplet(codes, torch.zeros(4, dtype=torch.int64))
    loss.backward()
    assert loss.isfinite() and codes.grad.isfinite().all() and codes.grad.any()


def test_unknown_data_and_shares_are_refused() -> None:
    found, people, pairs = inverter(), classifier(), SyntheticPairs(generator(), prior())
    with pytest.raises(ValueError, match="unknown kind of data 'both'; choose from synthetic, real, mixed"):
        InverterTask(found, people, sgd(found), pairs, augment=as_it_is, data="both")
    options = {"augment": as_it_is, "flip": as_it_is, "examples": batch().images}
    with pytest.raises(ValueError, match="expected a share of denoised images in 0..1, without 0, got 1.5"):
        InverterTask(found, people, sgd(found), pairs, augment=as_it_is, denoised=1.5)
    with pytest.raises(ValueError, match="expected a share of denoised images in 0..1, without 0, got 0"):
        CrossTask(found, generator(), people, sgd(found), **options, denoised=0)
