"""Weights of any origin, read by content and not by suffix, without running code from them."""

from __future__ import annotations

import difflib
import itertools
import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchreid_genext.checkpoints.entries import named_tensors
from torchreid_genext.checkpoints.kinds import is_safetensors, reason
from torchreid_genext.checkpoints.shipped import named

if TYPE_CHECKING:
    from torch import Tensor

_LISTED = 1000  # names in a folder, among which a likely one is sought
_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")


def safe_load(path: str | Path, *, entry: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a weights file on the CPU, without running code from it.

    Accepted are safetensors and anything ``torch.save`` wrote, also under Python 2: a bare state dict, or a
    checkpoint with one in it, such as torchreid's (``{"state_dict": ...}``). What else it holds is passed
    over. Prefixes of ``DataParallel`` (``module.``) and ``torch.compile`` (``_orig_mod.``) are taken off.

    Args:
        path: the file, of any suffix; ``shipped:NAME`` is one that comes with the package.
        entry: of several state dicts the wanted one, such as ``"ema"``; None: ``state_dict``, else the only.

    Raises:
        FileNotFoundError: if there is no such file; the message names the most similar one.
        ValueError: if it is truncated, holds other objects, is of another format or has several state dicts;
            the message names the file, what it is, and the cure.
    """
    return without_wrappers(named_tensors(read(path), path, entry))


def without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without the prefixes of several devices and of compilation."""
    return {_WRAPPERS.sub("", name): tensor for name, tensor in state.items()}


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata that `save` wrote; empty for a safetensors file from elsewhere.

    Raises:
        ValueError: if the file cannot be read; the message names it.
    """
    from safetensors import SafetensorError, safe_open

    path = existing(path)
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get("json", "{}"))
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


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
    path = existing(path)
    names: list[str] = []
    try:
        with h5py.File(path) as file:
            file.visit(names.append)
            return {name: torch.from_numpy(file[name][()]) for name in names if hasattr(file[name], "dtype")}
    except OSError as error:
        raise _unreadable(path, error) from error


def existing(path: str | Path) -> Path:
    """The path of a file that is there, ``~`` expanded, and ``shipped:NAME`` found.

    Raises:
        FileNotFoundError: naming the most similar file in its folder, or those of a folder.
    """
    path = Path(os.path.expanduser(named(path)))
    if path.is_dir():
        raise FileNotFoundError(f"expected a file, got the folder {path}{_hint('; choose', _names(path))}")
    if not path.is_file():
        near = difflib.get_close_matches(path.name, _names(path.parent), n=1, cutoff=0)
        raise FileNotFoundError(f"expected a file, got {path}, which does not exist{_hint('; near', near)}")
    return path


def _names(folder: Path) -> list[str]:
    """Files in a folder, hidden ones left out."""
    try:
        listed = itertools.islice(folder.iterdir(), _LISTED)
        return sorted(path.name for path in listed if path.is_file() and not path.name.startswith("."))
    except OSError:
        return []


def _hint(words: str, names: list[str]) -> str:
    return f"{words} there: {', '.join(names[:5])}" if names else ""


def read(path: str | Path) -> Any:
    """What a weights file holds: tensors by name, or what ``torch.save`` was given; raises as `safe_load`."""
    path = existing(path)
    try:
        return _load_safetensors(path) if is_safetensors(path) else _load_torch(path)
    except Exception as error:  # a damaged pickle raises anything
        raise _unreadable(path, error) from error


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def _load_torch(path: Path) -> Any:
    import torch

    known = torch.serialization.safe_globals(_numpy_scalar_globals())
    with open(path, "rb") as file, known, warnings.catch_warnings():  # of a path, the suffix would count
        warnings.simplefilter("ignore", UserWarning)  # of an encoding that had no effect, which it has
        # Python 2 wrote names and the bytes of numbers alike; latin1 takes both as they are.
        return torch.load(file, map_location="cpu", weights_only=True, encoding="latin1")


def _numpy_scalar_globals() -> list[Any]:
    """What a NumPy scalar is made of: torchreid stores its rank-1 as one, and torch >= 2.6 refuses it."""
    import numpy as np

    # Its module was renamed in NumPy 2; files keep the name of their day.
    scalar = np.float32(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8")]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [*((scalar, name) for name in names), np.dtype, *kinds]


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"expected a whole file of tensors, got {path}, which cannot be read: {reason(path, error)}"
    )
