"""The machine: device, precision and processes by accelerate; batches and gradients on their way."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchreid_genext.training.options import Options

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = [
    "GradientMean", "accelerated", "batch_size", "by_the_first", "mixed", "moved", "place_of", "share_state",
]  # fmt: skip

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}

_BUCKET = 25 * 2**20  # bytes of gradients that are sent together


@contextlib.contextmanager
def accelerated(options: Options) -> Iterator[Accelerator]:
    """An accelerator of our own: the process may have others, before, after or around it.

    Raises:
        ImportError: if accelerate is missing; the message names the cure.
        ValueError: for fp16 on a CPU, or if processes were started that would not train together.
    """
    try:
        from accelerate import Accelerator, state
    except ModuleNotFoundError as error:
        cure = "install it with `pip install accelerate`"
        raise ImportError(f"training needs the module '{error.name}', which is missing; {cure}") from error
    cpu = options.cpu or _on_the_cpu()  # unless told so, accelerate would leave each CPU alone
    with _set_aside(state.PartialState, state.AcceleratorState, state.GradientState), _tuned_convolutions():
        partial = state.PartialState(cpu=cpu)
        if options.mixed_precision == "fp16" and partial.device.type == "cpu":
            raise ValueError("expected mixed_precision no or bf16 on a CPU, got fp16")
        _check_together(partial.num_processes)
        yield Accelerator(
            mixed_precision=options.mixed_precision,
            gradient_accumulation_steps=options.accumulation,
            cpu=cpu,
        )


def _on_the_cpu() -> bool:
    from accelerate.utils import parse_flag_from_env

    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def _check_together(processes: int) -> None:
    """Processes that each train alone would write over each other."""
    if (started := int(os.environ.get("WORLD_SIZE", 1))) > 1 and processes == 1:
        rule = f"expected a device on which {started} processes can train together, got one without"
        raise ValueError(f"{rule}; start one process, or set ACCELERATE_USE_CPU=true to train on the CPU")


def place_of(size: int, *, share: float = 0.25) -> torch.device:
    """Where a training keeps its data: on the device that it will train on if they fit, else on the CPU.

    Data that are there need no copy in each step, for which the host would wait.

    Args:
        size: of the data, in bytes.
        share: of the free memory that they may fill; the rest is for networks and their features.
    """
    device = _device()
    free = getattr(torch.get_device_module(device), "mem_get_info", None) if device.type != "cpu" else None
    return device if free is not None and size <= share * free(device)[0] else torch.device("cpu")


def _device() -> torch.device:
    """Of this process, as accelerate will choose it."""
    if _on_the_cpu():
        return torch.device("cpu")
    current = torch.accelerator.current_device_index()
    kind = torch.accelerator.current_accelerator().type
    return torch.device(kind, int(os.environ.get("LOCAL_RANK", current)))


@contextlib.contextmanager
def _set_aside(*kinds: Any) -> Iterator[None]:
    """Accelerate keeps its state in its classes, and refuses a second precision or device in a process.

    It can forget that state (`_reset_state`), but not bring that of others back.
    """
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


def mixed(accelerator: Accelerator) -> contextlib.AbstractContextManager[Any]:
    """The precision of an accelerator, also given back after an error: its own `autocast` long stayed on."""
    half = _HALVES.get(accelerator.mixed_precision)
    return torch.autocast(accelerator.device.type, half) if half else contextlib.nullcontext()


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


def by_the_first(write: Callable[[], object], accelerator: Accelerator) -> None:
    """Let the first process write what all have, while the others wait; an error is the first one's own."""
    try:
        if accelerator.is_main_process:
            write()
    finally:
        accelerator.wait_for_everyone()


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


class GradientMean:
    """The mean of gradients over all processes, in place; one process alone has it already.

    Modules need no wrapper for this, so a loss may call them in parts, several times, or not at all. A
    gradient that some processes lack counts as zero there; one that all lack stays away, as it would in one
    process, whose optimizer leaves such a parameter alone.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._world = accelerator.num_processes
        self._hosts = torch.distributed.new_group(backend="gloo") if self._world > 1 else None

    @torch.no_grad()
    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Put the mean into the gradients; to be called by all processes with the same parameters."""
        if self._world == 1:
            return
        for bucket in _buckets(self._reached(parameters)):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            torch.distributed.all_reduce(flat)
            parts = flat.div_(self._world).split([gradient.numel() for gradient in bucket])
            torch._foreach_copy_(bucket, [part.view_as(each) for part, each in zip(parts, bucket)])

    def _reached(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """The gradients that any process has. Hosts ask each other: nobody waits for an accelerator."""
        there = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8)
        torch.distributed.all_reduce(there, torch.distributed.ReduceOp.MAX, group=self._hosts)
        reached = [parameter for parameter, some in zip(parameters, there.tolist()) if some]
        for parameter in reached:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        return [parameter.grad for parameter in reached]


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive tensors of a kind that are sent together: in one message each would be slow, or huge."""
    for kind in dict.fromkeys(tensor.dtype for tensor in tensors):
        bucket, size = [], 0
        for tensor in (tensor for tensor in tensors if tensor.dtype == kind):
            if bucket and size + tensor.nbytes > _BUCKET:
                yield bucket
                bucket, size = [], 0
            bucket, size = [*bucket, tensor], size + tensor.nbytes
        yield bucket
