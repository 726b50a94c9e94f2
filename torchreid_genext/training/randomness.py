"""Randomness that depends on seed, step and process alone, so that nothing of it needs to be saved."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from types import ModuleType

import torch

from torchreid_genext.processes import StepGenerator

__all__ = ["restored_afterwards", "seeded"]


def seeded(device: torch.device, *key: int | str, share: tuple[int, int] = (0, 1)) -> StepGenerator:
    """Seed torch's global generators, as dropout uses them, and give a fresh one that is unrelated to them.

    Global generators differ between processes; the fresh one does not, since each takes its rows of what it
    draws for all.

    Args:
        device: where random numbers are drawn.
        key: what they depend on, such as seed and step.
        share: this process and how many there are.
    """
    for module in _sources(device):
        module.manual_seed(_number("global", *key, share[0]))
    random, host = (StepGenerator(each) for each in (device, "cpu"))
    random.manual_seed(_number("generator", *key, 0))
    random.share, random.host = share, None
    if device.type != "cpu":
        random.host = host.manual_seed(_number("host", *key))
    return random


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
