"""What a network computes, as one number: its weights, its settings and its code.

Two networks of one fingerprint give the same features. So all that an object holds is looked at, and the
bytecode of its class with the functions, values and modules that the code names. What differs without an
effect on features (an unused attribute, another Python) may give another fingerprint: that costs time only.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import pathlib
import re
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

__all__ = ["fingerprint"]

_PLAIN = (type(None), bool, int, float, complex, str, bytes, pathlib.PurePath)
# Too large to look into, and told apart by their versions; what someone puts in their place is looked at.
_LIBRARIES = {*sys.stdlib_module_names, "torch", "torchvision", "numpy", "PIL"}
# Of a class, what Python and torch.compile write there: of no effect, or not the same in each run.
_BOOKKEEPING = {
    "__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__firstlineno__", "__slotnames__",
    "__abstractmethods__", "___needs_generation_tag_patch", "_value2member_map_",
    "__static_attributes__", "__annotate_func__", "__annotations_cache__", "_abc_impl", "__parameters__",
}  # fmt: skip


def fingerprint(network: Any) -> str:
    """A hexadecimal number for what a network computes.

    Args:
        network: a module, or anything else that is made of modules, tensors, functions and plain values.
    """
    network = getattr(network, "_orig_mod", network)  # what torch.compile translates
    walk = _Walk()
    walk.add(network)
    return walk.digest.hexdigest()


class _Walk:
    """Feeds a digest with all that can be reached from an object, each thing once."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._seen: dict[int, tuple[int, Any]] = {}  # the objects are kept, so that no address is used twice

    def add(self, value: Any) -> None:
        """One more value, with what it holds."""
        if isinstance(value, _PLAIN):
            self._say("plain", type(value).__qualname__, repr(value))
        elif isinstance(value, tuple):
            self._add_all("tuple", value)
        elif id(value) in self._seen:
            self._say("again", self._seen[id(value)][0])
        else:
            self._seen[id(value)] = len(self._seen), value
            self._add_new(value)

    def _say(self, *words: object) -> None:
        self.digest.update(repr(words).encode("utf-8", "surrogatepass"))

    def _add_all(self, kind: str, values: Iterable[Any]) -> None:
        values = list(values)
        self._say(kind, len(values))
        for value in values:
            self.add(value)

    def _add_new(self, value: Any) -> None:
        for kinds, add in _WAYS:
            if isinstance(value, kinds):
                return add(self, value)
        self._add_object(value)

    def _add_tensor(self, tensor: Tensor) -> None:
        self._say("tensor", type(tensor).__qualname__, tensor.dtype, tuple(tensor.shape), tensor.device.type)
        if not tensor.is_meta:
            content = tensor.detach().resolve_conj().resolve_neg().to_dense().cpu().contiguous()
            self.digest.update(content.flatten().view(torch.uint8).numpy())

    def _add_array(self, array: np.ndarray) -> None:
        self._say("array", array.dtype, array.shape)
        self.add(array.tolist()) if array.dtype.hasobject else self.digest.update(array.tobytes())

    def _add_mapping(self, mapping: Mapping[Any, Any]) -> None:
        self._say(type(mapping).__qualname__)
        self._add_all("mapping", (part for item in mapping.items() for part in item))

    def _add_sequence(self, values: Sequence[Any]) -> None:
        self._add_all(type(values).__qualname__, values)

    def _add_set(self, values: AbstractSet[Any]) -> None:
        """In an order that does not hang on how Python hashes text in this run."""
        self._say(type(values).__qualname__, sorted(fingerprint(value) for value in values))

    def _add_script(self, module: torch.jit.ScriptModule) -> None:
        graph = str(module.inlined_graph) if hasattr(module, "forward") else ""
        self._say("script", re.sub(r" # .*|___torch_mangle_\d+", "", graph))  # without places and counters
        self._add_mapping(dict(module.named_parameters()) | dict(module.named_buffers()))

    def _add_module(self, module: nn.Module) -> None:
        if "_orig_mod" in module._modules:  # what torch.compile keeps beside it is of this process alone
            self._say("compiled")
            return self.add(module._orig_mod)
        self._add_object(module)
        for name, found in vars(type(module)).items():
            if isinstance(found, property) and name == "fingerprint":
                self.add(module.fingerprint)  # of what nobody else can see

    def _add_object(self, value: Any) -> None:
        """Any instance: its class, and what it holds or, without attributes, how it shows itself."""
        self.add(type(value))
        held = _held(value)
        if held:
            for name in sorted(held):
                self._say(name)
                hooks = name.endswith("_hooks") and isinstance(held[name], Mapping)
                # A hook's key is a number that counts all hooks of this process.
                self.add(list(held[name].values()) if hooks else held[name])
        else:
            self._say(re.sub(r"\b0x[0-9a-fA-F]+", "", repr(value)))

    def _add_class(self, kind: type) -> None:
        """Its name and its code: a class may be defined in two ways, and its methods may be replaced."""
        self._say("class", kind.__module__, kind.__qualname__)
        if not (_is_library(kind) and not issubclass(kind, nn.Module)):
            self._add_all("bases", kind.__bases__)
            for name in sorted(_own_names(kind)):
                self._say(name)
                self.add(vars(kind)[name])

    def _add_function(self, function: types.FunctionType) -> None:
        self._say("function", function.__module__, function.__qualname__)
        self.add((function.__code__, function.__defaults__, function.__kwdefaults__))
        if not _is_library(function):
            self._add_all("closure", [_content(cell) for cell in function.__closure__ or ()])
            names = set(_names(function.__code__))
            self._add_named(names, function.__globals__, {id(function.__globals__)})
            self._add_mapping(vars(function))

    def _add_code(self, code: types.CodeType) -> None:
        self._say("code", code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        self._add_all("constants", code.co_consts)

    def _add_named(self, names: set[str], space: Mapping[str, Any], visited: set[int]) -> None:
        """What code may mean by its names: values of its module, and of the modules that it names."""
        library = str(space.get("__name__", "")).partition(".")[0] in _LIBRARIES
        for name in sorted(names & space.keys()):
            value = space[name]
            if isinstance(value, types.ModuleType):
                if id(vars(value)) not in visited:
                    visited.add(id(vars(value)))
                    self._add_named(names, vars(value), visited)
            elif not library or isinstance(value, types.FunctionType) and not _is_library(value):
                self._say(name)
                self.add(value)

    def _add_wrapper(self, wrapper: Any) -> None:
        self._say(type(wrapper).__qualname__)
        parts = ("__func__", "__self__", "__wrapped__", "func", "args", "keywords", "fget", "fset")
        self._add_all("parts", [getattr(wrapper, part, None) for part in parts])

    def _add_name(self, value: Any) -> None:
        self._say(
            type(value).__qualname__, getattr(value, "__name__", ""), getattr(value, "__qualname__", "")
        )
        owner = getattr(value, "__self__", None)
        if not isinstance(owner, types.ModuleType | type(None)):
            self.add(owner)


def _is_library(thing: Any) -> bool:
    return str(thing.__module__).partition(".")[0] in _LIBRARIES - {"__main__"}


def _own_names(kind: type) -> set[str]:
    """What a class adds to its bases.

    Of `nn.Module`, whose methods torch.compile replaces, what is not torch's: its version tells the rest.
    """
    names = set(vars(kind)) - _BOOKKEEPING
    if kind is not nn.Module:
        return names
    return {name for name in names if not _is_library_function(vars(kind)[name])}


def _is_library_function(value: Any) -> bool:
    return isinstance(value, types.FunctionType) and _is_library(value)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that gets its value later
        return None


def _names(code: types.CodeType) -> Iterable[str]:
    """All names in a function's code, and in that of the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _held(value: Any) -> dict[str, Any]:
    """The attributes of an instance, wherever it keeps them."""
    slots = [vars(kind).get("__slots__", ()) for kind in type(value).__mro__]
    names = [name for part in slots for name in ((part,) if isinstance(part, str) else part)]
    held = {name: getattr(value, name) for name in names if hasattr(value, name)}
    held.update(getattr(value, "__dict__", {}))
    leave_out = (
        {"_graph", "__weakref__", "__dict__"} if isinstance(value, fx.GraphModule) else {"__weakref__"}
    )
    return {name: held[name] for name in held.keys() - leave_out}


# The first kind that fits says how a value is looked at.
_WAYS = (
    (Tensor, _Walk._add_tensor),
    (np.ndarray, _Walk._add_array),
    (torch.jit.ScriptModule, _Walk._add_script),
    (nn.Module, _Walk._add_module),
    (type, _Walk._add_class),
    (types.FunctionType, _Walk._add_function),
    (types.CodeType, _Walk._add_code),
    ((types.MethodType, staticmethod, classmethod, property, functools.partial), _Walk._add_wrapper),
    ((functools.cached_property, functools._lru_cache_wrapper), _Walk._add_wrapper),
    ((types.ModuleType, types.BuiltinFunctionType, types.WrapperDescriptorType), _Walk._add_name),
    ((types.MethodDescriptorType, types.GetSetDescriptorType, types.MemberDescriptorType), _Walk._add_name),
    ((logging.Logger, logging.LoggerAdapter), _Walk._add_name),
    (Mapping, _Walk._add_mapping),
    (AbstractSet, _Walk._add_set),
    (Sequence, _Walk._add_sequence),
)
