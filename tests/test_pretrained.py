"""The weights that come with the repository: listed, small, and read by what reads them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from torchreid_genext import checkpoints, compat
from torchreid_genext.generators import build_generator
from torchreid_genext.generators.prior import CodePrior

FOLDER = ROOT / "pretrained"
SHIPPED = sorted(FOLDER.glob("synthreid/*.safetensors"))  # others may lie beside them, fetched by the user
LISTED = dict(
    re.findall(r"^\| `(synthreid/\S+)` .* `([0-9a-f]{64})` \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
)


def test_all_files_are_listed_and_small() -> None:
    assert {str(path.relative_to(FOLDER)) for path in SHIPPED} == set(LISTED)
    assert sum(path.stat().st_size for path in SHIPPED) <= 12 * 2**20


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_files_are_those_that_are_listed(path: Path) -> None:
    assert hashlib.sha256(path.read_bytes()).hexdigest() == LISTED[str(path.relative_to(FOLDER))]


def test_networks_of_generative_identity_fit_together(registered: None) -> None:
    """People of the prior are drawn, and the backbone recognises whom it sees under other noises."""
    generator = build_generator("identity", FOLDER / "synthreid/generator.safetensors")
    prior = CodePrior.load(FOLDER / "synthreid/prior.safetensors")
    inverter = compat.build_model("genid", 1, loss="softmax", pretrained=False)
    checkpoints.load_weights(inverter, FOLDER / "synthreid/inverter.safetensors")
    random = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        codes = prior(torch.randn(8, prior.code_width, generator=random))
        images = generator(codes.repeat(2, 1), generator.noise(16, random))
        found = torch.nn.functional.normalize(inverter.eval().code(images), dim=1)
    assert images.shape == (16, 3, 64, 32) and images.std() > 0.1
    best = (found[:8] @ found[8:].T).argmax(1)
    assert (best == torch.arange(8)).sum() >= 6
