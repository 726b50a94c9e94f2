"""A pretended accelerator: CPU data that say they lie elsewhere, refuse to mix, and count waits of the host.

Inside ``pretended_accelerator()`` tensors can be made on ``DEVICE`` or moved there, modules too. They follow
the rules of a real one: what it refuses, and what would make the host wait, is refused and counted here.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from torchreid_genext.processes import StepGenerator

__all__ = ["DEVICE", "Pretended", "PretendedGenerator", "Waits", "counting_syncs", "pretended_accelerator"]

DEVICE = torch.device("xpu", 0)

# What makes the host wait: it has to read a value, or to know a size that only the device knows.
_SYNCS = {
    "_local_scalar_dense", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "equal", "bincount", "histc",
}  # fmt: skip
# Kernels that ask every tensor to lie on one device, numbers too.
_NUMBERS_TOO = {
    "searchsorted", "bucketize", "gather", "scatter", "index_select", "index_add", "index_copy", "take", "mm",
    "addmm", "bmm", "cat", "stack", "dot", "mv", "equal", "embedding",
}  # fmt: skip

_counts: list[Waits] = []


class Pretended(Tensor):
    """A tensor on the pretended accelerator; ``held`` is its content."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Pretended:
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype
        )
        made.held = held.detach()
        for count in _counts:
            count.doubles += held.dtype == torch.float64
        return made

    # To torch's inside it is a CPU tensor, so that no driver is asked for; only Python sees another device.
    device = property(lambda self: DEVICE)
    is_cpu = property(lambda self: False)
    is_xpu = property(lambda self: True)

    def __repr__(self, **options: Any) -> str:
        return f"Pretended({self.held!r})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _call(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if (
            torch.is_inference_mode_enabled()
            and (made := func.decompose(*args, **kwargs)) is not NotImplemented
        ):
            return made
        _refuse_mixing(func, name.rstrip("_"), args, kwargs)
        _count_waits(name, args, kwargs)
        found = func(*_mapped(_held, args), **_mapped(_held, kwargs))
        return _returned(func, args, kwargs, found)


class PretendedGenerator(StepGenerator):
    """Random numbers of the accelerator, with another generator for the host, as trainings have them."""

    device = property(lambda self: DEVICE)

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.host = torch.Generator().manual_seed(seed)
        self.manual_seed(seed)


class _Factories(TorchFunctionMode):
    """Catches what makes tensors without having one of the accelerator."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _call(func, args, kwargs or {})


@contextmanager
def pretended_accelerator() -> Iterator[torch.device]:
    """As long as it lasts ``DEVICE`` exists."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a moved module gets new parameters
    try:
        with _Factories():
            yield DEVICE
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


class Waits(Counter[str]):
    """How often the host waited, by what made it wait.

    ``fetched``: how many numbers were copied to it; ``doubles``: tensors in float64, which some lack.
    """

    fetched = doubles = 0


@contextmanager
def counting_syncs() -> Iterator[Waits]:
    """How often the host waits for the accelerator meanwhile."""
    count = Waits()
    _counts.append(count)
    try:
        yield count
    finally:
        _counts.remove(count)


def _waits(name: str, fetched: int = 0) -> None:
    for count in _counts:
        count[name] += 1
        count.fetched += fetched


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Pretended) else value


def _is_ours(device: Any) -> bool:
    return device is not None and not isinstance(device, int) and torch.device(device).type == DEVICE.type


def _call(func: Any, args: tuple, kwargs: dict) -> Any:
    """Anything that Python calls: transfers, factories and refusals are ours, the rest is torch's."""
    name = getattr(func, "__name__", "")
    if name in ("to", "cpu", "type_as") and isinstance(args[0], Tensor):
        return _moved(name, args[0], args[1:], kwargs)
    if name in ("numpy", "__array__", "__dlpack__") and isinstance(args[0], Pretended):
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() first.")
    if name == "tolist" and isinstance(args[0], Pretended):
        return _moved("cpu", args[0], (), {}).tolist()
    if name in ("cuda", "xpu") and isinstance(args[0], Tensor):
        raise RuntimeError(f"expected a device that comes from tensors or arguments, got .{name}()")
    if name in ("tensor", "as_tensor", "asarray"):
        args = _with_values(args)
    if name == "new_tensor" and isinstance(args[0], Pretended):
        kwargs = {"device": DEVICE} | kwargs  # where the other one lies
    if kwargs.get("device") is not None:
        return _made(name, func, args, kwargs)
    with torch._C.DisableTorchFunctionSubclass():
        return func(*args, **kwargs)


