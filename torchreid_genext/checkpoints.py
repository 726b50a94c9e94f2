"""Weights in and out: loading that runs no foreign code, writing that is whole or not there at all.

Everything foreign is read with ``weights_only=True``; everything of ours is written as safetensors with its
metadata as JSON. Files appear under their final name in one step, complete, or not.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

Json = Mapping[str, Any]


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; on leaving, what stands there becomes `path` in one step.

    The temporary name ends like `path`, so writers that go by the suffix work. After an error nothing
    is left behind and an earlier file at `path` is untouched.

    Raises:
        OSError: if the folder cannot be made or written; the message names `path`.
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    _create(temporary, path)
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors makes files that nobody else may read
        _flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _create(temporary: Path, path: Path) -> None:
    """Make an empty file, so that a folder that cannot be written is told before the work is done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
    except OSError as error:
        reason = f"expected a folder that can be written, got one with '{error.strerror}'"
        raise type(error)(error.errno, reason, str(path)) from error


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file atomically, with its folders; returns its path."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def write_text(path: str | Path, text: str) -> Path:
    """Write a UTF-8 file atomically, with its folders; returns its path."""
    return write_bytes(path, text.encode())


def write_json(path: str | Path, content: Any) -> Path:
    """Write indented JSON atomically; NaN and infinities are refused, since JSON has none.

    Raises:
        ValueError: if `content` holds a number that is not finite.
    """
    return write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def save(path: str | Path, state: Mapping[str, Tensor], metadata: Json | None = None) -> Path:
    """Write tensors and JSON metadata as one safetensors file, atomically.

    Args:
        path: the file, by convention ``*.safetensors``.
        state: name -> tensor on any device; tensors may share memory (each is written in full).
        metadata: anything that JSON can say; `read_metadata` gives it back.
    """
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"json": json.dumps(metadata or {}, sort_keys=True)})
    return Path(path)


def save_backbone(
    path: str | Path, model: nn.Module, metadata: Json, *, leave_out: Iterable[str] = ("classifier",)
) -> Path:
    """Write what it takes to extract features: the weights of `model` without the layers of `leave_out`.

    `load_weights` is its counterpart.
    """
    state = _unwrapped(model).state_dict()
    kept = {name: state[name] for name in state if not name.startswith(tuple(leave_out))}
    return save(path, kept, {**getattr(_unwrapped(model), "metadata", {}), **metadata})


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata that `save` wrote; empty for a safetensors file from elsewhere.

    Raises:
        ValueError: if the file cannot be read; the message names it.
    """
    from safetensors import SafetensorError, safe_open

    _check_exists(path)
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get("json", "{}"))
    except SafetensorError as error:
        raise _unreadable(path, error) from error


def safe_load(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file on the CPU, without running code from it.

    Accepted are safetensors and anything ``torch.save`` wrote: a bare state dict, or a training checkpoint of
    torchreid (``{"state_dict": ...}``). The prefix ``module.`` of ``DataParallel`` is taken off.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is truncated, holds other objects than tensors, or is of another format; names it.
    """
    _check_exists(path)
    state = _load_safetensors(path) if Path(path).suffix == ".safetensors" else _load_torch(path)
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    return _without_prefix(_only_tensors(path, state))


def _check_exists(path: str | Path) -> None:
    if not Path(path).is_file():
        raise FileNotFoundError(f"expected a file, got {path}, which does not exist")


