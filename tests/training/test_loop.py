"""The loop against a naive one, what it writes, and what does not fit together."""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.tasks import (
    Adversarial,
    Denoising,
    Labelled,
    batches,
    denoiser,
    files,
    in_process,
    options,
    same,
    train,
    vectors,
)
from torchreid_genext import checkpoints
from torchreid_genext.training import Phase, fit, trained_weights
from torchreid_genext.training.randomness import seeded

# What a step is


@pytest.mark.parametrize("accumulation", [1, 3])
def test_two_phases_train_as_a_naive_loop_does(tmp_path: Path, accumulation: int) -> None:
    task, naive = Adversarial(), Adversarial()
    changes = {"warmup": 4, "clip_norm": 0.05, "ema_decay": 0.3}
    path = train(tmp_path, task, vectors, accumulation=accumulation, **changes).checkpoint
    stream, averages = vectors(0), weights_of(naive)
    for step in range(6):
        naive_step(naive, step, [next(stream) for _ in range(accumulation)])
        decay = min(0.3, (1 + step) / (10 + step))
        averages = {
            name: decay * averages[name] + (1 - decay) * new for name, new in weights_of(naive).items()
        }
    last = {
        f"{module}/{name}": tensor
        for module, named in trained_weights(path, averaged=False).items()
        for name, tensor in named.items()
    }
    assert all(torch.equal(tensor, last[name]) for name, tensor in weights_of(naive).items())
    found = weights_of(task)
    for name, tensor in averages.items():
        torch.testing.assert_close(found[name], tensor, msg=name)


def naive_step(task: Adversarial, step: int, parts: list[Any]) -> None:
    generator = seeded(torch.device("cpu"), 0, step)
    for phase, other in (("critic", "generator"), ("generator", "critic")):
        task.modules[phase].requires_grad_(True)
        task.modules[other].requires_grad_(False)
        for part in parts:
            (task.loss(phase, part, generator)[0] / len(parts)).backward()
        torch.nn.utils.clip_grad_norm_(task.modules[phase].parameters(), 0.05)
        peak = {"critic": 0.05, "generator": 0.01}[phase]
        task.phases[phase].optimizer.param_groups[0]["lr"] = peak * min(1, (step + 1) / 4)
        task.phases[phase].optimizer.step()
        task.phases[phase].optimizer.zero_grad()


def weights_of(task: Adversarial) -> dict[str, Tensor]:
    """All floating state, as it is now."""
    return {
        f"{module}/{name}": tensor.clone()
        for module, network in task.modules.items()
        for name, tensor in network.state_dict().items()
        if tensor.is_floating_point()
    }


def test_in_a_phase_only_its_own_parameters_require_gradients(tmp_path: Path) -> None:
    seen: dict[str, set] = {}

    class Watching(Adversarial):
        def loss(self, phase: str, batch: Any, generator: torch.Generator) -> Any:
            wanting = {
                name for name, m in self.modules.items() if any(p.requires_grad for p in m.parameters())
            }
            left = {
                name for name, m in self.modules.items() if any(p.grad is not None for p in m.parameters())
            }
            seen.setdefault(phase, set()).update(wanting | left)
            return super().loss(phase, batch, generator)

    task = Watching()
    task.modules["critic"][0].bias.requires_grad_(False)
    bias = task.modules["critic"][0].bias.clone()
    train(tmp_path, task, vectors, accumulation=2)
    assert seen == {"critic": {"critic"}, "generator": {"generator"}}
    assert torch.equal(bias, task.modules["critic"][0].bias)
    wanting = [p.requires_grad for module in task.modules.values() for p in module.parameters()]
    assert wanting.count(False) == 1, "the loop gives modules back as they came"


def test_accumulated_batches_are_as_good_as_a_large_one(tmp_path: Path) -> None:
    def large(first: int, rank: int, world: int) -> Iterator[Labelled]:
        small = batches(2 * first)
        while True:
            yield Labelled(*map(torch.cat, zip(next(small), next(small))))

    class Plain(Denoising):
        def loss(self, phase: str, batch: Labelled, generator: torch.Generator) -> tuple[Tensor, dict]:
            self.modules["denoiser"].eval()
            return self.modules["denoiser"](batch.images, batch.labels).square().mean(), {}

    small, whole = Plain(), Plain()
    train(tmp_path / "a", small, accumulation=2, clip_norm=0.1)
    train(tmp_path / "b", whole, large, clip_norm=0.1)
    for a, b in zip(small.modules["denoiser"].parameters(), whole.modules["denoiser"].parameters()):
        torch.testing.assert_close(a, b)


