"""The exponential moving average of weights, which samples better than the last weights do.

torch's AveragedModel copies whole modules, begins with a copy of the first weights in place of a small decay,
and needs its own names in checkpoints; this follows the tensors of several modules, shared ones once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from torchreid_genext.training.guards import interruption_deferred

__all__ = ["Average", "named_state"]


def named_state(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """What modules save, under "<module>/<name>", as the tensors themselves."""
    return {
        f"{module}/{name}": tensor.detach()
        for module, network in modules.items()
        for name, tensor in network.state_dict(keep_vars=True).items()
    }


class Average:
    """An average of all floating state: parameters, and buffers such as the statistics of BatchNorm.

    Args:
        modules: by name; their tensors are followed, so these must be changed in place.
        decay: weight of the past, in 0 .. 1, once enough steps are done.
    """

    def __init__(self, modules: Mapping[str, nn.Module], decay: float) -> None:
        self._decay = decay
        state = named_state(modules)
        self._names = _first_names(state)
        self._followed = [state[name] for name in self._distinct]
        self._averaged = [tensor.clone() for tensor in self._followed]

    @property
    def _distinct(self) -> list[str]:
        return list(dict.fromkeys(self._names.values()))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step, counted from 0: average = d average + (1 - d) weights.

        d is the smaller of the decay and ``(1 + step) / (10 + step)``, so that the start is soon forgotten.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averaged, self._followed, 1 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the modules the averaged weights for a while."""
        own = [tensor.clone() for tensor in self._followed]
        try:
            self.give()
            yield
        finally:
            self._give(own)

    def give(self) -> None:
        """Put the averaged weights into the modules, in place of their own."""
        self._give(self._averaged)

    @torch.no_grad()
    def _give(self, tensors: list[Tensor]) -> None:
        with interruption_deferred():
            torch._foreach_copy_(self._followed, tensors)

    def state(self) -> dict[str, Tensor]:
        """The averages under the names of `named_state`; tensors that layers share come under each name."""
        averaged = dict(zip(self._distinct, self._averaged))
        return {name: averaged[first] for name, first in self._names.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from the averages that `state` gave.

        Raises:
            ValueError: if they are of other tensors.
        """
        if other := state.keys() ^ self._names.keys():
            raise ValueError(f"expected averages of the tensors that are trained, got another {min(other)!r}")
        for name, tensor in zip(self._distinct, self._averaged):
            tensor.copy_(state[name])


def _first_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """name of a floating tensor -> the first name under which it is found, since layers may share it."""
    first: dict[tuple[int, torch.Size], str] = {}
    return {
        name: first.setdefault((tensor.data_ptr(), tensor.shape), name)
        for name, tensor in state.items()
        if tensor.is_floating_point()
    }
