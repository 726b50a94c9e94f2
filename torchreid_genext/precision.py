"""Precisions by name, and which of them a device is fast in."""

from __future__ import annotations

import torch

__all__ = ["DTYPES", "PRECISIONS", "autocast", "comparison_device", "computes_bf16", "cpu_has", "resolve"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("auto", *DTYPES)


def resolve(precision: str, device: torch.device | str) -> str:
    """The name in `DTYPES` that a precision stands for: ``auto`` is bf16 where a device has it, else fp32.

    Raises:
        ValueError: if the precision is unknown.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
    if precision == "auto":
        return "bf16" if computes_bf16(device) else "fp32"
    return precision


def computes_bf16(device: torch.device | str) -> bool:
    """Whether a device has instructions for bfloat16; others imitate it, many times slower than float32."""
    device = torch.device(device)
    if device.type == "cpu":
        return cpu_has("amx_tile") or cpu_has("avx512_bf16")
    module = getattr(torch, device.type, None)
    if not hasattr(module, "is_bf16_supported"):
        return False
    with module.device(device):
        return bool(module.is_bf16_supported(including_emulation=False))


def cpu_has(instructions: str) -> bool:
    """Whether torch knows these instructions and finds them in the processor; amx_tile, avx512_bf16."""
    supported = getattr(torch.cpu, f"_is_{instructions}_supported", None)
    return bool(supported and supported())


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A context in which networks compute in a precision of `DTYPES`; fp32 changes nothing."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


def comparison_device(name: str) -> torch.device | None:
    """The device of ``genext.evaluation.device``; None for ``auto``, which is the model's.

    Raises:
        ValueError: if there is no such device here.
    """
    if name == "auto":
        return None
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch raises the latter where it was built without
        rule = "expected genext.evaluation.device to be auto or a device that is there"
        raise ValueError(f"{rule}, got {name!r}: {str(error).splitlines()[0]}") from error
