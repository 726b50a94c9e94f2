"""The parts of the loop on their own: averages, randomness, guards, batches on their way, processes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.training.processes import in_two_processes
from tests.training.tasks import Denoising, Labelled, batches
from torchreid_genext import checkpoints
from torchreid_genext.processes import own_rows
from torchreid_genext.training import Options, fit, machine
from torchreid_genext.training.averaging import Average
from torchreid_genext.training.clock import Clock
from torchreid_genext.training.guards import Buffers, LossWatch, interruption_deferred
from torchreid_genext.training.machine import GradientMean, accelerated, batch_size, moved
from torchreid_genext.training.randomness import restored_afterwards, seeded

CPU = torch.device("cpu")


def random_steps(module: nn.Module, count: int) -> Iterator[dict[str, np.ndarray]]:
    """Change all floating state at random, and give it in double precision after each change."""
    for _ in range(count):
        with torch.no_grad():
            for tensor in (t for t in module.state_dict().values() if t.is_floating_point()):
                tensor.normal_()
        yield {name: tensor.double().numpy().copy() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_average_of_parameters_and_buffers_is_the_formula(decay: float) -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).to(memory_format=torch.channels_last)
    average = Average({"net": module}, decay)
    expected = {name: tensor.double().numpy().copy() for name, tensor in module.state_dict().items()}
    for step, weights in enumerate(random_steps(module, 30)):
        average.update(step)
        d = min(decay, (1 + step) / (10 + step))
        expected = {name: d * expected[name] + (1 - d) * weights[name] for name in expected}
    found = average.state()
    assert found.keys() == {f"net/{name}" for name in expected if "num_batches" not in name}
    for name, tensor in found.items():
        np.testing.assert_allclose(tensor.numpy(), expected[name[4:]], rtol=0, atol=2e-6)


def test_averaged_weights_are_in_place_for_a_while_only() -> None:
    module = nn.Linear(2, 2)
    average = Average({"net": module}, 0.9)
    start = module.weight.detach().clone()
    *_, last = random_steps(module, 1)
    with pytest.raises(RuntimeError), average.in_place():
        assert torch.equal(module.weight, start)
        raise RuntimeError
    assert np.array_equal(module.weight.detach().double().numpy(), last["weight"])


def test_shared_tensors_are_averaged_once_and_named_twice() -> None:
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    module = nn.Sequential(first, second)
    average = Average({"net": module}, 0.5)
    start = first.weight.detach().clone()
    with torch.no_grad():
        first.weight += 10
    average.update(9)
    for name in ("net/0.weight", "net/1.weight"):
        torch.testing.assert_close(average.state()[name], start + 5)
    other = Average({"net": module}, 0.5)
    other.load(average.state())
    assert torch.equal(other.state()["net/1.weight"], average.state()["net/1.weight"])
    with pytest.raises(
        ValueError, match="averages of the tensors that are trained, got another 'net/1.weight'"
    ):
        other.load({"net/0.weight": start})


def draws(*key: int | str) -> list[Tensor]:
    generator = seeded(CPU, *key)
    return [torch.rand(4, generator=generator), torch.rand(4)]


def test_randomness_depends_on_each_part_of_its_key_and_on_nothing_else() -> None:
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, "pictures")]
    first = [draw for key in keys for draw in draws(*key)]
    torch.rand(7)
    assert all(torch.equal(a, b) for a, b in zip(first, [draw for key in keys for draw in draws(*key)]))
    assert len({tuple(draw.tolist()) for draw in first}) == 10


def test_global_randomness_is_restored_after_errors_too() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), restored_afterwards(CPU):
        seeded(CPU, 3)
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), before)


def test_buffers_come_back_until_they_are_forgotten() -> None:
    norm = nn.BatchNorm1d(2)
    buffers = Buffers([norm])
    for forget, expected in ((False, 0), (True, 1)):
        buffers.keep()
        norm(torch.rand(4, 2))
        if forget:
            buffers.forget()
        buffers.restore()
        assert norm.num_batches_tracked == expected


def test_interruption_waits_for_the_end_of_a_block_and_is_lost_nowhere() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interruption_deferred():
        signal.raise_signal(signal.SIGINT)
        done.append(True)
    assert done and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_threads_that_get_no_interruptions_defer_none() -> None:
    done: list[bool] = []

    def work() -> None:
        with interruption_deferred():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done


def test_clock_tells_steps_from_waiting_and_from_other_things(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = Clock()
    for _ in range(2):
        with clock.waiting():
            now[0] += 1
        now[0] += 3
        clock.count(20)
        with clock.stopped():
            now[0] += 50
    lap = clock.lap()
    assert (lap.seconds, lap.steps, lap.images_per_second, lap.data_wait) == (8, 2, 5, 0.25)
    now[0] += 2
    assert clock.lap().seconds == 2 and clock.whole.seconds == 10 and Clock().lap().images_per_second == 0


class Other(NamedTuple):
    """What a loss watch needs of several processes or an accelerator."""

    device: torch.device = CPU
    num_processes: int = 2

    def gather(self, tensor: Tensor) -> Tensor:
        return torch.cat([torch.tensor([-1]), tensor])


def test_first_loss_that_is_not_finite_is_remembered_without_looking_at_each() -> None:
    watch = LossWatch(Other())
    watch.see(torch.tensor(1.0), 0)
    watch.check()
    for step, loss in enumerate((2.0, float("inf"), 1.0, float("nan")), start=1):
        watch.see(torch.tensor(loss), step)
    with pytest.raises(ValueError, match="in step 3$"):
        watch.check()


def test_batches_of_every_kind_are_moved_with_images_in_memory_order() -> None:
    images, labels = torch.rand(4, 3, 8, 4), torch.arange(4)
    for batch in (images, (images, labels), [images], {"a": {"b": images}}, Labelled(images, labels)):
        result = moved(batch, CPU, channels_last=True)
        assert type(result) is type(batch) and batch_size(result) == 4
        tensor = result
        while not isinstance(tensor, Tensor):
            tensor = tensor["a" if "a" in tensor else "b"] if isinstance(tensor, dict) else tensor[0]
        assert torch.equal(tensor, images) and tensor.is_contiguous(memory_format=torch.channels_last)
    assert moved(images, CPU, channels_last=False).is_contiguous()


def test_accelerators_of_others_survive_ours(tmp_path: Path) -> None:
    from accelerate import Accelerator

    with accelerated(Options(1, tmp_path, mixed_precision="bf16", accumulation=3, cpu=True)) as ours:
        assert (ours.mixed_precision, ours.gradient_accumulation_steps) == ("bf16", 3)
    later = Accelerator(cpu=True)
    with accelerated(Options(1, tmp_path, mixed_precision="bf16", cpu=True)):
        pass
    assert (later.mixed_precision, later.gradient_accumulation_steps) == ("no", 1)


# Several processes


class Mean(Denoising):
    """Without randomness and BatchNorm's batch statistics, so that shares of a batch add up to the whole."""

    def loss(self, phase: str, batch: Labelled, generator: torch.Generator) -> tuple[Tensor, dict]:
        self.modules["denoiser"].eval()
        self.calls += 1
        loss = self.modules["denoiser"](batch.images, batch.labels).square().mean()
        bad = os.environ.get("RANK") == "1" and self.calls == int(os.environ.get("BAD", -1))
        return loss * (float("nan") if bad else 1.0), {}


