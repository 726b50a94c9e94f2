"""Tests for an accelerator, where there is one; they say by how much it differs from the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, by deterministic products

WISHED = os.environ.get("GENEXT_TEST_DEVICE", "")


@pytest.fixture(scope="session")
def device() -> torch.device:
    if WISHED:
        return torch.device(WISHED)
    if not torch.accelerator.is_available():
        pytest.skip("needs an accelerator; GENEXT_TEST_DEVICE=cpu tries the tests themselves")
    return torch.accelerator.current_accelerator()


@pytest.fixture(autouse=True)
def on_an_accelerator(device: torch.device) -> Iterator[None]:
    """Tests do not pay for the memory of earlier ones, and errors are told by the test that has them."""
    yield
    if device.type != "cpu":
        torch.accelerator.synchronize()
        torch.accelerator.empty_cache()


@contextmanager
def rounding(rounded: bool) -> Iterator[None]:
    """Products and convolutions in TF32, or in float32; torch's own are of both kinds."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if rounded else "highest")
    torch.backends.cudnn.allow_tf32 = rounded
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.fixture(params=("float32", "TF32"))
def tf32(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Products and convolutions as they are, and rounded to 10 bits."""
    with rounding(request.param == "TF32"):
        yield request.param == "TF32"


@pytest.fixture
def exact() -> Iterator[None]:
    """Products and convolutions in float32."""
    with rounding(False):
        yield


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
