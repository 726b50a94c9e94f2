"""The Deformable GAN's training: losses by hand, who learns in which phase, resuming, and what is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.generators.networks import same, seeded, snapshot
from tests.generators.poses import standing
from torchreid_genext.generators.deformable import (
    DeformableGAN,
    Discriminator,
    OrientedGradients,
    deceiving_loss,
    discriminating_loss,
    nearest_neighbour_map,
)
from torchreid_genext.training import Options, fit, trained_weights
from torchreid_genext.training.deformable import DeformableTask
from torchreid_genext.training.task import check_task

SIZE = (32, 16)


class Pairs(NamedTuple):
    images: Tensor
    keypoints: Tensor
    others: Tensor
    other_keypoints: Tensor
    labels: Tensor


def batch(position: int = 0, size: int = 4) -> Pairs:
    images, others = torch.randint(256, (2, size, 3, *SIZE), dtype=torch.uint8, generator=seeded(position))
    keypoints, targets = (standing(size, SIZE, seed=2 * position + i) for i in (0, 1))
    return Pairs(images, keypoints, others, targets, torch.arange(size))


def batches(first: int, rank: int, world: int) -> Any:
    while True:
        yield batch(first)
        first += 1


def adam(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), 2e-3, betas=(0.5, 0.999))


def task(dropout: float = 0.0, **options: Any) -> DeformableTask:
    torch.manual_seed(0)
    made = DeformableGAN(SIZE, encoder=(4, 5, 6, 7), decoder=(6, 5, 4), dropout=dropout)
    judge = Discriminator(SIZE, widths=(4, 5))
    return DeformableTask(made, judge, adam(made), adam(judge), **options)


def signed(images: Tensor) -> Tensor:
    return 2 * images.float() / 255 - 1


def drawn(found: DeformableTask, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    """What is generated, and what the discriminator makes of it and of the truth."""
    judge, images = found.modules["discriminator"], signed(pairs.images)
    made = found.modules["generator"](images, pairs.keypoints, pairs.other_keypoints)
    poses = pairs.keypoints, pairs.other_keypoints
    real, fake = (judge(images, poses[0], each, poses[1]) for each in (signed(pairs.others), made))
    return made, real, fake


def test_the_discriminator_learns_to_tell_the_truth_from_what_is_generated() -> None:
    found, pairs = task(), batch()
    loss, scalars = found.loss("discriminator", pairs, seeded())
    _, real, fake = drawn(found, pairs)
    torch.testing.assert_close(loss, discriminating_loss(real, fake))
    torch.testing.assert_close(scalars["real"], real.mean())
    loss.backward()
    assert all(p.grad is None for p in found.modules["generator"].parameters())
    assert all(p.grad is not None for p in found.modules["discriminator"].parameters())


def test_the_generator_learns_to_deceive_and_to_be_near_a_neighbour_of_the_truth() -> None:
    found, pairs = task(window=5, weight=3.0), batch()
    loss, scalars = found.loss("generator", pairs, seeded())
    made, _, fake = drawn(found, pairs)
    features = OrientedGradients()
    near = nearest_neighbour_map(features(signed(pairs.others)), features(made), window=5).mean()
    torch.testing.assert_close(scalars["reconstruction"], near)
    torch.testing.assert_close(loss, deceiving_loss(fake) + 3 * near)
    loss.backward()
    assert all(p.grad.any() for p in found.modules["generator"].parameters())


class Halved(nn.Module):
    weight = 7.0

    def forward(self, images: Tensor) -> Tensor:
        return images / 2


@pytest.mark.parametrize(
    ("options", "weight", "scale"),
    (({}, 100.0, 1.0), ({"weight": 2.0}, 2.0, 1.0), ({"features": Halved(), "weight": 0.5}, 0.5, 0.5)),
)
def test_the_baseline_is_the_absolute_difference(options: dict, weight: float, scale: float) -> None:
    found, pairs = task(reconstruction="l1", **options), batch()
    loss, _ = found.loss("generator", pairs, seeded())
    made, _, fake = drawn(found, pairs)
    torch.testing.assert_close(
        loss, deceiving_loss(fake) + weight * scale * F.l1_loss(made, signed(pairs.others))
    )


def test_features_know_how_much_they_weigh() -> None:
    assert task(features=Halved()).weight == 7.0
    assert task().weight == OrientedGradients.weight


def test_pictures_show_reference_pose_image_and_truth() -> None:
    found = task(examples=batch(size=3))
    check_task(found)
    picture = found.pictures(seeded())["people"]
    assert picture.size == (3 * (3 * SIZE[1] + 4) + 4, 4 * (3 * SIZE[0] + 4) + 4)
    assert task().pictures(seeded()) == {}


def options(folder: Path, **changes: Any) -> Options:
    return Options(
        **{"steps": 4, "folder": folder, "log_every": 2, "save_every": 2, "ema_decay": 0.5} | changes
    )


def test_a_resumed_training_is_one_that_was_never_interrupted(tmp_path: Path) -> None:
    straight = fit(task(0.5), batches, options(tmp_path / "a"), description={})
    fit(task(0.5), batches, options(tmp_path / "b", steps=2), description={})
    resumed = fit(task(0.5), batches, options(tmp_path / "b", resume=True), description={})
    wanted, found = (trained_weights(each.checkpoint) for each in (straight, resumed))
    assert wanted.keys() == found.keys() == {"generator", "discriminator"}
    assert all(
        torch.equal(found[name][key], tensor) for name in wanted for key, tensor in wanted[name].items()
    )


def test_frozen_features_stay_as_they_are_and_both_sides_learn(tmp_path: Path) -> None:
    found = task(features=nn.Conv2d(3, 4, 3), weight=1.0)
    before = {name: snapshot(module) for name, module in found.modules.items()}
    scalars = fit(found, batches, options(tmp_path, steps=2), description={}).scalars
    changed = {name: not same(module, before[name]) for name, module in found.modules.items()}
    assert changed == {"generator": True, "discriminator": True, "features": False}
    assert {"discriminator/real", "generator/reconstruction"} <= scalars.keys()


def test_losses_are_finite_in_bfloat16() -> None:
    found, pairs = task(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        for phase in found.phases:
            loss, _ = found.loss(phase, pairs, seeded())
            assert loss.dtype == torch.float32 and loss.isfinite()


def test_images_are_shown_in_minus_one_to_one() -> None:
    found, pairs = task(reconstruction="l1"), batch()
    seen = []
    found.modules["generator"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    found.loss("generator", pairs, seeded())
    torch.testing.assert_close(seen[0], signed(pairs.images))


def test_unknown_reconstructions_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown reconstruction 'l2'; choose from nearest_neighbour, l1"):
        task(reconstruction="l2")