def test_learning_rate_is_a_function_of_the_step(tmp_path: Path) -> None:
    cosine = options(tmp_path, steps=12, warmup=4, schedule="cosine")
    factors = [cosine.rate_factor(step) for step in range(12)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[8] == pytest.approx(0.5) and sorted(factors[4:], reverse=True) == factors[4:]
    assert [options(tmp_path, warmup=2).rate_factor(step) for step in range(4)] == [0.5, 1, 1, 1]
    linear = options(tmp_path, steps=10, schedule="linear")
    assert [linear.rate_factor(step) for step in range(10)] == pytest.approx([1] * 7 + [0.75, 0.5, 0.25])
    task = Denoising(rate=0.01)
    train(tmp_path, task, steps=12, log_every=1, warmup=4, schedule="cosine")
    lines = [json.loads(line) for line in (tmp_path / "scalars.jsonl").read_text().splitlines()]
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.01 * f for f in factors])
    assert task.phases["main"].optimizer.param_groups[0]["lr"] == 0.01, "given back as it came"


def test_frozen_modules_and_the_callers_randomness_are_left_alone(tmp_path: Path) -> None:
    task = Denoising()
    before = {name: tensor.clone() for name, tensor in task.modules["teacher"].state_dict().items()}
    task.modules["denoiser"].eval()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    train(tmp_path, task, picture_every=2)
    assert torch.equal(torch.rand(1), expected)
    assert same(dict(task.modules["teacher"].state_dict()), before)
    assert not task.modules["denoiser"].training and task.modules["teacher"].training
    assert {name.split("/")[1] for name in checkpoints.safe_load(tmp_path / "step-00000006.safetensors")} == {
        "denoiser", "main"
    }  # fmt: skip


def test_seed_decides_and_pictures_logs_and_saves_do_not(tmp_path: Path) -> None:
    paths = [
        train(tmp_path / "a").checkpoint,
        train(tmp_path / "b", log_every=5, save_every=0, picture_every=1).checkpoint,
        train(tmp_path / "c", seed=1).checkpoint,
    ]
    a, b, c = map(checkpoints.safe_load, paths)
    assert same(a, b) and not same(a, c)


def test_several_trainings_in_a_row_may_differ_in_precision(tmp_path: Path) -> None:
    from accelerate import Accelerator

    own = Accelerator(mixed_precision="no", cpu=True)
    for number, precision in enumerate(("no", "bf16", "no")):
        fitted = train(tmp_path / str(number), mixed_precision=precision, accumulation=number + 1)
        assert fitted.step == 6
    a, b = (checkpoints.safe_load(tmp_path / n / "step-00000002.safetensors") for n in "01")
    assert not same(a, b) and all(tensor.dtype in (torch.float32, torch.int64) for tensor in b.values())
    assert own.mixed_precision == "no" and own.device.type == "cpu"


# Files


def full_disk(folder: Path, message: Path) -> None:
    """Train where the fourth checkpoint and all later ones find no room."""
    logging.basicConfig(filename=message, force=True)

    def stream(first: int, rank: int, world: int) -> Iterator[Labelled]:
        for position, batch in enumerate(batches(first, rank, world)):
            if position == 5:
                size = (folder / "step-00000002.safetensors").stat().st_size
                resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
            yield batch

    try:
        train(folder, Denoising(), stream, steps=8)
    except OSError as error:
        logging.error("raised %s: %s", type(error).__name__, error)
        sys.exit(3)


def test_full_disk_costs_checkpoints_but_neither_the_training_nor_older_ones(tmp_path: Path) -> None:
    folder, message = tmp_path / "run", tmp_path / "log.txt"
    process = in_process(full_disk, folder, message)
    process.join()
    log = message.read_text()
    assert process.exitcode == 3, log
    assert "training goes on without the checkpoint of step 6" in log
    assert "raised" in log and "step-00000008.safetensors" in log
    assert [name for name in os.listdir(folder) if "safetensors" in name and "02" not in name] == [
        "step-00000004.safetensors"
    ]
    resumed = train(folder, resume=True, steps=8)
    whole = train(tmp_path / "whole", steps=8)
    assert same(checkpoints.safe_load(resumed.checkpoint), checkpoints.safe_load(whole.checkpoint))


