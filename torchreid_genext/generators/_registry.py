"""Generators by name. A new one adds its line to the table; nothing is imported before it is asked for."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from torchreid_genext.generators._saving import Saved

__all__ = ["build_generator", "list_generators"]

_CLASSES = {
    "camstyle": ("torchreid_genext.generators.camstyle", "CameraStyle"),
    "camstyle_pair": ("torchreid_genext.generators.camstyle", "CameraPair"),
    "deformable": ("torchreid_genext.generators.deformable", "DeformableGAN"),
    "identity": ("torchreid_genext.generators.identity", "IdentityGenerator"),
    "pg2": ("torchreid_genext.generators.pg2", "PG2"),
}


def list_generators() -> list[str]:
    """Names that `build_generator` knows."""
    return sorted(_CLASSES)


def build_generator(name: str, weights: str | Path = "", **config: Any) -> Saved:
    """A generator of images of people, in evaluation mode, on the CPU.

    Args:
        name: one of `list_generators`.
        weights: file that its `save` has written, which knows its configuration.
        config: arguments of its class, for one without training.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the name is unknown, both weights and a configuration are given, or the file is damaged
            or another generator's.
    """
    if name not in _CLASSES:
        raise ValueError(f"unknown generator {name!r}; choose from {', '.join(list_generators())}")
    if weights and config:
        raise ValueError(f"expected weights or a configuration, got {weights} and {', '.join(config)}")
    module, cls = _CLASSES[name]
    generator: type[Saved] = getattr(importlib.import_module(module), cls)
    return generator.load(weights) if weights else generator(**config).eval()
