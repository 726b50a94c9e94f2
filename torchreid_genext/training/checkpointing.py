"""Checkpoints of a training in its folder, one file each: ``step-00001000.safetensors``.

A file is whole or not there at all. The newest whole one counts; the ones before it are kept for a while.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from torchreid_genext import checkpoints

__all__ = ["Checkpoint", "Checkpoints", "check_same", "comparable", "trained_weights"]

_OF_MACHINES = ("training.mixed_precision", "training.processes")  # a training may go on with others
_NAME = re.compile(r"step-(\d{8,})\.safetensors")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: the tensors and the metadata of `State`, with ``step`` and ``description``."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


class Checkpoints:
    """The checkpoints in a folder.

    Args:
        folder: need not exist yet.
        keep: how many of the newest stay, at least 1.
    """

    def __init__(self, folder: str | Path, keep: int) -> None:
        self.folder, self._keep = Path(folder).expanduser(), keep

    def path(self, step: int) -> Path:
        """Where the checkpoint lies that is written after `step` steps."""
        return self.folder / f"step-{step:08d}.safetensors"

    def paths(self) -> list[Path]:
        """All of them, newest first, whole or not."""
        found = [path for path in self.folder.glob("step-*.safetensors") if _NAME.fullmatch(path.name)]
        return sorted(found, key=_step, reverse=True)

    def newest(self) -> Checkpoint | None:
        """The newest that can be read, with a warning for every one that cannot; None if there is none."""
        return next(self._readable(), None)

    def _readable(self) -> Iterator[Checkpoint]:
        for path in self.paths():
            try:
                checkpoint = Checkpoint(path, checkpoints.safe_load(path), checkpoints.read_metadata(path))
            except ValueError as error:
                _log.warning("a checkpoint is left out: %s", error)
                continue
            yield checkpoint

    def save(self, step: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Path:
        """Write a checkpoint, then remove those that are too old.

        Raises:
            OSError: if it cannot be written; nothing is removed then.
        """
        path = checkpoints.save(self.path(step), tensors, {**metadata, "step": step})
        # Later ones are those that could not be read when this training was resumed before them.
        for old in sorted(self.paths(), key=lambda other: (_step(other) > step, -_step(other)))[self._keep :]:
            old.unlink(missing_ok=True)
        return path

    def sweep(self) -> None:
        """Remove what was being written when a process was killed."""
        for path in self.folder.glob(".????????-step-*.safetensors"):
            path.unlink(missing_ok=True)

    def to_resume(self, steps: int, description: Mapping[str, Any]) -> Checkpoint | None:
        """The newest checkpoint, for a training of so many steps in all; None to start from nothing.

        Raises:
            ValueError: if it is further than that, or its description differs; names every key that does.
        """
        found = self.newest()
        if found is None:
            _log.info("nothing to resume in %s: training starts at step 0", self.folder)
            return None
        check_same(found, description)
        if (step := found.metadata["step"]) > steps:
            raise ValueError(f"expected steps of at least {step}, as in {found.path}, got {steps}")
        _log.info("training goes on from %s", found.path)
        return found

    def check_none(self) -> None:
        """Whether a training may start from nothing.

        Raises:
            ValueError: if there are checkpoints, which it would replace.
        """
        if found := self.paths():
            rule = "expected a folder without checkpoints, or to resume"
            raise ValueError(f"{rule}, got {found[0]}; choose resume or another folder")


def _step(path: Path) -> int:
    return int(_NAME.fullmatch(path.name)[1])


def comparable(description: Mapping[str, Any]) -> dict[str, Any]:
    """A description as JSON gives it back, so that it can be compared with a saved one.

    Raises:
        ValueError: if JSON cannot say it.
    """
    try:
        return json.loads(json.dumps(description))
    except TypeError as error:
        raise ValueError(f"expected a description that JSON can say, got {description!r}: {error}") from error


def check_same(checkpoint: Checkpoint, description: Mapping[str, Any]) -> None:
    """Whether a checkpoint comes from the training that is to be resumed.

    Raises:
        ValueError: if its description differs in more than the machine; names every key that does.
    """
    saved, now = _flat(checkpoint.metadata.get("description", {})), _flat(comparable(description))
    keys = [key for key in sorted({*saved, *now}) if saved.get(key, _Absent) != now.get(key, _Absent)]
    found = {key: f"{key} {_said(saved, key)} there, {_said(now, key)} here" for key in keys}
    if moved := [said for key, said in found.items() if key in _OF_MACHINES]:
        _log.warning("weights will differ in rounding from those of an undivided run: %s", "; ".join(moved))
    if foreign := [said for key, said in found.items() if key not in _OF_MACHINES]:
        rule = f"expected a checkpoint of the same training, got {checkpoint.path}"
        raise ValueError(f"{rule}: {'; '.join(foreign)}")


class _Absent:
    """Equal to no value of JSON."""


def _said(values: Mapping[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "absent"


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Values of nested objects under their keys, joined by dots."""
    if not isinstance(content, Mapping) or not content:
        return {prefix: content} if prefix else {}
    parts = [_flat(value, f"{prefix}.{key}" if prefix else key) for key, value in content.items()]
    return {key: value for part in parts for key, value in part.items()}


def trained_weights(path: str | Path, *, averaged: bool = True) -> dict[str, dict[str, Tensor]]:
    """The weights in a checkpoint: module -> name -> tensor, as ``load_state_dict`` takes them.

    Args:
        path: a file that training wrote.
        averaged: take the averages, where training has kept them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or is not a checkpoint of a training.
    """
    tensors = checkpoints.safe_load(path)
    weights: dict[str, dict[str, Tensor]] = {}
    for group in ("modules", "average") if averaged else ("modules",):
        for name, tensor in tensors.items():
            if name.startswith(f"{group}/"):
                _, module, key = name.split("/", 2)
                weights.setdefault(module, {})[key] = tensor
    if not weights:
        raise ValueError(f"expected a checkpoint of a training, got {path}, which holds no modules")
    return weights
