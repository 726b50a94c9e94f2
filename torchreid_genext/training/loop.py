"""One loop for all generators: what is learned is the task's, how it is done is decided here.

A training can be killed at any moment. Batches are known by position and randomness by step, so a
checkpoint holds weights, their average and optimizers only, and on the CPU the resumed training reaches, bit
for bit, the weights of one that was never interrupted.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from torchreid_genext.training import machine
from torchreid_genext.training.averaging import Average, named_state
from torchreid_genext.training.checkpointing import Checkpoints, comparable
from torchreid_genext.training.clock import Clock
from torchreid_genext.training.guards import (
    Buffers,
    Diverged,
    LossWatch,
    interruption_deferred,
    termination_as_interruption,
)
from torchreid_genext.training.journal import Journal
from torchreid_genext.training.modules import borrowed, modes_restored, trained_modules
from torchreid_genext.training.options import Options
from torchreid_genext.training.randomness import restored_afterwards, seeded
from torchreid_genext.training.state import State, described_optimizer, fingerprint
from torchreid_genext.training.task import Batches, Task, check_task
from torchreid_genext.training.update import Means, Update

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Fitted", "fit"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """What has come out of a training.

    Attributes:
        step: how many steps are done in all.
        checkpoint: file of the last step; `trained_weights` reads it.
        scalars: the last ones that were logged; none if there was nothing left to do.
        images_per_second: of all processes together, without saving and drawing.
        data_wait: share of time spent waiting for data, in 0 .. 1.
    """

    step: int
    checkpoint: Path
    scalars: dict[str, float] = field(default_factory=dict)
    images_per_second: float = 0.0
    data_wait: float = 0.0


def fit(
    task: Task,
    batches: Batches,
    options: Options,
    *,
    description: Mapping[str, Any],
    finish: Callable[[], object] = lambda: None,
) -> Fitted:
    """Train the modules of a task; they stay on the device, with their averages where these are kept.

    Each process does its share when started by ``accelerate launch`` or ``torchrun``; the first one alone
    writes. They reach, but for rounding, the weights of one process, as far as a loss is a mean over images:
    dropout, statistics of batches and memories of earlier images are each process's own. Ctrl-C, SIGTERM and
    errors leave a checkpoint of the last whole step, if its weights are finite.

    Args:
        task: what is trained, and by which losses.
        batches: called with the first position that is needed, this process and their number.
        options: everything else.
        description: what else the weights depend on, such as data and sizes of models, as JSON can say it;
            a training resumes only where it is the same. ``training``, ``optimizers``, ``frozen`` are taken.
        finish: writes what comes of the modules, called in the first process while the others wait.

    Raises:
        ImportError: if accelerate is missing.
        OSError: if the last checkpoint cannot be written; an earlier one is only warned of.
        ValueError: if task, options, batches and checkpoints do not fit together, or a loss or a weight
            becomes infinite or not a number, in which case it names the step.
    """
    check_task(task)
    with termination_as_interruption(), machine.accelerated(options) as accelerator:
        with borrowed(task.modules, task.phases), restored_afterwards(accelerator.device):
            fitted = _Training(task, batches, options, accelerator, description).run()
        machine.by_the_first(finish, accelerator)
        return fitted


class _Training:
    """A training in progress; `step` counts those that are done, `saved` those of the last checkpoint."""

    def __init__(
        self,
        task: Task,
        batches: Batches,
        options: Options,
        accelerator: Accelerator,
        description: Mapping[str, Any],
    ) -> None:
        self.task, self.batches, self.options, self.accelerator = task, batches, options, accelerator
        self.device, self.step, self.saved, self.halfway = accelerator.device, 0, 0, False
        self.trained = trained_modules(task.modules, task.phases)
        self._place()
        self.description = comparable(self._described(description))
        self.state = self._state()
        self.buffers, self.watch = Buffers(self.trained.values()), LossWatch(accelerator)
        self.clock, self.means, self.scalars = Clock(), Means(), {}
        self.checkpoints = Checkpoints(options.folder, options.keep)
        shared = machine.GradientMean(accelerator), self.watch, self.means
        self.updates = [Update(name, task, accelerator, options, *shared) for name in task.phases]

    def _place(self) -> None:
        layout = torch.channels_last if self.options.channels_last else torch.preserve_format
        for module in self.task.modules.values():
            module.to(self.device, memory_format=layout)
        machine.share_state([*self.task.modules.values()], self.accelerator)

    def _described(self, description: Mapping[str, Any]) -> dict[str, Any]:
        """Everything that shapes the weights."""
        frozen = {name: module for name, module in self.task.modules.items() if name not in self.trained}
        return {
            **description,
            "training": {**self.options.shaping(), "processes": self.accelerator.num_processes},
            "optimizers": {
                name: described_optimizer(phase.optimizer) for name, phase in self.task.phases.items()
            },
            "frozen": {name: fingerprint(named_state({name: module})) for name, module in frozen.items()},
        }

    def _state(self) -> State:
        average = Average(self.trained, self.options.ema_decay) if self.options.ema_decay else None
        optimizers = {name: phase.optimizer for name, phase in self.task.phases.items()}
        return State(self.trained, optimizers, average, self.accelerator.scaler)

    def run(self) -> Fitted:
        """Train to the end, from the newest checkpoint on if there is one."""
        self.step = self.saved = self._begin()
        try:
            if self.step < self.options.steps:
                self._train()
            else:
                _log.info("nothing is left to do: all %d steps are done", self.step)
        except BaseException:
            self._rescue()
            raise
        finally:
            for update in self.updates:
                update.set_rates(1.0)
        if self.state.average:
            self.state.average.give()
        whole = self.clock.whole
        rate = whole.images_per_second * self.accelerator.num_processes
        return Fitted(self.step, self.checkpoints.path(self.step), self.scalars, rate, whole.data_wait)

    def _begin(self) -> int:
        """The steps that are done already, with the state as it was after them."""
        if self.accelerator.is_main_process:
            self.checkpoints.sweep()
        if not self.options.resume:
            self.checkpoints.check_none()
        step = self._resumed() if self.options.resume else 0
        done = self.accelerator.gather(torch.tensor([step], device=self.device)).tolist()
        if len(set(done)) > 1:
            raise ValueError(f"expected a folder that all processes see alike, got steps {done} done in it")
        return step

    def _resumed(self) -> int:
        found = self.checkpoints.to_resume(self.options.steps, self.description)
        if found is None:
            return 0
        self.state.load(found.tensors, found.metadata, found.path)
        return found.metadata["step"]

    def _train(self) -> None:
        first, writes = self.step, self.accelerator.is_main_process
        journal = Journal(self.options.folder, first, self.options.steps, writes=writes)
        with contextlib.closing(journal) as self.journal, self._stream() as stream:
            self.clock = Clock()
            while self.step < self.options.steps:
                batches = self._next(stream)
                if self.step == first:
                    self._announce(batches)
                self._one_step(batches)
                self.clock.count(sum(map(machine.batch_size, batches)))
                self._after_step()

    @contextlib.contextmanager
    def _stream(self) -> Iterator[Iterator[Any]]:
        """Batches from the next step on; a source that can be closed is."""
        position = self.step * self.options.accumulation
        stream = iter(self.batches(position, self.accelerator.process_index, self.accelerator.num_processes))
        try:
            yield stream
        finally:
            getattr(stream, "close", lambda: None)()

    def _next(self, stream: Iterator[Any]) -> list[Any]:
        """The batches of a step, on the device."""
        with self.clock.waiting():
            batches = list(itertools.islice(stream, self.options.accumulation))
        if len(batches) < self.options.accumulation:
            rule = f"expected batches for {self.options.steps} steps"
            raise ValueError(f"{rule}, got an end of the data in step {self.step + 1}")
        return [machine.moved(batch, self.device, self.options.channels_last) for batch in batches]

    def _announce(self, batches: list[Any]) -> None:
        steps = self.options.steps - self.step
        images = steps * sum(map(machine.batch_size, batches)) * self.accelerator.num_processes
        parameters = sum(p.numel() for module in self.trained.values() for p in module.parameters())
        _log.info(
            "training %s, %.2f million parameters: %d steps, %d images, on %d x %s, mixed precision %s",
            ", ".join(self.trained), parameters / 1e6, steps, images,
            self.accelerator.num_processes, self.device, self.options.mixed_precision,
        )  # fmt: skip

    def _one_step(self, batches: list[Any]) -> None:
        share = self.accelerator.process_index, self.accelerator.num_processes
        generator = seeded(self.device, self.options.seed, self.step, share=share)
        self.buffers.keep()
        first, *others = self.updates
        first.gradients(batches, generator, self.step)
        with interruption_deferred():
            self.halfway = True
            first.apply(self.step)
            for update in others:
                update.gradients(batches, generator, self.step)
                update.apply(self.step)
            self._finish()

    def _finish(self) -> None:
        if self.state.average:
            self.state.average.update(self.step)
        self.buffers.forget()
        self.step += 1
        self.halfway = False

    def _after_step(self) -> None:
        last = self.step == self.options.steps
        self.journal.advance()
        if last or self._due(self.options.log_every):
            self._report()
        with self.clock.stopped():
            if last:
                self._save()
            elif self._due(self.options.save_every):
                self._try_to_save()
            if self._due(self.options.picture_every) or (last and self.options.picture_every):
                self._draw()

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _report(self) -> None:
        """Write scalars; reading them waits for the accelerator, so that the clock is right."""
        self.watch.check()
        means, lap = self.means.lap(), self.clock.lap()
        rate = lap.images_per_second * self.accelerator.num_processes
        factor = self.options.rate_factor(self.step - 1)
        rates = {f"{update.prefix}learning_rate": update.peaks[0] * factor for update in self.updates}
        self.scalars = {**means, **rates, "images_per_second": rate, "data_wait": lap.data_wait}
        self.journal.scalars(self.step, self.scalars, lap.seconds / lap.steps)

    def _try_to_save(self) -> None:
        try:
            self._save()
        except OSError as error:
            _log.warning("training goes on without the checkpoint of step %d: %s", self.step, error)

    def _save(self) -> None:
        self.watch.check()
        if not self.state.is_finite():
            raise Diverged(f"expected finite weights, got some that are not after step {self.step}")
        machine.by_the_first(self._write, self.accelerator)
        self.saved = self.step

    def _write(self) -> None:
        metadata = {**self.state.metadata(), "description": self.description}
        self.checkpoints.save(self.step, self.state.tensors(), metadata)
        self.journal.flush()
        self.saved = self.step

    def _rescue(self) -> None:
        """After an error: save the last whole step, unless it is saved, lost or not worth it."""
        if self.halfway:
            _log.warning("stopped in step %d: the last checkpoint is of step %d", self.step + 1, self.saved)
        elif self.accelerator.is_main_process and self.step > self.saved:
            self.buffers.restore()
            if self.state.is_finite():
                with contextlib.suppress(OSError):
                    self._write()
            _log.warning("stopped after step %d: the last checkpoint is of step %d", self.step, self.saved)

    def _draw(self) -> None:
        """Sample pictures, by the averaged weights and in full precision."""
        if self.accelerator.is_main_process:
            average = self.state.average.in_place() if self.state.average else contextlib.nullcontext()
            with modes_restored(self.task.modules), average, torch.no_grad():
                for module in self.task.modules.values():
                    module.eval()
                generator = seeded(self.device, self.options.seed, "pictures")
                self.journal.pictures(self.step, self.task.pictures(generator))