def test_truncated_checkpoint_is_reported_and_the_one_before_it_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = checkpoints.safe_load(train(tmp_path).checkpoint)
    last = tmp_path / "step-00000006.safetensors"
    content = last.read_bytes()
    last.unlink()  # what was read above is still mapped
    last.write_bytes(content[:-100])
    caplog.set_level(logging.INFO)
    assert same(checkpoints.safe_load(train(tmp_path, resume=True).checkpoint), whole)
    assert "a checkpoint is left out" in caplog.text and str(last) in caplog.text
    assert f"training goes on from {tmp_path / 'step-00000004.safetensors'}" in caplog.text
    assert [event.step for event in board(tmp_path).Scalars("loss")] == [2, 4, 6], "nothing is shown twice"


def board(folder: Path) -> Any:
    """What TensorBoard would show."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard")).Reload()


def test_unreadable_checkpoints_of_later_steps_are_the_first_to_go(tmp_path: Path) -> None:
    train(tmp_path, steps=4, save_every=1)
    for step in (90, 91, 92):
        (tmp_path / f"step-000000{step}.safetensors").write_bytes(b"cut off")
    train(tmp_path, steps=6, save_every=1, resume=True)
    assert [name for name in files(tmp_path) if "step" in name] == [
        f"step-0000000{step}.safetensors" for step in (4, 5, 6)
    ]


def test_only_the_newest_checkpoints_stay_and_leftovers_of_killed_writers_go(tmp_path: Path) -> None:
    (tmp_path / ".0a1b2c3d-step-00000002.safetensors").touch()
    (tmp_path / "notes.txt").touch()
    train(tmp_path, save_every=1, keep=2)
    assert files(tmp_path) == [
        "notes.txt", "scalars.jsonl", "step-00000005.safetensors", "step-00000006.safetensors"
    ]  # fmt: skip


def test_finished_training_is_not_repeated_but_may_be_prolonged(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", steps=9)
    train(tmp_path / "run", steps=6)
    task = Denoising()
    again = train(tmp_path / "run", task, steps=6, resume=True)
    assert (again.step, again.scalars, task.calls) == (6, {}, 0)
    weights = trained_weights(again.checkpoint)["denoiser"]
    assert same(dict(task.modules["denoiser"].state_dict()), weights), "its weights are in place all the same"
    weight = task.modules["denoiser"].body[0].weight
    moments = task.phases["main"].optimizer.state[weight]["exp_avg"]
    assert moments.stride() == weight.stride() != moments.contiguous().stride(), (
        "fast in channels_last only so"
    )
    longer = train(tmp_path / "run", steps=9, resume=True)
    assert same(checkpoints.safe_load(longer.checkpoint), checkpoints.safe_load(whole.checkpoint))
    with pytest.raises(ValueError, match="expected steps of at least 9, as in .*step-00000009.*, got 5"):
        train(tmp_path / "run", steps=5, resume=True)


def test_resuming_where_nothing_is_starts_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    train(tmp_path / "new", resume=True)
    assert f"nothing to resume in {tmp_path / 'new'}: training starts at step 0" in caplog.text


def test_folder_with_checkpoints_is_not_overwritten(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(ValueError, match="without checkpoints, or to resume, got .*choose resume or another"):
        train(tmp_path)


def test_every_difference_to_the_checkpoint_is_named_with_both_values(tmp_path: Path) -> None:
    train(tmp_path)
    task = Denoising(rate=0.02)
    task.modules["teacher"] = denoiser(7)
    other = options(tmp_path, resume=True, seed=4, accumulation=2, log_every=1, keep=9)
    with pytest.raises(ValueError, match="expected a checkpoint of the same training, got .*00006") as caught:
        fit(task, batches, other, description={"data": "toy", "model": {"width": 9}, "extra": (1, 2)})
    found = str(caught.value).split(".safetensors: ")[1].split("; ")
    assert found[0] == "extra absent there, [1, 2] here" and found[1].startswith("frozen.teacher '")
    assert found[2:] == [
        "model.width 8 there, 9 here",
        "optimizers.main.0.lr 0.01 there, 0.02 here",
        "training.accumulation 1 there, 2 here",
        "training.seed 0 there, 4 here",
    ]


def test_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    task = Denoising()
    task.modules["denoiser"].codes = torch.nn.Embedding(5, 4)
    task.phases = {
        "main": Phase(torch.optim.AdamW(task.modules["denoiser"].parameters(), 0.01), ("denoiser",))
    }
    with pytest.raises(
        ValueError, match=r"step-00000006.safetensors: .*codes.weight \(3, 4\) instead of \(5, 4\)"
    ):
        train(tmp_path, task, resume=True)


def test_averages_and_last_weights_are_read_back(tmp_path: Path) -> None:
    task = Denoising()
    path = train(tmp_path, task, ema_decay=0.5).checkpoint
    last, averaged = trained_weights(path, averaged=False), trained_weights(path)
    assert same(averaged["denoiser"], dict(task.modules["denoiser"].state_dict()))
    assert averaged.keys() == {"denoiser"} and not same(averaged["denoiser"], last["denoiser"])
    plain = train(tmp_path / "plain").checkpoint
    assert same(trained_weights(plain)["denoiser"], trained_weights(plain, averaged=False)["denoiser"])
    foreign = checkpoints.save(tmp_path / "w.safetensors", {"a": torch.ones(1)})
    with pytest.raises(ValueError, match="expected a checkpoint of a training, got .*w.safetensors"):
        trained_weights(foreign)


def test_scalars_and_pictures_are_written_and_measured(tmp_path: Path) -> None:
    modes: list[bool] = []
    weights: dict[str, Tensor] = {}

    class Looking(Denoising):
        def pictures(self, generator: torch.Generator) -> dict:
            modes.append(any(module.training for module in self.modules.values()))
            weights.update({name: t.clone() for name, t in self.modules["denoiser"].state_dict().items()})
            return super().pictures(generator)

    fitted = train(tmp_path, Looking(), picture_every=4, ema_decay=0.9)
    lines = [json.loads(line) for line in (tmp_path / "scalars.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert lines[-1] == {"step": 6, **fitted.scalars} and fitted.scalars["constant"] == 2.0
    assert {"loss", "scale", "learning_rate", "images_per_second", "data_wait"} <= fitted.scalars.keys()
    assert 0 < fitted.data_wait < 1 and fitted.images_per_second > 0
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == ["step-00000004-samples.png", "step-00000006-samples.png"]
    assert modes == [False, False] and same(weights, trained_weights(fitted.checkpoint)["denoiser"])
    assert [event.step for event in board(tmp_path).Scalars("loss")] == [2, 4, 6]
    assert [event.step for event in board(tmp_path).Images("samples")] == [4, 6]


# What does not fit together


def test_end_of_the_data_and_other_things_than_tensors_are_named(tmp_path: Path) -> None:
    closed = []

    def short(first: int, rank: int, world: int) -> Iterator[Labelled]:
        try:
            yield from [batch for batch, _ in zip(batches(first), range(5))]
        finally:
            closed.append(True)

    with pytest.raises(ValueError, match="expected batches for 6 steps, got an end of the data in step 3"):
        train(tmp_path / "a", Denoising(), short, accumulation=2)
    assert closed and (tmp_path / "a" / "step-00000002.safetensors").exists()
    with pytest.raises(ValueError, match="expected a batch of tensors, got str"):
        train(tmp_path / "b", Denoising(), lambda first, rank, world: iter([{"images": "a.jpg"}]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "expected steps of at least 1, got 0"),
        ({"keep": 0}, "expected keep of at least 1, got 0"),
        ({"clip_norm": float("nan")}, "expected clip_norm of at least 0, got nan"),
        ({"ema_decay": 1.0}, "expected ema_decay in 0 .. 1, without 1, got 1.0"),
        ({"schedule": "step"}, "unknown schedule 'step'; choose from constant, cosine"),
        ({"mixed_precision": "fp8"}, "unknown mixed_precision 'fp8'; choose from auto, no, bf16, fp16"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options(tmp_path, **change)


def test_half_precision_is_refused_on_a_cpu(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected mixed_precision no or bf16 on a CPU, got fp16"):
        train(tmp_path, mixed_precision="fp16", cpu=True)


def test_phases_that_cannot_be_done_are_refused(tmp_path: Path) -> None:
    task = Denoising()
    optimizer = task.phases["main"].optimizer
    task.phases = {"main": Phase(optimizer, ("denoiser", "critic"))}
    with pytest.raises(
        ValueError, match="unknown module 'critic' in phase 'main'; choose from denoiser, teacher"
    ):
        train(tmp_path, task)
    task.phases = {"main": Phase(optimizer, ("teacher",))}
    with pytest.raises(
        ValueError, match="expected an optimizer of parameters of teacher in phase 'main', got 7"
    ):
        train(tmp_path, task)
    task.phases = {}
    with pytest.raises(ValueError, match="at least one phase"):
        train(tmp_path, task)
    with pytest.raises(ValueError, match="expected a description that JSON can say"):
        fit(Denoising(), batches, options(tmp_path), description={"folder": tmp_path})


def test_missing_accelerate_names_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match="install it with `pip install accelerate`"):
        train(tmp_path)
