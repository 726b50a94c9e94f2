"""Training on a pretended accelerator: how often the host waits, what is in float64, and the losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.accelerator import DEVICE, PretendedGenerator, counting_syncs, pretended_accelerator
from tests.training import test_camstyle as camstyle
from tests.training import test_deformable as deformable
from tests.training import test_ipg as ipg
from tests.training import test_pg2 as pg2
from torchreid_genext.generators._diffusion import sinusoidal
from torchreid_genext.generators.deformable import person_mask, stickman
from torchreid_genext.generators.pg2 import pose_mask
from torchreid_genext.processes import StepGenerator
from torchreid_genext.training.deformable import with_geometry
from torchreid_genext.training.machine import moved, place_of


def deformable_batch(task: Any) -> Any:
    return next(with_geometry(deformable.batches, task.modules["generator"])(0, 0, 1))


def test_pairs_with_images_on_the_accelerator_come_without_waiting() -> None:
    """Joints stay on the CPU, for what is computed from them there."""
    wanted = next(pg2.source(flip=0.5)(0, 0, 1))
    with pretended_accelerator():
        pairs = pg2.source(flip=0.5, device=DEVICE)
        with counting_syncs() as waits:
            found = next(pairs(0, 0, 1))
        assert not waits and found.images.device == DEVICE and found.keypoints.device.type == "cpu"
        for one, other in zip(found, wanted):
            assert torch.equal(one.cpu(), other)


def test_data_lie_where_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        """What torch says of one with 100 bytes free."""

        @staticmethod
        def mem_get_info(device: torch.device) -> tuple[int, int]:
            return 100 * (device.index + 1), 1000

    if not torch.accelerator.is_available():
        assert place_of(0).type == "cpu"
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(torch, "get_device_module", lambda device: Device)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert place_of(25) == torch.device("xpu", 0) and place_of(26) == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert place_of(50) == torch.device("xpu", 1)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert place_of(1) == torch.device("cpu")


STEPS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], int]] = {
    "ipg": (lambda: ipg.task(unconditional=0.5), lambda task: ipg.batch(), 0),
    "pg2 stage I": (pg2.stage_one, lambda task: pg2.batch(), 0),
    "pg2 stage II": (pg2.stage_two, lambda task: pg2.batch(), 0),
    "camstyle": (camstyle.joint, lambda task: camstyle.batch((0, 1, 2, 2)), 1),
    "camstyle pair": (camstyle.pair, lambda task: camstyle.batch((4, 1, 4, 1)), 2),
    "deformable": (deformable.task, deformable_batch, 0),
}


def on_the_accelerator(task: Any) -> None:
    for module in task.modules.values():
        module.to(DEVICE)
    for name, value in vars(task).items():
        if isinstance(value, Tensor) and name == "poses":
            setattr(task, name, value.to(DEVICE))


def one_step(
    task: Any, batch: Any, random: torch.Generator, *, differentiated: bool = True
) -> dict[str, Tensor]:
    """The losses of all phases, with their gradients, as the loop asks for them."""
    losses = {}
    for name, phase in task.phases.items():
        for module in task.modules.values():
            module.requires_grad_(False)
        for each in phase.modules:
            task.modules[each].requires_grad_(True)
        losses[name], _ = task.loss(name, batch, random)
        if differentiated:
            losses[name].backward()
    return losses


def host_generator() -> StepGenerator:
    random = StepGenerator()
    random.host = torch.Generator().manual_seed(0)
    random.manual_seed(0)
    return random


@pytest.mark.parametrize("name", STEPS)
def test_a_step_hardly_waits_and_is_that_of_the_cpu(name: str) -> None:
    make, draw, bound = STEPS[name]
    task = make()
    wanted = one_step(task, draw(task), host_generator())
    with pretended_accelerator():
        task = make()
        on_the_accelerator(task)
        batch = moved(draw(task), DEVICE, channels_last=False)
        with counting_syncs() as waits:
            # Of chunks that no loss looks at, torch makes gradients where it thinks that we are
            losses = one_step(task, batch, PretendedGenerator(), differentiated=name != "pg2 stage II")
        assert waits.total() <= bound, waits
        assert waits.doubles == 0
        for phase, loss in losses.items():
            torch.testing.assert_close(loss.detach().cpu(), wanted[phase].detach(), rtol=1e-4, atol=1e-6)


def test_geometry_of_a_batch_is_what_the_generator_would_find() -> None:
    task = deformable.task()
    plain = one_step(task, deformable.batch(), host_generator())
    known = one_step(task, deformable_batch(task), host_generator())
    assert plain.keys() == known.keys() and all(torch.equal(plain[name], known[name]) for name in plain)


def test_what_accelerators_compute_in_another_way_is_the_same() -> None:
    variance = torch.cat([torch.tensor([0.0, 1.0]), torch.rand(500, generator=ipg.seeded())])
    joints = torch.rand(4, 18, 2, generator=ipg.seeded()) * torch.tensor([64, 32])
    joints[0, :9] = -1
    with pretended_accelerator(), counting_syncs() as waits:
        turns = sinusoidal(variance.to(DEVICE), 64)
        mask = pose_mask(joints.to(DEVICE), (64, 32), radius=2)
        assert not waits and not waits.doubles
        torch.testing.assert_close(turns.cpu(), sinusoidal(variance, 64), rtol=0, atol=2e-6)
        assert torch.equal(mask.cpu(), pose_mask(joints, (64, 32), radius=2))
        body, sticks = person_mask(joints.to(DEVICE), (64, 32)), stickman(joints.to(DEVICE), (64, 32))
        assert not waits.doubles and body.device == sticks.device == DEVICE
