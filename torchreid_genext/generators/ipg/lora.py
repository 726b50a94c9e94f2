"""Fine-tuning where memory is short: U-Nets that keep their weights and learn changes of low rank.

"LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022), on the projections of all attentions. It
needs no further library: changes stand beside the U-Net, so that checkpoints and averages hold only them, and
are added to what its layers give. Files have peft's names, and alpha is the rank: where peft is at hand,
``unet.load_lora_adapter(path, prefix="denoising_unet")`` of diffusers reads them, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Generator, Tensor, nn
from torch.utils.hooks import RemovableHandle

from torchreid_genext import checkpoints

__all__ = ["LowRank", "load", "save"]

_LAYERS = (".to_q", ".to_k", ".to_v", ".to_out.0")
_FIRST = ".lora_A.weight"  # (rank, inputs), as opposed to lora_B (outputs, rank)


class LowRank(nn.Module):
    """Trainable changes to a U-Net: y = W x + B A x, where B is zero at first.

    Args:
        network: any with diffusers' attention; it is not part of this module.
        rank: rows of each A.
        random: draws A.

    Raises:
        ValueError: if the rank is below 1, or the network has no attention.
    """

    def __init__(self, network: nn.Module, rank: int, random: Generator | None = None) -> None:
        super().__init__()
        layers = {name: part for name, part in network.named_modules() if name.endswith(_LAYERS)}
        if rank < 1:
            raise ValueError(f"expected a rank of at least 1, got {rank}")
        if not layers:
            raise ValueError(f"expected a network with attention, got {type(network).__name__} without")
        self._changes = [(layer, _Change(layer, rank, random)) for layer in layers.values()]
        self._hooks: list[RemovableHandle] = []
        for name, (_, change) in zip(layers, self._changes):
            _put(self, name, change)

    def attach(self) -> LowRank:
        """Let the network be changed from now on, as these weights say at each time; returns this module."""
        self.detach()
        self._hooks = [layer.register_forward_hook(change.add) for layer, change in self._changes]
        return self

    def detach(self) -> None:
        """Let the network be as it was."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @torch.no_grad()
    def merge(self) -> None:
        """Put the changes into the network's own weights, for good, and detach."""
        self.detach()
        for layer, change in self._changes:
            layer.weight += change.product().to(layer.weight)


class _Change(nn.Module):
    """Of one linear layer."""

    def __init__(self, layer: nn.Linear, rank: int, random: Generator | None) -> None:
        super().__init__()
        place = {"device": layer.weight.device, "bias": False}
        self.lora_A = nn.utils.skip_init(nn.Linear, layer.in_features, rank, **place)
        self.lora_B = nn.utils.skip_init(nn.Linear, rank, layer.out_features, **place)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5), generator=random)
        nn.init.zeros_(self.lora_B.weight)

    def add(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """As a forward hook of the layer."""
        return output + self.lora_B(self.lora_A(inputs[0]))

    def product(self) -> Tensor:
        return self.lora_B.weight @ self.lora_A.weight


def _put(root: nn.Module, name: str, module: nn.Module) -> None:
    """Make a module part of another under a name with dots."""
    *path, last = name.split(".")
    for step in path:
        if step not in dict(root.named_children()):
            root.add_module(step, nn.Module())
        root = root.get_submodule(step)
    root.add_module(last, module)


def save(path: str | Path, parts: Mapping[str, nn.Module]) -> Path:
    """Write what has been trained of a pipeline, atomically.

    Args:
        path: of the safetensors file.
        parts: network of the pipeline -> its `LowRank`, or the network itself where it was trained in full.
    """
    state = {
        f"{part}.{name}": tensor
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
    return checkpoints.save(path, state)


def load(pipe: DiffusionPipeline, path: str | Path) -> DiffusionPipeline:
    """Give the pipeline from which a training started what this training has learnt; changes it in place.

    Args:
        pipe: with the weights that it had then.
        path: what `save` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or is not of such a pipeline; says what does not fit.
    """
    for part, state in _by_part(checkpoints.safe_load(path)).items():
        network = getattr(pipe, part, None)
        if not isinstance(network, nn.Module):
            raise ValueError(f"expected changes to networks of {type(pipe).__name__}, got {part} in {path}")
        _change(network, state, path)
    return pipe


def _change(network: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    rank = next((len(tensor) for name, tensor in state.items() if name.endswith(_FIRST)), None)
    if rank is None:
        checkpoints.fill(network, state, path)
    else:
        changes = LowRank(network, rank)
        checkpoints.fill(changes, state, path)
        changes.merge()


def _by_part(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        part, _, key = name.partition(".")
        parts.setdefault(part, {})[key] = tensor
    return parts
