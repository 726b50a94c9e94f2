"""How many bytes of tensors live at the same time: each operation's results are counted while they exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

__all__ = ["peak_bytes"]


class _Allocations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.living: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {x.untyped_storage()._cdata for x in tree_iter(args) if isinstance(x, torch.Tensor)}
        result = function(*args, **(kwargs or {}))
        for x in tree_iter(result):
            if isinstance(x, torch.Tensor) and (storage := x.untyped_storage())._cdata not in inputs:
                self.living[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.living = {key: one for key, one in self.living.items() if not one[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.living.values()))
        return result


def peak_bytes(work: Callable[[], Any]) -> int:
    """The most bytes that tensors made by the work have taken together, inside of one thread."""
    with _Allocations() as allocations:
        work()
    return allocations.peak
