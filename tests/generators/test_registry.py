"""Generators by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from torchreid_genext.generators import build_generator, list_generators
from torchreid_genext.generators.identity import IdentityGenerator

TINY = {"identities": 3, "widths": [4, 6], "image_size": (8, 4)}


def test_generators_are_built_fresh_or_from_their_files(tmp_path: Path) -> None:
    fresh = build_generator("identity", **TINY)
    assert isinstance(fresh, IdentityGenerator) and not fresh.training
    again = build_generator("identity", fresh.save(tmp_path / "g.safetensors"))
    code, noise = torch.randn(2, 32), torch.randn(2, 3, 8, 4)
    with torch.no_grad():
        assert torch.equal(again(code, noise), fresh(code, noise))


def test_mistakes_are_named(tmp_path: Path) -> None:
    assert "identity" in list_generators()
    with pytest.raises(ValueError, match="unknown generator 'gan'; choose from .*identity"):
        build_generator("gan")
    with pytest.raises(ValueError, match="expected weights or a configuration, got w.safetensors and widths"):
        build_generator("identity", "w.safetensors", widths=[4])
    with pytest.raises(FileNotFoundError):
        build_generator("identity", tmp_path / "none.safetensors")