def _moved(name: str, tensor: Tensor, args: tuple, kwargs: dict) -> Tensor:
    """``to``, ``cpu`` and their like: a copy on another device, and a wait on the way to the host."""
    device, kept = "cpu" if name == "cpu" else None, {}
    for other in (*args, *(kwargs.get(key) for key in ("device", "dtype", "other"))):
        if isinstance(other, torch.device | str):
            device = other
        elif isinstance(other, Tensor):
            device, kept["dtype"] = other.device, other.dtype
        elif isinstance(other, torch.dtype):
            kept["dtype"] = other
    if kwargs.get("memory_format") is not None and name == "to":
        kept["memory_format"] = kwargs["memory_format"]
    ours = isinstance(tensor, Pretended) if device is None else _is_ours(device)
    with torch._C.DisableTorchFunctionSubclass():
        if ours == isinstance(tensor, Pretended):
            return Tensor.to(tensor, copy=kwargs.get("copy", False), **kept)
        if not ours:
            _waits("cpu", tensor.numel())
        found = Tensor.to(_held(tensor), copy=True, **kept)
    return Pretended(found) if ours else found


def _with_values(args: tuple) -> tuple:
    """Numbers of the accelerator inside a list are read one by one."""
    values = args[0] if args else None
    if not isinstance(values, list | tuple):
        return args
    return _mapped(lambda one: one.item() if isinstance(one, Pretended) else one, values), *args[1:]


def _made(name: str, func: Any, args: tuple, kwargs: dict) -> Any:
    """A factory that was told a device."""
    ours = _is_ours(kwargs["device"])
    if ours and not isinstance(kwargs.get("generator"), PretendedGenerator | None):
        raise RuntimeError(f"Expected a '{DEVICE.type}' device type for generator but found 'cpu'")
    if name in ("as_tensor", "asarray", "tensor") and isinstance(args[0], Tensor):
        return _moved("to", args[0], (), kwargs | {"copy": name == "tensor"})
    if name.startswith("new_") or name.endswith("_like"):
        args = (_held(args[0]), *args[1:])
    with torch._C.DisableTorchFunctionSubclass():
        found = func(*args, **kwargs | ({"device": "cpu"} if ours else {}))
    return _here(found, copy=True) if ours else found


def _here(found: Any, *, copy: bool = False) -> Any:
    """Results of torch as tensors of the accelerator."""
    content = (lambda made: made.clone()) if copy else (lambda made: made)
    return _mapped(lambda made: Pretended(content(made)) if isinstance(made, Tensor) else made, found)


# torch's own walks over arguments take most of the time of small tests.
def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _mapped(change, item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_mapped(change, item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return change(value)


def _tensors(*values: Any) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple | dict):
            found += _tensors(*(value.values() if isinstance(value, dict) else value))
    return found


def _refuse_mixing(func: Any, name: str, args: tuple, kwargs: dict) -> None:
    """Raise as torch does unless all tensors lie here, but for numbers, indices and copies."""
    if name in ("copy", "_to_copy"):
        return
    written = _tensors(_written(func, args, kwargs))
    if name in ("index", "index_put", "_index_put_impl"):
        if not isinstance(args[0], Pretended):
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
            )
        args = (args[0], *args[2:])
    for tensor in _tensors(args, kwargs):
        is_number = (
            tensor.ndim == 0 and name not in _NUMBERS_TOO and not any(tensor is one for one in written)
        )
        if not isinstance(tensor, Pretended) and not is_number:
            devices = f"{DEVICE} and cpu! (in {name})"
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, {devices}"
            )


def _written(func: Any, args: tuple, kwargs: dict) -> list[Any]:
    """The arguments that a call writes into."""
    places = _places_written(func)
    return [kwargs.get(name, args[place] if place < len(args) else None) for place, name in places]


@functools.cache
def _places_written(func: Any) -> list[tuple[int, str]]:
    return [
        (place, argument.name)
        for place, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]


def _count_waits(name: str, args: tuple, kwargs: dict) -> None:
    if name in _SYNCS:
        _waits(name)
    if name == "copy_" and isinstance(args[1], Pretended) and not isinstance(args[0], Pretended):
        _waits("cpu", args[1].numel())
    if name == "repeat_interleave" and kwargs.get("output_size") is None:
        _waits(name)
    masks = [t for t in _tensors(args[1:2]) if t.dtype in (torch.bool, torch.uint8)]
    if masks and (name == "index" or name in ("index_put", "index_put_") and args[2].numel() != 1):
        _waits("mask")  # how many are chosen


def _returned(func: Any, args: tuple, kwargs: dict, found: Any) -> Any:
    """What a call gives: the tensors that it wrote into, as they were given, or new ones that lie here."""
    written = _written(func, args, kwargs)
    for tensor in _tensors(written):
        if tensor.shape != _held(tensor).shape:
            raise NotImplementedError(f"the pretended accelerator changes no shapes in place, got {func}")
    if written and len(func._schema.returns) == len(written):
        return written[0] if len(written) == 1 else tuple(written)
    return _here(found)
