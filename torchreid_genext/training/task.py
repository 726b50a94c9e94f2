"""What the loop asks of those who train: losses in phases, sample pictures, and batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["Batches", "Phase", "Task", "check_task"]


@dataclass(frozen=True)
class Phase:
    """One update within a step: diffusion has one, adversarial training one for each side.

    Attributes:
        optimizer: holds parameters of `modules` only; its learning rates are the peaks of the schedule.
        modules: names of the modules that it trains. Elsewhere in this phase nothing requires gradients.
    """

    optimizer: Optimizer
    modules: tuple[str, ...]


class Task(Protocol):
    """What is trained, and by which losses.

    Attributes:
        modules: by name, everything that is trained or used. Those of no phase are frozen: they stay in
            evaluation mode and are not saved, but a resumed training must bring the same weights.
        phases: done in this order in every step.
    """

    modules: dict[str, nn.Module]
    phases: Mapping[str, Phase]

    def loss(
        self, phase: str, batch: Any, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The loss to descend, a mean over the batch, and further scalars to log.

        It runs under autocast when precision is mixed, so what needs float32 must switch that off. All
        randomness comes from `generator` or torch's global generators, and state is changed in place only.
        """

    def pictures(self, generator: torch.Generator) -> dict[str, Image.Image]:
        """Samples to look at, by name, drawn with averaged weights and modules in evaluation mode.

        The generator starts from the same seed every time, so pictures of different steps can be compared.
        """


class Batches(Protocol):
    """A source of batches that knows all of them by position: nothing of it needs to be saved."""

    def __call__(self, first: int, rank: int, world: int) -> Iterator[Any]:
        """Batches from number `first` on, without end or for as long as training lasts.

        Args:
            first: position of the first batch, counted from the start of training; a step takes
                ``accumulation`` of them.
            rank: this process, which gets its own share of each batch.
            world: how many processes there are.

        Yields:
            A tensor, or a tuple, named tuple, list or dict of tensors; the first one is as long as the batch.
        """


def check_task(task: Task) -> None:
    """Refuse phases that cannot be done.

    Raises:
        ValueError: if there is no phase, one trains an unknown module, or its optimizer others' parameters.
    """
    if not task.phases:
        raise ValueError("expected a task with at least one phase, got none")
    if awkward := [name for name in (*task.modules, *task.phases) if "/" in name]:
        raise ValueError(f"expected names of modules and phases without '/', got {awkward[0]!r}")
    for name, phase in task.phases.items():
        _check_phase(name, phase, task.modules)


def _check_phase(name: str, phase: Phase, modules: Mapping[str, nn.Module]) -> None:
    if unknown := set(phase.modules) - modules.keys():
        raise ValueError(
            f"unknown module {min(unknown)!r} in phase {name!r}; choose from {', '.join(sorted(modules))}"
        )
    own = {id(parameter) for module in phase.modules for parameter in modules[module].parameters()}
    held = [parameter for group in phase.optimizer.param_groups for parameter in group["params"]]
    if foreign := sum(id(parameter) not in own for parameter in held):
        rule = f"expected an optimizer of parameters of {', '.join(phase.modules)} in phase {name!r}"
        raise ValueError(f"{rule}, got {foreign} others")