def _load_safetensors(path: str | Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise _unreadable(path, error) from error


def _load_torch(path: str | Path) -> Any:
    import torch

    try:
        with torch.serialization.safe_globals(_numpy_scalar_globals()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own words propose to run the code
        rule = f"expected a whole file of tensors, got {path}, which cannot be read"
        raise ValueError(f"{rule}: it holds code, or is no file of weights") from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise _unreadable(path, error) from error


def _numpy_scalar_globals() -> list[Any]:
    """What a NumPy scalar is made of: torchreid stores its rank-1 as one, and torch >= 2.6 refuses it."""
    import numpy as np

    # Its module was renamed in NumPy 2; files keep the name of their day.
    scalar = np.float32(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8")]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [*((scalar, name) for name in names), np.dtype, *kinds]


def _unreadable(path: str | Path, error: Exception) -> ValueError:
    reason = str(error).strip().split("\n")[0] or "it is empty"
    return ValueError(f"expected a whole file of tensors, got {path}, which cannot be read: {reason}")


def _only_tensors(path: str | Path, state: Any) -> dict[str, Tensor]:
    import torch

    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"expected named tensors in {path}, got {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"expected only tensors in {path}, got {type(value).__name__} under {name!r}")
    return dict(state)


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def load_weights(model: nn.Module, path: str | Path, *, ignore: Iterable[str] = ("classifier",)) -> list[str]:
    """Fill `model` from a weights file; every tensor must fit, but for those of layers in `ignore`.

    Args:
        model: filled in place, on its device and in its dtype; it is left as it is if anything does not fit.
        path: what `safe_load` reads. A model with a method ``adapt`` is handed metadata, tensors and path
            first, so that weights decide on the size of a network that comes in several.
        ignore: beginnings of layer names that may be absent or of another size. Classifiers belong to the
            training identities, so torchreid's weights are exchanged without them.

    Returns:
        The names that were left out for that reason, sorted.

    Raises:
        ValueError: if the weights are another model's; lists what is missing, unexpected or of another shape.
    """
    state = safe_load(path)
    if hasattr(_unwrapped(model), "adapt"):
        metadata = read_metadata(path) if Path(path).suffix == ".safetensors" else {}
        _unwrapped(model).adapt(metadata, state, path)
    return fill(model, state, path, ignore=ignore)


def fill(
    model: nn.Module, state: Mapping[str, Tensor], source: str | Path, *, ignore: Iterable[str] = ()
) -> list[str]:
    """As `load_weights`, from tensors in memory; `source` names them in errors."""
    model = _unwrapped(model)
    expected = model.state_dict()
    misfits = _misfits(state, expected)
    tolerated = {name for names in misfits.values() for name in names if name.startswith(tuple(ignore))}
    faults = {kind: [name for name in names if name not in tolerated] for kind, names in misfits.items()}
    if any(faults.values()):
        found = _describe(faults, state, expected)
        raise ValueError(f"expected weights of {type(model).__name__}, got {source}: {found}")
    fitting = {name: state[name] for name in expected if name in state and name not in tolerated}
    # A model without memory takes the tensors as they are, which needs no second copy of them.
    model.load_state_dict(fitting, strict=False, assign=any(tensor.is_meta for tensor in expected.values()))
    return sorted(tolerated)


def read_hdf5(path: str | Path) -> dict[str, Tensor]:
    """Read the arrays of an HDF5 file, as Keras writes weights, by their paths in it.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if h5py is missing; the message names the cure.
        ValueError: if it cannot be read; the message names it.
    """
    import torch

    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ImportError("HDF5 files need h5py; install it with `pip install h5py`") from error
    _check_exists(path)
    names: list[str] = []
    try:
        with h5py.File(path) as file:
            file.visit(names.append)
            return {name: torch.from_numpy(file[name][()]) for name in names if hasattr(file[name], "dtype")}
    except OSError as error:
        raise _unreadable(path, error) from error


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network inside ``DataParallel``, whose names carry no prefix."""
    import torch

    return model.module if isinstance(model, torch.nn.DataParallel) else model


def _misfits(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, list[str]]:
    # Batch counters came late to BatchNorm and mean nothing for features: older files lack them.
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in expected]
    other = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    return {"missing": missing, "unexpected": unexpected, "of another shape": other}


def _describe(faults: Mapping[str, list[str]], state: Json, expected: Json) -> str:
    shapes = {
        name: f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in faults["of another shape"]
    }
    return "; ".join(
        f"{len(names)} {kind} ({_shortened([shapes.get(name, name) for name in names])})"
        for kind, names in faults.items()
        if names
    )


def _shortened(names: list[str], limit: int = 8) -> str:
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def resume_training(path: str | Path, model: nn.Module, optimizer: Optimizer, scheduler: Any) -> int:
    """Continue from a checkpoint that torchreid wrote: weights, optimizer and learning rate schedule.

    torchreid's own reader fails on its own files since torch 2.6, because they hold a NumPy scalar.

    Returns:
        The epoch to start with.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a checkpoint, or one of another model.
    """
    _check_exists(path)
    checkpoint = _load_torch(path)
    required = {"state_dict", "optimizer", "scheduler", "epoch"}
    if not isinstance(checkpoint, Mapping) or not required <= checkpoint.keys():
        raise ValueError(f"expected a training checkpoint with {', '.join(sorted(required))}, got {path}")
    fill(model, safe_load(path), path)  # as it is: another size would be new parameters, not the optimizer's
    optimizer.load_state_dict(checkpoint["optimizer"])
    scheduler.load_state_dict(checkpoint["scheduler"])
    return int(checkpoint["epoch"])
