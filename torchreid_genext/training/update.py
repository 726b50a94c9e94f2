"""One phase of a step: gradients of its own modules, and what the optimizer makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchreid_genext.training.guards import LossWatch
from torchreid_genext.training.machine import GradientMean, mixed
from torchreid_genext.training.options import Options
from torchreid_genext.training.task import Task

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Means", "Update"]


class Means:
    """Means of scalars since the last look, kept on the device: reading them is waiting for it."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor | float, int]] = {}

    def add(self, name: str, value: Tensor | float) -> None:
        """Take in one more value."""
        total, count = self._sums.get(name, (0.0, 0))
        value = value.detach().float() if isinstance(value, Tensor) else value
        self._sums[name] = (total + value, count + 1)

    def lap(self) -> dict[str, float]:
        """The mean of each scalar since the last call."""
        means = {name: float(total) / count for name, (total, count) in self._sums.items()}
        self._sums = {}
        return means


class Update:
    """A phase of a task, as the loop does it.

    Args:
        name: of the phase.
        task: whose phase it is; parameters that require no gradients now never will.
        accelerator: on which it is done.
        options: of the training.
        gradients_of_all: averages over processes.
        watch: sees all losses.
        means: gets all scalars, under the phase's name if there are several phases.
    """

    def __init__(
        self,
        name: str,
        task: Task,
        accelerator: Accelerator,
        options: Options,
        gradients_of_all: GradientMean,
        watch: LossWatch,
        means: Means,
    ) -> None:
        self.name, self.task, self.accelerator, self.options = name, task, accelerator, options
        self.gradients_of_all, self.watch, self.means = gradients_of_all, watch, means
        self.prefix = f"{name}/" if len(task.phases) > 1 else ""
        self.optimizer = task.phases[name].optimizer
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.parameters = _trainable([task.modules[module] for module in task.phases[name].modules])
        own = set(self.parameters)
        self.others = {p for module in task.modules.values() for p in module.parameters()} - own

    def gradients(self, batches: Sequence[Any], generator: torch.Generator, step: int) -> None:
        """Put the mean gradient of the loss over batches and processes into the phase's parameters.

        Raises:
            Diverged: if a loss is not finite.
        """
        self._alone_require_gradients()
        for batch in batches:
            with mixed(self.accelerator):
                loss, scalars = self.task.loss(self.name, batch, generator)
            self.watch.see(loss, step)
            self.accelerator.backward(loss)
            for name, value in {"loss": loss, **scalars}.items():
                self.means.add(self.prefix + name, value)
        self.gradients_of_all.average(self.parameters)

    def _alone_require_gradients(self) -> None:
        for parameter in self.others:
            parameter.requires_grad_(False)
        for parameter in self.parameters:
            parameter.requires_grad_(True)
            parameter.grad = None

    def apply(self, step: int) -> None:
        """Change the parameters by their gradients, in a step counted from 0."""
        self.set_rates(self.options.rate_factor(step))
        scaler = self.accelerator.scaler
        if scaler:
            scaler.unscale_(self.optimizer)
        if self.options.clip_norm:
            norm = nn.utils.clip_grad_norm_(self.parameters, self.options.clip_norm)
            self.means.add(f"{self.prefix}gradient_norm", norm)
        if scaler:
            scaler.step(self.optimizer)
            scaler.update()
        else:
            self.optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None

    def set_rates(self, factor: float) -> None:
        """Set the learning rates to a multiple of their peaks."""
        for group, peak in zip(self.optimizer.param_groups, self.peaks):
            group["lr"] = peak * factor


def _trainable(modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    """Each once, in their order."""
    parameters = (parameter for module in modules for parameter in module.parameters())
    return [parameter for parameter in dict.fromkeys(parameters) if parameter.requires_grad]
