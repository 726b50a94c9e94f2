"""Trainings on an accelerator: steps, averages, files, resuming, memory, and a process of torchrun."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import ROOT
from tests.generators.networks import CODE, seeded
from tests.gpu.measures import assert_near
from tests.training import test_camstyle, test_deformable, test_identity, test_ipg, test_pg2
from torchreid_genext.training import Options, fit, trained_weights

pytestmark = pytest.mark.gpu

TASKS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "ipg": (test_ipg.task, test_ipg.batch),
    "ipg, checkpointing": (lambda: test_ipg.task(gradient_checkpointing=True), test_ipg.batch),
    "ipg, low rank": (test_ipg.low_rank, test_ipg.batch),
    **{
        f"identity, {name}": (lambda name=name: test_identity.tasks()[name], test_identity.batch)
        for name in ("generator", "inverter", "noise", "cross")
    },
    "identity, prior": (
        lambda: test_identity.tasks()["prior"], lambda: torch.randn(9, CODE, generator=seeded()),
    ),
    "pg2, stage I": (test_pg2.stage_one, test_pg2.batch),
    "pg2, stage II": (test_pg2.stage_two, test_pg2.batch),
    "deformable": (test_deformable.task, test_deformable.batch),
    "camstyle": (test_camstyle.joint, lambda: test_camstyle.batch((0, 1, 2, 2, 0, 1))),
    "camstyle, a pair": (test_camstyle.pair, lambda: test_camstyle.batch((4, 1, 1, 4))),
}  # fmt: skip
WITHOUT_CHANCE = ("pg2, stage I", "pg2, stage II", "deformable")


def task_of(kind: str) -> Any:
    torch.manual_seed(0)
    return TASKS[kind][0]()


def trained(kind: str, folder: Path, device: torch.device, steps: int = 4, **changes: Any) -> Path:
    shown = TASKS[kind][1]()

    def source(first: int, rank: int, world: int) -> Iterator[Any]:
        while True:
            yield shown

    options = Options(
        steps=steps,
        folder=folder,
        ema_decay=0.9,
        log_every=2,
        save_every=2,
        cpu=device.type == "cpu",
        **changes,
    )
    return fit(task_of(kind), source, options, description={"kind": kind}).checkpoint


def weights(checkpoint: Path) -> dict[str, Tensor]:
    return {
        f"{module}.{name}": tensor
        for module, state in trained_weights(checkpoint).items()
        for name, tensor in state.items()
        if tensor.is_floating_point()
    }


@pytest.mark.parametrize("precision", ("bf16", "fp16"))
@pytest.mark.parametrize("kind", TASKS)
def test_steps_in_half_precision_are_finite_and_change_the_average(
    kind: str, precision: str, device: torch.device, tmp_path: Path
) -> None:
    if precision == "fp16" and device.type == "cpu":
        pytest.skip("fp16 is for accelerators")
    checkpoint = trained(kind, tmp_path, device, steps=3, mixed_precision=precision)
    averaged = weights(checkpoint)
    assert all(tensor.isfinite().all() for tensor in averaged.values())
    one, other = (weights(path) for path in sorted(tmp_path.glob("*.safetensors"))[:2])
    changed = any(not torch.equal(one[name], other[name]) for name in one)
    assert changed or precision == "fp16"  # whose first steps are left out until the scale fits


@pytest.mark.parametrize("kind", TASKS)
def test_a_resumed_training_reaches_the_same(
    kind: str, device: torch.device, tmp_path: Path, exact: None
) -> None:
    whole = weights(trained(kind, tmp_path / "whole", device))
    trained(kind, tmp_path / "halves", device, steps=2)
    halves = weights(trained(kind, tmp_path / "halves", device, resume=True))
    assert whole.keys() == halves.keys()
    for name, tensor in whole.items():
        difference = (halves[name] - tensor).abs().max().item()
        assert difference <= 1e-3 * max(1.0, tensor.abs().max().item()), f"{name}: {difference:.3g}"


@pytest.mark.parametrize("kind", [kind for kind in TASKS if kind != "ipg, checkpointing"])
def test_deterministic_algorithms_train_the_same_twice(
    kind: str, device: torch.device, tmp_path: Path, deterministic: None
) -> None:
    one, other = (weights(trained(kind, tmp_path / name, device, steps=2)) for name in ("a", "b"))
    differing = {name: (other[name] - one[name]).abs().max().item() for name in one}
    assert not any(differing.values()), max(differing.items(), key=lambda item: item[1])


@pytest.mark.parametrize("kind", WITHOUT_CHANCE)
def test_losses_and_gradients_are_those_of_the_cpu(kind: str, device: torch.device, tf32: bool) -> None:
    share = 0.05 if tf32 else 2e-3
    for phase in task_of(kind).phases:
        (loss, gradients), (wanted, others) = (step_of(kind, phase, place) for place in (device, "cpu"))
        assert_near(loss, wanted, share, phase)
        assert_near(gradients, others, share, f"gradients of {phase}")


def step_of(kind: str, phase: str, place: torch.device | str) -> tuple[Tensor, Tensor]:
    task = task_of(kind)
    for module in task.modules.values():
        module.to(place)
    shown = type(batch := TASKS[kind][1]())(*(each.to(place) for each in batch))
    loss, _ = task.loss(phase, shown, torch.Generator(place).manual_seed(0))
    own = [p for group in task.phases[phase].optimizer.param_groups for p in group["params"]]
    gradients = torch.autograd.grad(loss, own, allow_unused=True)
    return loss, torch.cat([each.flatten().cpu() for each in gradients if each is not None])


def test_more_steps_take_no_more_memory(device: torch.device, tmp_path: Path) -> None:
    if device.type != "cuda":
        pytest.skip("only CUDA's memory is counted here")
    growths = {}
    for kind in TASKS:
        peaks = []
        for steps in (4, 12):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            trained(kind, tmp_path / f"{kind} {steps}", device, steps=steps)
            peaks.append(torch.cuda.max_memory_allocated() - before)
        growths[kind] = peaks
    assert not {kind: peaks for kind, peaks in growths.items() if peaks[1] > 1.1 * peaks[0] + 2**20}, growths


def test_torchrun_trains_ipg(device: torch.device, reid_data: Path, tmp_path: Path) -> None:
    keys = {
        "data.save_dir": tmp_path, "genext.training.image_size": [16, 8],
        "genext.ipg.generator.widths": [8, 16], "genext.ipg.generator.encoder": "osnet_x0_25@32x16",
        "genext.training.steps": 2, "genext.training.batch_size": 4, "genext.training.picture_every": 0,
    }  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=1",
        "--master-addr=127.0.0.1", f"--master-port={port}", str(ROOT / "tools/train_ipg.py"),
        "-s", "synthreid_tiny", "--root", str(reid_data),
        *(str(word) for pair in keys.items() for word in pair),
    ]  # fmt: skip
    found = subprocess.run(
        command,
        env=os.environ | {"NCCL_DEBUG": "INFO"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = (found.stdout + found.stderr)[-3000:]
    assert found.returncode == 0, said
    assert (tmp_path / "ipg/pipeline/model_index.json").is_file()
    assert device.type == "cpu" or "NCCL" in found.stdout + found.stderr, said


def test_checkpoints_of_the_accelerator_are_read_without_it(device: torch.device, tmp_path: Path) -> None:
    found = weights(trained("ipg", tmp_path, device, steps=2))
    assert found and all(tensor.device.type == "cpu" for tensor in found.values())
