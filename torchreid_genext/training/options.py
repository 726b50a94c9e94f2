"""How long, how fast, how exactly and where to train.

Schedules of diffusers and torch have state that must be saved, begin their warm-up at a rate of 0, and know
no plateau before the decay; here the rate is a function of the step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from torchreid_genext.precision import computes_bf16

__all__ = ["PRECISIONS", "SCHEDULES", "Options"]

PRECISIONS = ("auto", "no", "bf16", "fp16")
SCHEDULES = ("constant", "cosine", "linear")
_FULL = 0.6  # share of steps before a linear decay; CycleGAN's 30 of 50 epochs


@dataclass(frozen=True)
class Options:
    """Everything about a training that is not the task's own.

    Attributes:
        steps: updates in all, those before an interruption included.
        folder: of checkpoints, ``scalars.jsonl``, ``samples`` and ``tensorboard``.
        seed: with the step and the process it determines all randomness.
        accumulation: batches for each step.
        mixed_precision: "no", "bf16" or, on accelerators, "fp16"; parameters stay float32. "auto" becomes
            "bf16" where the device has instructions for it, and "no" elsewhere.
        channels_last: memory order of images and feature maps.
        ema_decay: of the average of all weights, in 0 .. 1; 0 keeps none. It grows to this value
            as ``(1 + step) / (10 + step)``.
        warmup: steps in which the learning rate rises linearly.
        schedule: "constant", "cosine" from the peak to zero at the last step, or "linear": the peak for three
            fifths of the steps, then straight to zero.
        clip_norm: largest norm of the gradients of a phase; 0 does not clip.
        log_every: steps between lines of scalars, each the mean of the steps since the last one.
        picture_every: steps between sample pictures; 0 draws none.
        save_every: steps between checkpoints; 0 saves at the end only.
        keep: how many of the newest checkpoints stay.
        resume: go on from the newest whole checkpoint in `folder`, if there is one.
        cpu: train on the CPU even where there is an accelerator.

    Raises:
        ValueError: if a value is out of range.
    """

    steps: int
    folder: Path
    seed: int = 0
    accumulation: int = 1
    mixed_precision: str = "no"
    channels_last: bool = True
    ema_decay: float = 0.0
    warmup: int = 0
    schedule: str = "constant"
    clip_norm: float = 0.0
    log_every: int = 50
    picture_every: int = 0
    save_every: int = 1000
    keep: int = 3
    resume: bool = False
    cpu: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "accumulation", "log_every", "keep"):
            _check_least(name, getattr(self, name), 1)
        for name in ("warmup", "clip_norm", "picture_every", "save_every"):
            _check_least(name, getattr(self, name), 0)
        _check_choice("mixed_precision", self.mixed_precision, PRECISIONS)
        _check_choice("schedule", self.schedule, SCHEDULES)
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"expected ema_decay in 0 .. 1, without 1, got {self.ema_decay}")
        if self.mixed_precision == "auto":
            object.__setattr__(self, "mixed_precision", "bf16" if self._computes_bf16() else "no")

    def _computes_bf16(self) -> bool:
        accelerated = torch.accelerator.is_available() and not self.cpu
        return computes_bf16(torch.accelerator.current_accelerator() if accelerated else "cpu")

    def rate_factor(self, step: int) -> float:
        """By what the peak learning rate is multiplied in a step, counted from 0; a value in 0 .. 1."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.schedule == "constant":
            return 1.0
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        if self.schedule == "linear":
            return min(1.0, (1 - progress) / (1 - _FULL))
        return 0.5 * (1 + math.cos(math.pi * progress))

    def shaping(self) -> dict[str, Any]:
        """Those values that shape the weights, which a resumed training must therefore share.

        A constant learning rate does not depend on the end of training, so it may be prolonged.
        """
        names = ["seed", "accumulation", "mixed_precision", "ema_decay", "warmup", "schedule", "clip_norm"]
        names += ["steps"] if self.schedule != "constant" else []
        return {name: getattr(self, name) for name in names}


def _check_least(name: str, value: float, least: int) -> None:
    if not value >= least:
        raise ValueError(f"expected {name} of at least {least}, got {value}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}; choose from {', '.join(choices)}")
