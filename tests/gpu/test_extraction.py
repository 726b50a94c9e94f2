"""Features of images on an accelerator are those of the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from tests.gpu.measures import assert_near
from torchreid_genext import compat
from torchreid_genext.extraction import Encoder, extract

pytestmark = pytest.mark.gpu

SIZE = {"height": 64, "width": 32}


def images(count: int = 12) -> Tensor:
    return torch.randint(
        256, (count, 64, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return compat.build_model("osnet_x0_25", 1).eval()


def small() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("channels_last", (False, True))
def test_features_are_those_of_the_cpu(
    model: nn.Module, device: torch.device, tf32: bool, channels_last: bool
) -> None:
    wanted = Encoder(model, **SIZE)(images())
    found = Encoder(model, **SIZE, device=device, channels_last=channels_last)(images())
    assert found.device.type == device.type and found.dtype == torch.float32
    assert_near(found, wanted, 2e-2 if tf32 else 1e-4)


def test_features_do_not_depend_on_the_batch(model: nn.Module, device: torch.device, exact: None) -> None:
    encoder = Encoder(model, **SIZE, device=device)
    alone = torch.cat([encoder(row[None]) for row in images()])
    assert_near(alone, encoder(images()), 1e-4)


@pytest.mark.parametrize("channels_last", (False, True))
def test_bfloat16_points_the_same_way(model: nn.Module, device: torch.device, channels_last: bool) -> None:
    wanted = Encoder(model, **SIZE)(images())
    found = Encoder(model, **SIZE, device=device, precision="bf16", channels_last=channels_last)(images())
    assert (cosine := cosine_similarity(found.cpu(), wanted).min().item()) > 0.995, cosine


def test_flipped_images_take_part(model: nn.Module, device: torch.device, exact: None) -> None:
    wanted = Encoder(model, **SIZE, flip=True)(images())
    assert_near(Encoder(model, **SIZE, flip=True, device=device)(images()), wanted, 1e-4)


@pytest.mark.parametrize("precision", ("fp32", "bf16"))
def test_compiled_networks_give_the_same(device: torch.device, precision: str, exact: None) -> None:
    """Of each precision once: compiling takes seconds."""
    wanted = Encoder(small(), **SIZE, device=device, precision=precision)(images())
    found = Encoder(small(), **SIZE, device=device, precision=precision, compile=True)(images())
    assert_near(found, wanted, 1e-4 if precision == "fp32" else 2e-2)


def test_files_give_what_their_pixels_give(
    model: nn.Module, device: torch.device, exact: None, tmp_path: Path
) -> None:
    paths = []
    for number, pixels in enumerate(images(5)):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(np.asarray(pixels)).save(paths[-1])
    encoder = Encoder(model, **SIZE, device=device)
    found = extract(encoder, paths, workers=2, progress=False).features
    assert_near(found, encoder(images(5)), 1e-4)


def test_features_on_another_stream_are_the_same(model: nn.Module, device: torch.device, exact: None) -> None:
    if device.type != "cuda":
        pytest.skip("streams are CUDA's")
    encoder, busy = Encoder(model, **SIZE, device=device), torch.cuda.Stream()
    wanted = encoder(images())
    with torch.cuda.stream(busy):
        heavy = torch.randn(4096, 4096, device=device)
        for _ in range(10):
            heavy = (heavy @ heavy).clamp(-1, 1)
    with torch.cuda.stream(torch.cuda.Stream()):
        assert_near(encoder(images()), wanted, 1e-6)
