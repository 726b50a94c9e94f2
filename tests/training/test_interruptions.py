"""The loop through interruptions of every kind: killed, failed, interrupted, and gone on with."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.processes import in_two_processes
from tests.training.tasks import (
    Adversarial,
    Denoising,
    Labelled,
    files,
    in_process,
    same,
    train,
    vectors,
)
from torchreid_genext import checkpoints
from torchreid_genext.training.state import State

HARD = {
    "steps": 9, "accumulation": 2, "ema_decay": 0.9, "mixed_precision": "bf16",
    "clip_norm": 0.5, "warmup": 3, "schedule": "cosine", "picture_every": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return checkpoints.safe_load(train(tmp_path_factory.mktemp("whole"), **HARD).checkpoint)


class Deadly(Denoising):
    """Kills its process in the loss of a step, given as a number of calls."""

    def __init__(self, fatal: int) -> None:
        super().__init__()
        self.fatal = fatal

    def loss(self, phase: str, batch: Labelled, generator: torch.Generator) -> tuple[Tensor, dict]:
        result = super().loss(phase, batch, generator)
        if self.calls == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


def killed_in_a_loss(folder: Path) -> None:
    train(folder, Deadly(fatal=12), **HARD)


def killed_in_a_save(folder: Path, system_call: str) -> None:
    """Die instead of the second file of weights being flushed, put in place, or followed by removals."""
    owner = Path if system_call == "unlink" else os  # Python 3.10's paths keep the system's own
    original, counts = getattr(owner, system_call), [0]

    def call(*arguments: Any, **more: Any) -> Any:
        saves = any("step-00000004.safetensors" in name for name in os.listdir(folder))
        if saves or system_call == "unlink":
            counts[0] += 1
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **more)

    setattr(owner, system_call, call)
    train(folder, **HARD)


KILLS = {
    "in the middle of a step": (killed_in_a_loss, ()),
    "before a checkpoint is flushed": (killed_in_a_save, ("fsync",)),
    "before a checkpoint has its name": (killed_in_a_save, ("replace",)),
    "before old checkpoints are removed": (killed_in_a_save, ("unlink",)),
}


@pytest.mark.parametrize("kill", KILLS)
def test_killed_training_resumes_bit_for_bit(
    tmp_path: Path, uninterrupted: dict[str, Tensor], kill: str
) -> None:
    work, arguments = KILLS[kill]
    process = in_process(work, tmp_path, *arguments)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert 0 < len(list(tmp_path.glob("step-*.safetensors"))) < 5
    fitted = train(tmp_path, resume=True, **HARD)
    assert same(checkpoints.safe_load(fitted.checkpoint), uninterrupted)
    steps = [json.loads(line)["step"] for line in (tmp_path / "scalars.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 8, 9]
    assert files(tmp_path) == ["scalars.jsonl", *(f"step-0000000{step}.safetensors" for step in (6, 8, 9))]


def resume_again_and_again(folder: Path) -> None:
    train(folder, resume=True, **HARD | {"save_every": 1})


def test_training_killed_at_random_ends_bit_for_bit_too(
    tmp_path: Path, uninterrupted: dict[str, Tensor]
) -> None:
    kills, patience = 0, 0.01
    while True:
        process = in_process(resume_again_and_again, tmp_path)
        process.join(patience)
        if process.exitcode == 0:
            break
        process.kill()
        process.join()
        kills, patience = kills + 1, patience * 1.3
    assert kills
    assert same(checkpoints.safe_load(tmp_path / "step-00000009.safetensors"), uninterrupted)


class Failing(Denoising):
    """Calls a function in a certain call of the loss, after the network has run."""

    def __init__(self, call: int, action: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.call, self.action = call, action

    def loss(self, phase: str, batch: Labelled, generator: torch.Generator) -> tuple[Tensor, dict]:
        loss, scalars = super().loss(phase, batch, generator)
        return (self.action(loss) if self.calls == self.call else loss), scalars


def fail(loss: Tensor) -> Tensor:
    raise RuntimeError("out of luck")


def interrupt(loss: Tensor) -> Tensor:
    signal.raise_signal(signal.SIGINT)
    return loss


def terminate(loss: Tensor) -> Tensor:
    signal.raise_signal(signal.SIGTERM)
    return loss


@pytest.mark.parametrize(
    ("action", "error", "words"),
    [
        (fail, RuntimeError, "out of luck"),
        (interrupt, KeyboardInterrupt, None),
        (terminate, KeyboardInterrupt, None),
        (
            lambda loss: loss * float("nan"),
            ValueError,
            "expected a finite loss, got one that is .* in step 6$",
        ),
        (lambda loss: loss / 0, ValueError, "step 6$"),
    ],
)
def test_errors_leave_a_checkpoint_of_the_last_whole_step(
    tmp_path: Path, uninterrupted: dict[str, Tensor], action: Any, error: type, words: str | None
) -> None:
    task = Failing(11, action)  # two batches a step
    with pytest.raises(error, match=words):
        train(tmp_path, task, **HARD)
    assert checkpoints.read_metadata(tmp_path / "step-00000005.safetensors")["step"] == 5
    fitted = train(tmp_path, resume=True, **HARD)
    assert same(checkpoints.safe_load(fitted.checkpoint), uninterrupted)


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM))
def test_interruption_within_an_update_waits_for_its_end(tmp_path: Path, number: int) -> None:
    class Interrupted(Adversarial):
        def loss(self, phase: str, batch: Any, generator: torch.Generator) -> Any:
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 6:  # the second phase of step 3
                signal.raise_signal(number)
            return super().loss(phase, batch, generator)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "a", Interrupted(), vectors)
    assert (tmp_path / "a" / "step-00000003.safetensors").exists()
    resumed = train(tmp_path / "a", Adversarial(), vectors, resume=True)
    whole = train(tmp_path / "b", Adversarial(), vectors)
    assert same(checkpoints.safe_load(resumed.checkpoint), checkpoints.safe_load(whole.checkpoint))


def test_error_within_an_update_leaves_the_last_checkpoint_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Adversarial):
        def loss(self, phase: str, batch: Any, generator: torch.Generator) -> Any:
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 8:
                raise RuntimeError("half a step")
            return super().loss(phase, batch, generator)

    with pytest.raises(RuntimeError, match="half a step"):
        train(tmp_path, Broken(), vectors)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000002.safetensors"]
    assert "stopped in step 4: the last checkpoint is of step 2" in caplog.text


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    def poison(loss: Tensor) -> Tensor:
        loss.register_hook(lambda gradient: gradient * float("nan"))
        return loss

    with pytest.raises(ValueError, match="expected finite weights, got some that are not after step 4"):
        train(tmp_path, Failing(4, poison))
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000002.safetensors"]
    with pytest.raises(ValueError, match="expected finite weights, got some that are not after step 6"):
        train(tmp_path / "last", Failing(6, poison), save_every=0)
    assert not list((tmp_path / "last").glob("step-*"))


def test_sigterm_is_handled_as_before_afterwards_and_by_those_who_do_already(tmp_path: Path) -> None:
    train(tmp_path / "a")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        train(tmp_path / "b", Failing(3, terminate))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]


def on_two(rank: int, folder: Path) -> None:
    train(folder, steps=4)


def test_training_goes_on_with_other_processes_and_another_precision(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_two_processes(on_two, tmp_path)
    fitted = train(tmp_path, resume=True, mixed_precision="bf16")
    assert fitted.step == 6
    said = "training.mixed_precision 'no' there, 'bf16' here; training.processes 2 there, 1 here"
    assert said in caplog.text
    with pytest.raises(ValueError, match="same training.*: training.seed 0 there, 1 here$"):
        train(tmp_path, resume=True, seed=1)


def test_losses_scaled_before_or_never_go_on_with_a_scale_of_their_own(tmp_path: Path) -> None:
    task = Denoising()
    optimizers = {"main": task.phases["main"].optimizer}
    state = State(task.modules, optimizers, None, torch.amp.GradScaler("cpu", init_scale=8.0))
    state.load(state.tensors(), state.metadata() | {"scaler": {}}, tmp_path)
    assert state.metadata()["scaler"]["scale"] == 8
