"""Randomness that depends on seed, step and process alone, so that nothing of it needs to be saved."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from types import ModuleType

import torch

__all__ = ["restored_afterwards", "seeded"]


def seeded(device: torch.device, *key: int | str) -> torch.Generator:
    """Seed torch's global generators, as dropout uses them, and give a fresh one that is unrelated to them.

    Args:
        device: where random numbers are drawn.
        key: what they depend on, such as seed, step and process.
    """
    for module in _sources(device):
        module.manual_seed(_number("global", *key))
    return torch.Generator(device).manual_seed(_number("generator", *key))


def _number(*key: int | str) -> int:
    # A hash, since generators on the CPU use only the lower half, and nearby seeds may be alike.
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little")


class _Cpu:
    """The CPU's global generator alone: ``torch.manual_seed`` would reach all accelerators of the machine."""

    manual_seed = staticmethod(torch.default_generator.manual_seed)
    get_rng_state = staticmethod(torch.get_rng_state)
    set_rng_state = staticmethod(torch.set_rng_state)


def _sources(device: torch.device) -> list[type[_Cpu] | ModuleType]:
    return [_Cpu] if device.type == "cpu" else [_Cpu, torch.get_device_module(device)]


@contextlib.contextmanager
def restored_afterwards(device: torch.device) -> Iterator[None]:
    """Leave torch's global generators as they were."""
    states = [(module, module.get_rng_state()) for module in _sources(device)]
    try:
        yield
    finally:
        for module, state in states:
            module.set_rng_state(state)
