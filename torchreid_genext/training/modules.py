"""Modules on loan: which of them are trained, and all of them left in the modes they came in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from torch import nn

from torchreid_genext.training.task import Phase

__all__ = ["borrowed", "modes_restored", "trained_modules"]


@contextlib.contextmanager
def borrowed(modules: Mapping[str, nn.Module], phases: Mapping[str, Phase]) -> Iterator[None]:
    """Put the trained modules in training mode and the others to rest; afterwards all are as before."""
    trained = trained_modules(modules, phases)
    parameters = {p: p.requires_grad for module in modules.values() for p in module.parameters()}
    with modes_restored(modules):
        try:
            for name, module in modules.items():
                module.train(name in trained)
            yield
        finally:
            for parameter, requires_grad in parameters.items():
                parameter.requires_grad_(requires_grad)


@contextlib.contextmanager
def modes_restored(modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Let training and evaluation mode change for a while, in every part of the modules."""
    modes = {part: part.training for module in modules.values() for part in module.modules()}
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def trained_modules(modules: Mapping[str, nn.Module], phases: Mapping[str, Phase]) -> dict[str, nn.Module]:
    """Those that some phase trains."""
    names = {name for phase in phases.values() for name in phase.modules}
    return {name: module for name, module in modules.items() if name in names}
