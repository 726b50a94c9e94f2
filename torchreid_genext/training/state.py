"""All that a step changes, as named tensors and JSON: weights, their average, optimizers, the loss scale."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchreid_genext import checkpoints
from torchreid_genext.training.averaging import Average, named_state

if TYPE_CHECKING:
    from torch.amp import GradScaler

__all__ = ["State", "described_optimizer", "fingerprint"]

_PLAIN = (type(None), bool, int, float, str)
_IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")


class State:
    """The state of a training, in and out of checkpoints.

    Args:
        modules: those that are trained, by name.
        optimizers: by phase.
        average: of the modules, or None.
        scaler: of losses in fp16, or None.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        optimizers: Mapping[str, Optimizer],
        average: Average | None,
        scaler: GradScaler | None,
    ) -> None:
        self.modules, self.optimizers, self.average, self.scaler = modules, optimizers, average, scaler

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is a tensor, under "modules/", "average/" and "optimizers/"."""
        groups = {
            "modules": named_state(self.modules),
            "average": self.average.state() if self.average else {},
            "optimizers": {
                f"{phase}/{key}": value
                for phase, optimizer in self.optimizers.items()
                for key, value in _slots(optimizer).items()
                if isinstance(value, Tensor)
            },
        }
        return {f"{group}/{name}": named[name] for group, named in groups.items() for name in named}

    def metadata(self) -> dict[str, Any]:
        """Everything else, as JSON can say it."""
        optimizers = {name: _plain_parts(optimizer) for name, optimizer in self.optimizers.items()}
        return {"optimizers": optimizers, "scaler": self.scaler.state_dict() if self.scaler else {}}

    def is_finite(self) -> bool:
        """Whether parameters are finite and nothing is NaN; buffers may hold infinities, such as masks."""
        parameters = [p for module in self.modules.values() for p in module.parameters()]
        floating = [tensor for tensor in self.tensors().values() if tensor.is_floating_point()]
        return all(bool(torch.isfinite(tensor).all()) for tensor in parameters) and not any(
            bool(torch.isnan(tensor).any()) for tensor in floating
        )

    def load(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], source: Path) -> None:
        """Take over what `tensors` and `metadata` gave.

        Raises:
            ValueError: if it is of other modules or optimizers; `source` names it.
        """
        for name, module in self.modules.items():
            checkpoints.fill(module, _below(f"modules/{name}/", tensors), source)
        if self.average:
            self.average.load(_below("average/", tensors))
        for name, optimizer in self.optimizers.items():
            slots = _below(f"optimizers/{name}/", tensors)
            _load_optimizer(optimizer, slots, metadata["optimizers"][name])
        if self.scaler and metadata["scaler"]:  # there is none after another precision
            self.scaler.load_state_dict(dict(metadata["scaler"]))


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _slots(optimizer: Optimizer) -> dict[str, Any]:
    """What an optimizer remembers of each parameter, under "<number of the parameter>/<name>"."""
    state = optimizer.state_dict()["state"]
    return {f"{number}/{key}": value for number, slot in state.items() for key, value in slot.items()}


def _plain_parts(optimizer: Optimizer) -> dict[str, Any]:
    plain = {name: value for name, value in _slots(optimizer).items() if isinstance(value, _PLAIN)}
    return {"groups": _group_values(optimizer), "slots": plain}


def described_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    """Kind and values of an optimizer, as far as they shape the weights."""
    groups = [
        {name: value for name, value in group.items() if name not in _IMPLEMENTATION}
        for group in _group_values(optimizer)
    ]
    return {"kind": type(optimizer).__name__, **{str(number): group for number, group in enumerate(groups)}}


def _group_values(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Learning rate, betas and so on of each group of parameters."""
    groups = optimizer.state_dict()["param_groups"]
    return [{name: value for name, value in group.items() if name != "params"} for group in groups]


def _load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**plain["slots"], **tensors}.items():
        number, _, key = name.partition("/")
        state.setdefault(int(number), {})[key] = _laid_out_like(value, parameters[int(number)])
    groups = [
        {**now, **{name: _retyped(value, now.get(name)) for name, value in saved.items()}}
        for now, saved in zip(optimizer.state_dict()["param_groups"], plain["groups"], strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _laid_out_like(value: Any, parameter: Tensor) -> Any:
    """A copy in the parameter's memory order: another one would round differently, and be slower."""
    if not isinstance(value, Tensor):
        return value
    if value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _retyped(value: Any, example: Any) -> Any:
    """JSON has lists only, but betas are a tuple."""
    return tuple(value) if isinstance(example, tuple) else value


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits that tell weights from others."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
