"""The machine: device, precision and processes by accelerate; batches and gradients on their way."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchreid_genext.training.options import Options

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["accelerated", "average_gradients", "batch_size", "moved", "share_state"]


@contextlib.contextmanager
def accelerated(options: Options) -> Iterator[Accelerator]:
    """An accelerator of our own: the process may have others, before, after or around it.

    Raises:
        ImportError: if accelerate is missing; the message names the cure.
        ValueError: for fp16 on a CPU.
    """
    try:
        from accelerate import Accelerator, state
    except ModuleNotFoundError as error:
        cure = "install it with `pip install accelerate`"
        raise ImportError(f"training needs the module '{error.name}', which is missing; {cure}") from error
    with _set_aside(state.PartialState, state.AcceleratorState, state.GradientState), _tuned_convolutions():
        if options.mixed_precision == "fp16" and state.PartialState(cpu=options.cpu).device.type == "cpu":
            raise ValueError("expected mixed_precision no or bf16 on a CPU, got fp16")
        yield Accelerator(
            mixed_precision=options.mixed_precision,
            gradient_accumulation_steps=options.accumulation,
            cpu=options.cpu,
        )


@contextlib.contextmanager
def _set_aside(*kinds: Any) -> Iterator[None]:
    """Accelerate keeps its state in its classes, and refuses a second precision or device in a process."""
    before = [dict(kind._shared_state) for kind in kinds]
    for kind in kinds:
        kind._shared_state.clear()
    try:
        yield
    finally:
        for kind, state in zip(kinds, before):
            kind._shared_state.clear()
            kind._shared_state.update(state)


@contextlib.contextmanager
def _tuned_convolutions() -> Iterator[None]:
    """Let cuDNN choose the fastest convolutions, since shapes stay the same, unless it must be repeatable."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.deterministic
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def moved(batch: Any, device: torch.device, channels_last: bool) -> Any:
    """A batch on the device; images (4 dimensions) in channels_last order if asked for.

    Raises:
        ValueError: if it holds other things than tensors.
    """

    def move(tensor: Tensor) -> Tensor:
        if channels_last and tensor.ndim == 4:
            return tensor.to(device, non_blocking=True, memory_format=torch.channels_last)
        return tensor.to(device, non_blocking=True)

    return _mapped(batch, move)


def _mapped(batch: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return {name: _mapped(part, function) for name, part in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_mapped(part, function) for part in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(_mapped(part, function) for part in batch)
    raise ValueError(f"expected a batch of tensors, got {type(batch).__name__}")


def batch_size(batch: Any) -> int:
    """The length of the first tensor of a batch."""
    lengths: list[int] = []
    _mapped(batch, lambda tensor: lengths.append(len(tensor)) or tensor)
    return lengths[0]


def share_state(modules: Sequence[nn.Module], accelerator: Accelerator) -> None:
    """Give all processes the weights of the first one."""
    from accelerate.utils import broadcast

    if accelerator.num_processes > 1:
        for tensor in (tensor for module in modules for tensor in module.state_dict().values()):
            broadcast(tensor.data)


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
    """Put the mean over all processes into the gradients; where one has none, it counts as zero.

    Modules need no wrapper for this, so a loss may call them in parts, several times, or not at all.
    """
    if accelerator.num_processes == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for group in _by_dtype([parameter.grad for parameter in parameters]):
        flat = accelerator.reduce(torch.cat([gradient.flatten() for gradient in group]), "mean")
        for gradient, part in zip(group, flat.split([gradient.numel() for gradient in group])):
            gradient.copy_(part.view_as(gradient))


def _by_dtype(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    dtypes = dict.fromkeys(tensor.dtype for tensor in tensors)
    return [[tensor for tensor in tensors if tensor.dtype == dtype] for dtype in dtypes]
