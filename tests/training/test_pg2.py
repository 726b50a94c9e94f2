"""PG2's trainings: losses by hand, who learns in which phase, resuming, and what is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.generators.networks import rand, seeded
from tests.training.tasks import same
from torchreid_genext.data.generator_batches.orders import Partners, Shuffled
from torchreid_genext.data.generator_batches.posed_pairs import PosePairs, pose_pairs
from torchreid_genext.data.images.in_memory import ImageTensor
from torchreid_genext.generators.pg2 import (
    ARRANGEMENTS,
    PG2,
    Discriminator,
    adversarial_loss,
    discriminator_loss,
    pose_mask,
    reconstruction_loss,
)
from torchreid_genext.training import Options, fit, trained_weights
from torchreid_genext.training.pg2 import StageOneTask, StageTwoTask
from torchreid_genext.training.state import fingerprint
from torchreid_genext.training.task import check_task

SIZE = (32, 16)


def network() -> PG2:
    torch.manual_seed(0)
    return PG2(SIZE, width=3, code=4, radius=2)


def source(flip: float = 0.5, device: torch.device | str = "cpu") -> Any:
    pixels = torch.randint(256, (8, 3, *SIZE), dtype=torch.uint8, generator=seeded())
    pids = torch.arange(8) // 2
    keypoints = rand(8, 18, 2, seed=1) * torch.tensor(SIZE)
    images = ImageTensor(pixels, pids, pids * 0, tuple(map(str, range(8))))
    return pose_pairs(images.to(device), keypoints, Shuffled(8, 4, 0), Partners(pids), flip=flip)


def batch() -> PosePairs:
    return next(source()(0, 0, 1))


def adam(module: torch.nn.Module, rate: float = 2e-3) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), rate, betas=(0.5, 0.999))


def stage_one(**options: Any) -> StageOneTask:
    made = network()
    return StageOneTask(made, adam(made.stage1), **options)


def stage_two(arrangement: str = "pairwise", **options: Any) -> StageTwoTask:
    made = network()
    judge = Discriminator(SIZE, arrangement=arrangement, width=2)
    return StageTwoTask(made, judge, adam(made.stage2), adam(judge), **options)


def signed(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def test_stage_one_learns_the_other_image_from_its_pose() -> None:
    task, shown = stage_one(), batch()
    check_task(task)
    loss, _ = task.loss("generator", shown, seeded())
    made = task.generator.coarse(signed(shown.images), shown.other_keypoints)
    mask = pose_mask(shown.other_keypoints, SIZE, radius=2)
    torch.testing.assert_close(loss, reconstruction_loss(made, signed(shown.others), mask))
    loss.backward()
    assert all(parameter.grad is not None for parameter in task.modules["stage1"].parameters())


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_stage_two_learns_from_truth_and_discriminator(arrangement: str) -> None:
    task, shown = stage_two(arrangement, reconstruction=3.0), batch()
    check_task(task)
    images, targets = signed(shown.images), signed(shown.others)
    coarse = task.generator.coarse(images, shown.other_keypoints)
    refined = coarse + task.generator.stage2(coarse, images)
    verdict = task.modules["discriminator"].judge(targets, images, coarse, refined)
    error = reconstruction_loss(refined, targets, pose_mask(shown.other_keypoints, SIZE, radius=2))
    loss, parts = task.loss("generator", shown, seeded())
    torch.testing.assert_close(loss, adversarial_loss(verdict.refined) + 3 * error)
    torch.testing.assert_close(parts["reconstruction"], error)
    loss, parts = task.loss("discriminator", shown, seeded())
    torch.testing.assert_close(loss, discriminator_loss(verdict))
    assert 0 < parts["real"] < 1 and 0 < parts["fake"] < 1


def test_each_phase_reaches_what_it_trains_and_stage_one_rests() -> None:
    task, shown = stage_two(), batch()
    for phase, trained in (("generator", "stage2"), ("discriminator", "discriminator")):
        for module in task.modules.values():
            module.zero_grad()
        task.loss(phase, shown, seeded())[0].backward()
        for parameter in task.modules[trained].parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all()
        assert all(parameter.grad is None for parameter in task.modules["stage1"].parameters())
    assert all(parameter.grad is None for parameter in task.modules["stage2"].parameters())


def test_stage_one_looks_at_a_batch_once_and_at_the_next_one_again() -> None:
    task, calls = stage_two(), []
    task.generator.stage1.register_forward_hook(lambda *_: calls.append(1))
    first, second = batch(), next(source()(1, 0, 1))
    for shown, count in ((first, 1), (second, 2), (first, 3)):
        losses = [task.loss(phase, shown, seeded())[0] for phase in ("generator", "discriminator")]
        assert len(calls) == count
        fresh = stage_two()
        fresh.modules["discriminator"].load_state_dict(task.modules["discriminator"].state_dict())
        assert losses == [fresh.loss(phase, shown, seeded())[0] for phase in ("generator", "discriminator")]


@pytest.mark.parametrize("make", (stage_one, stage_two))
def test_the_error_goes_down(make: Any) -> None:
    task, shown, errors = make(), batch(), []
    for phase in task.phases.values():
        for group in phase.optimizer.param_groups:
            group["lr"] = 0.01
    for _ in range(12):
        for name, phase in task.phases.items():
            loss, parts = task.loss(name, shown, seeded())
            if name == "generator":
                errors.append(parts.get("reconstruction", loss).item())
            phase.optimizer.zero_grad()
            loss.backward()
            phase.optimizer.step()
    assert errors[-1] < 0.9 * errors[0]


def options(folder: Path, **changes: Any) -> Options:
    return Options(**{"steps": 4, "folder": folder, "log_every": 2, "save_every": 2} | changes)


@pytest.mark.parametrize(
    ("make", "trained"), ((stage_one, {"stage1"}), (stage_two, {"stage2", "discriminator"}))
)
def test_a_resumed_training_equals_an_uninterrupted_one(make: Any, trained: set[str], tmp_path: Path) -> None:
    shown = {"examples": batch()}
    task = make(**shown)
    before = {name: fingerprint(module.state_dict()) for name, module in task.modules.items()}
    through = fit(task, source(), options(tmp_path / "a", picture_every=4), description={})
    changed = {name for name, old in before.items() if fingerprint(task.modules[name].state_dict()) != old}
    assert changed == trained and (tmp_path / "a/samples/step-00000004-people.png").is_file()

    def two_steps(first: int, rank: int, world: int) -> Any:
        for step, pairs in zip(range(first, 3), source()(first, rank, world)):
            if step == 2:
                raise RuntimeError("power cut")
            yield pairs

    with pytest.raises(RuntimeError, match="power cut"):
        fit(make(**shown), two_steps, options(tmp_path / "b"), description={})
    resumed = fit(make(**shown), source(), options(tmp_path / "b", resume=True), description={})
    for name in trained:
        assert same(trained_weights(resumed.checkpoint)[name], trained_weights(through.checkpoint)[name])


def test_pictures_show_reference_pose_stages_and_truth() -> None:
    assert not stage_one().pictures(seeded()) and not stage_two().pictures(seeded())
    for make, rows in ((stage_one, 4), (stage_two, 5)):
        picture = make(examples=batch()).pictures(seeded())["people"]
        assert picture.size == (4 * (3 * SIZE[1] + 4) + 4, rows * (3 * SIZE[0] + 4) + 4)
