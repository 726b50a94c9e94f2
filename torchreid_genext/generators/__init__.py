"""Generators of people, a paper a file."""

from __future__ import annotations

from torchreid_genext.generators._registry import build_generator, list_generators

__all__ = ["build_generator", "list_generators"]
