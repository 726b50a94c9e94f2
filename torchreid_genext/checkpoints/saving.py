"""Tensors with JSON metadata, written as safetensors."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchreid_genext.checkpoints.writing import atomic_path

if TYPE_CHECKING:
    from torch import Tensor, nn

Json = Mapping[str, Any]


def save(path: str | Path, state: Mapping[str, Tensor], metadata: Json | None = None) -> Path:
    """Write tensors and JSON metadata as one safetensors file, atomically.

    Args:
        path: the file, by convention ``*.safetensors``.
        state: name -> tensor on any device; tensors may share memory (each is written in full).
        metadata: anything that JSON can say; `read_metadata` gives it back.

    Raises:
        OSError: as `atomic_path`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(os.path.expanduser(path))
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"json": json.dumps(metadata or {}, sort_keys=True)})
        except SafetensorError as error:
            raise _of_system(error, path) from error
    return path


def _of_system(error: Exception, path: Path) -> OSError:
    """safetensors tells the system's errors in words of its own."""
    found = re.search(r"\(os error (\d+)\)|Os \{ code: (\d+)", str(error))  # the second before 0.5
    number = int(found[1] or found[2]) if found else errno.EIO
    return OSError(number, os.strerror(number) if found else str(error), str(path))


def save_backbone(
    path: str | Path, model: nn.Module, metadata: Json, *, leave_out: Iterable[str] = ("classifier",)
) -> Path:
    """Write what it takes to extract features: the weights of `model` without the layers of `leave_out`.

    `load_weights` is its counterpart.
    """
    model = unwrapped(model)
    state = model.state_dict()
    kept = {name: state[name] for name in state if not name.startswith(tuple(leave_out))}
    return save(path, kept, {**getattr(model, "metadata", {}), **metadata})


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside those of several devices and ``torch.compile``'s; its names carry no prefix."""
    from torch.nn import DataParallel, Module
    from torch.nn.parallel import DistributedDataParallel

    if isinstance(model, DataParallel | DistributedDataParallel):
        return unwrapped(model.module)
    compiled = getattr(model, "_orig_mod", None)
    return unwrapped(compiled) if isinstance(compiled, Module) else model
