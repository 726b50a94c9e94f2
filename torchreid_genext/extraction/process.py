"""What features depend on besides a network: settings of this process, and how they reach other ones.

Processes that are not forked (Windows, macOS, Linux from Python 3.14) start with none of them, and are sent
a network piece by piece.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image, ImageFile
from torch import Tensor, nn

__all__ = ["Parcel", "Settings", "effective", "settings", "use", "versions"]

_BACKENDS = "torch.backends"
_PARTS = ("", "cudnn", "cudnn.conv", "cudnn.rnn", "cuda.matmul", "mkldnn", "mkldnn.conv", "mkldnn.matmul")
_SHORTCUTS = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")

Settings = dict[str, Any]


def versions() -> tuple[str, str]:
    """Of the programs that decode images and run networks."""
    return PIL.__version__, torch.__version__


def settings() -> Settings:
    """How exactly torch multiplies, and what Pillow lets pass, in this process; `use` takes it."""
    found = {}
    for name, (read, _) in _switches().items():
        with contextlib.suppress(AttributeError, RuntimeError):  # this torch has no such switch
            found[name] = read()
    return found


def effective() -> Settings:
    """`settings` but for names of one meaning: "none" is what the part above says, and at the top "ieee".

    torch writes the latter where a precision was changed and changed back.
    """
    found = settings()
    return found | {
        f"{_BACKENDS}.{part}.fp32_precision": _inherited(found, part)
        for part in _PARTS
        if f"{_BACKENDS}.{part}.fp32_precision" in found
    }


def _inherited(found: Settings, part: str) -> str:
    value = found.get(f"{_BACKENDS}.{part}.fp32_precision", "none")
    if value != "none":
        return value
    return _inherited(found, part.rpartition(".")[0]) if part else "ieee"


def use(wanted: Settings) -> None:
    """Make them those of this process."""
    present = settings()
    for name, (_, write) in _switches().items():
        if name in wanted and present.get(name) != wanted[name]:
            write(wanted[name])


def _switches() -> dict[str, tuple[Callable[[], Any], Callable[[Any], None]]]:
    """Name -> how to read it and how to write it, of those that this torch has."""
    places = [(torch.backends, part, "fp32_precision") for part in _PARTS]
    places += [(torch.backends, "cuda.matmul", name) for name in _SHORTCUTS]
    places += [(Image, "", "MAX_IMAGE_PIXELS"), (ImageFile, "", "LOAD_TRUNCATED_IMAGES")]
    switches = {"dtype": (torch.get_default_dtype, torch.set_default_dtype)}
    if not hasattr(torch.backends, "fp32_precision"):  # before torch 2.9
        switches["matmul"] = (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision)
        places += [(torch.backends, "cudnn", "allow_tf32")]
    for owner, part, name in places:
        try:
            found = functools.reduce(getattr, part.split("."), owner) if part else owner
        except AttributeError:  # this torch has no such part
            continue
        pair = functools.partial(getattr, found, name), functools.partial(setattr, found, name)
        switches[f"{owner.__name__}.{part}.{name}"] = pair
    return switches


class Parcel:
    """A network on its way to another process, with its tensors as bytes.

    multiprocessing would send each tensor as an open file, of which forkserver passes 256 at most.

    Attributes:
        network: what is sent; its parameters and buffers lie on the CPU.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __reduce__(self) -> tuple[Callable[..., Parcel], tuple[Any, ...]]:
        tensors = list({id(tensor): tensor for _, tensor in _named(self.network)}.values())
        number = {id(tensor): i for i, tensor in enumerate(tensors)}
        names = {name: number[id(tensor)] for name, tensor in _named(self.network)}
        empty = copy.deepcopy(self.network, {id(tensor): _on_meta(tensor) for tensor in tensors})
        return _unpacked, (empty, names, [_bytes(tensor) for tensor in tensors], settings())


def _named(network: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers; one of several names comes with each of them."""
    buffers = network.named_buffers(remove_duplicate=False)
    return [*network.named_parameters(remove_duplicate=False), *buffers]


def _on_meta(tensor: Tensor) -> Tensor:
    """The same without content."""
    empty = torch.empty_like(tensor, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


def _bytes(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy()


def _unpacked(
    network: nn.Module, names: dict[str, int], contents: list[np.ndarray], wanted: Settings
) -> Parcel:
    use(wanted)
    tensors: dict[int, Tensor] = {}
    for name, number in names.items():
        parent, _, leaf = name.rpartition(".")
        module = network.get_submodule(parent)
        held = module._parameters if leaf in module._parameters else module._buffers
        held[leaf] = tensors.setdefault(number, _filled(held[leaf], contents[number]))
    return Parcel(network)


def _filled(empty: Tensor, content: np.ndarray) -> Tensor:
    """On the CPU, in the memory order of `empty`."""
    found = torch.empty_like(empty, device="cpu", requires_grad=False)
    with torch.no_grad():
        found.copy_(torch.from_numpy(content.copy()).view(found.dtype).view(found.shape))
    return nn.Parameter(found, empty.requires_grad) if isinstance(empty, nn.Parameter) else found