def one_of_two(rank: int, folder: Path, bad: int) -> None:
    """With `bad` nothing is saved before the end."""
    os.environ["BAD"] = str(bad)
    task = Mean()
    with torch.no_grad():
        task.modules["denoiser"].codes.weight += rank  # the first process decides
    save_every = 2 if bad < 0 else 0
    options = Options(6, folder, save_every=save_every, log_every=2, accumulation=2, clip_norm=0.1)
    try:
        fit(task, batches, options, description={})
    except ValueError as error:
        (folder / f"error-{rank}").write_text(f"{error}, after {task.calls} batches")
    checkpoints.save(folder / f"rank-{rank}.safetensors", task.modules["denoiser"].state_dict())


def whole(first: int, rank: int, world: int) -> Iterator[Any]:
    shares = [batches(first, share, 2) for share in range(2)]
    while True:
        yield Labelled(*map(torch.cat, zip(*map(next, shares))))


def test_two_processes_train_as_one_with_their_batches_together(tmp_path: Path) -> None:
    in_two_processes(one_of_two, tmp_path, -1)
    a, b = (checkpoints.safe_load(tmp_path / f"rank-{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    task = Mean()
    options = Options(6, tmp_path / "one", accumulation=2, clip_norm=0.1)
    fit(task, whole, options, description={})
    for name, tensor in task.modules["denoiser"].state_dict().items():
        torch.testing.assert_close(a[name], tensor, rtol=1e-4, atol=1e-6)
    names = {path.name for path in tmp_path.glob("step-*")}
    assert names == {f"step-0000000{step}.safetensors" for step in (2, 4, 6)}


def test_all_processes_stop_where_one_has_a_loss_that_is_no_number(tmp_path: Path) -> None:
    in_two_processes(one_of_two, tmp_path, 6)  # two batches a step
    for rank in range(2):
        assert (tmp_path / f"error-{rank}").read_text().endswith("in step 3, after 8 batches")
    assert not list(tmp_path.glob("step-*"))


def never_reached_by(rank: int, folder: Path, reached: tuple[int, ...]) -> None:
    """Processes of which some have a gradient; parameters of three kinds and sizes."""
    first, second, third = (nn.Parameter(torch.full((size,), 1.0)) for size in (5, 3, 4))
    with accelerated(Options(1, folder)) as accelerator:
        mean = GradientMean(accelerator)
        if rank in reached:
            first.grad, third.grad = torch.arange(5.0) + rank, torch.full((4,), 2.0 + rank)
        pointers = [each.grad.data_ptr() for each in (first, third) if each.grad is not None]
        mean.average([first, second, third])
    assert second.grad is None
    kept = [each.grad for each in (first, third) if each.grad is not None]
    assert not pointers or [each.data_ptr() for each in kept] == pointers  # in place
    assert bool(kept) == bool(reached)
    if reached:
        shares = len(reached) / 2
        torch.testing.assert_close(first.grad, shares * torch.arange(5.0) + sum(reached) / 2)
        torch.testing.assert_close(third.grad, torch.full((4,), 2 * shares + sum(reached) / 2))


@pytest.mark.parametrize("reached", ((), (1,), (0, 1)))
def test_gradients_that_no_process_has_stay_away(
    tmp_path: Path, reached: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_BUCKET", 24)  # bytes: one parameter each
    in_two_processes(never_reached_by, tmp_path, reached)


def test_buckets_hold_consecutive_tensors_of_a_kind_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_BUCKET", 24)
    tensors = [torch.zeros(n, dtype=kind) for n in (2, 4, 1, 9, 1) for kind in (torch.float32, torch.half)]
    found = [[(len(each), each.element_size()) for each in bucket] for bucket in machine._buckets(tensors)]
    full = [[(2, 4), (4, 4)], [(1, 4)], [(9, 4)], [(1, 4)]]
    assert found == [*full, [(2, 2), (4, 2), (1, 2)], [(9, 2), (1, 2)]]
    assert [*machine._buckets([])] == []


def test_processes_that_would_train_alone_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as those of a launcher that does not tell each its accelerator."""
    if torch.accelerator.is_available():
        pytest.skip("needs a machine without accelerator, that is said to have one")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes can train together.*ACCELERATE_USE_CPU=true"):
        fit(Mean(), batches, Options(1, tmp_path), description={})


def failing_in_the_first(rank: int, folder: Path) -> None:
    def finish() -> None:
        (folder / "written").write_text(str(rank))
        raise OSError("disk full")

    try:
        fit(Mean(), batches, Options(1, folder), description={}, finish=finish)
    except OSError:
        (folder / f"error-{rank}").touch()


def test_the_first_process_alone_finishes_and_the_others_do_not_wait_for_ever(tmp_path: Path) -> None:
    in_two_processes(failing_in_the_first, tmp_path)
    assert (tmp_path / "written").read_text() == "0"
    assert [path.name for path in tmp_path.glob("error-*")] == ["error-0"]


def test_rows_of_processes_are_those_that_one_draws() -> None:
    def drawn(rank: int, world: int, count: int, dim: int = 0) -> Tensor:
        random = seeded(CPU, 3, 7, share=(rank, world))

        def draw(rows: int) -> Tensor:
            return torch.rand((rows, 2) if dim == 0 else (2, rows), generator=random)

        first = own_rows(draw, count, random, dim=dim)
        return torch.stack([first, own_rows(draw, count, random, dim=dim)])

    for dim in (0, 1):
        halves = [drawn(rank, 2, 3, dim) for rank in range(2)]
        assert torch.equal(torch.cat(halves, dim + 1), drawn(0, 1, 6, dim))
    globals_of = [(seeded(CPU, 3, share=(rank, 2)), torch.rand(2)) for rank in range(2)]
    assert not torch.equal(globals_of[0][1], globals_of[1][1])
