"""IPG as large as its authors' files: names and shapes without memory, and once, slowly, for real."""

from __future__ import annotations

import gzip
import json
import math
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn

from tests.conftest import ROOT
from torchreid_genext.download import KNOWN
from torchreid_genext.generators.ipg import (
    IdentityProjector,
    IPGDenoiser,
    IPGPipeline,
    PoseGuider,
    TransReID,
    official,
    without_head,
)

# Stable Diffusion 1.5; its "attention_head_dim" has always been the number of heads
UNET = {
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "act_fn": "silu",
    "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8,
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    "norm_num_groups": 32, "norm_eps": 1e-5, "flip_sin_to_cos": True, "freq_shift": 0,
}  # fmt: skip
VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
    "latent_channels": 4, "sample_size": 256,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
UNUSED = ("base.norm.", "base.fc.", "base.blocks.11.", "classifier", "bottleneck")

# file -> name -> shape, as recorded from the official files
TABLES: dict[str, dict[str, list[int]]] = json.loads(
    gzip.decompress((ROOT / "tests/data/official_ipg.json.gz").read_bytes())
)


# official file -> its network
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "reference_unet.pth": lambda: without_head(UNet2DConditionModel(**UNET)),
    "denoising_unet.pth": lambda: UNet2DConditionModel(**UNET),
    "pose_guider.pth": PoseGuider,
    "IFR.pth": IdentityProjector,
    "transformer_20.pth": TransReID,
}


def without_memory(table: dict[str, list[int]]) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in table.items()}


@pytest.mark.parametrize("name", official.FILES.values())
def test_networks_take_every_official_weight(name: str, tmp_path: Path) -> None:
    """Read as a released file is read, though its tensors are names and shapes only."""
    with torch.device("meta"):
        network = NETWORKS[name]()
    torch.save(without_memory(TABLES[name]), tmp_path / name)
    official.fill(network, tmp_path / name)
    used = [key for key in TABLES[name] if name != "transformer_20.pth" or not key.startswith(UNUSED)]
    assert len(network.state_dict()) == len(used)


def test_a_denoiser_has_the_weights_of_both_files() -> None:
    with torch.device("meta"):
        shapes = {name: [*tensor.shape] for name, tensor in IPGDenoiser(UNET).state_dict().items()}
    for part in ("reference_unet", "denoising_unet"):
        of_part = {name.removeprefix(f"{part}."): s for name, s in shapes.items() if name.startswith(part)}
        assert of_part == TABLES[f"{part}.pth"]


@pytest.mark.parametrize("name", official.FILES.values())
def test_another_official_shape_is_noticed(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        network = NETWORKS[name]()
    first, *_ = TABLES[name]
    torch.save(without_memory(TABLES[name] | {first: [7]}), tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}: 1 of another shape \(.* \(7,\) instead of"):
        official.fill(network, tmp_path / name)


@pytest.mark.parametrize("name", official.FILES.values())
def test_official_weights_are_as_many_as_their_file_is_long(name: str) -> None:
    (file,) = (file for file in KNOWN["ipg"].files if file.path == name)
    assert file.size == pytest.approx(4 * sum(map(math.prod, TABLES[name].values())), rel=0.004)


def test_the_tables_are_the_recorded_ones() -> None:
    folder = ROOT.parent / "shared" / "reference" / "ipg_keys"
    if not folder.is_dir():
        pytest.skip("the recorded tables are not beside the repository; the copy in tests/data is used")
    assert {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")} == TABLES


def random_weights(table: dict[str, list[int]], seed: int) -> dict[str, Tensor]:
    """Such that a network neither fades nor explodes."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in table.items():
        if len(shape) > 1:
            weights[name] = torch.randn(shape, generator=generator).div_(math.sqrt(math.prod(shape[1:])))
        else:
            weights[name] = torch.full(shape, float(name.endswith("weight")))
    return weights


@pytest.fixture
def released(tmp_path: Path) -> Iterator[Path]:
    """Five files as the authors', of random weights, base model and autoencoder: 8 GB, taken away after."""
    for seed, (name, table) in enumerate(TABLES.items()):
        torch.save(random_weights(table, seed), tmp_path / name)
    with torch.device("meta"):
        UNet2DConditionModel(**UNET).save_config(tmp_path / "stable-diffusion-v1-5" / "unet")
    AutoencoderKL(**VAE).save_pretrained(tmp_path / "sd-vae-ft-mse")
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.slow
def test_the_official_size_generates_an_image(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Needs 8 GB of disk and 12 GB of memory."""
    for file in KNOWN["ipg"].files:
        if file.size and file.path.endswith((".pth", ".safetensors")):
            assert (released / file.path).stat().st_size == pytest.approx(file.size, rel=0.001), file.path
    begun = time.perf_counter()
    pipe = IPGPipeline.from_official(released, released / "stable-diffusion-v1-5", released / "sd-vae-ft-mse")
    read = time.perf_counter()
    pixels = np.random.default_rng(0).integers(0, 256, (128, 64, 3), dtype=np.uint8)
    made = pipe(
        Image.fromarray(pixels), torch.rand(1, 3, 512, 256), num_inference_steps=2,
        generator=torch.Generator().manual_seed(0), output_type="pt",
    ).images  # fmt: skip
    seconds, memory = time.perf_counter() - read, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with capsys.disabled():
        print(f"\nread in {read - begun:.0f} s, two steps in {seconds:.0f} s, {memory:.1f} GiB at the peak")
    assert made.shape == (1, 3, 512, 256) and made.isfinite().all() and made.std() > 0
