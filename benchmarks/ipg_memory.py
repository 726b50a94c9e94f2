"""Memory of training IPG: all weights, gradient checkpointing, changes of low rank, the pose guider alone.

    python benchmarks/ipg_memory.py                  # on the GPU where there is one, else on the CPU
    python benchmarks/ipg_memory.py --sizes embedded --modes full pose

Measured: each row is a process of its own that builds the pipeline and does two steps of its task in mixed
precision (bf16), with AdamW; the second has all that any later one has. Memory is by how much the process has
grown since before there was a pipeline; on a GPU, what was allocated on it counts too. A training has images
beside that, and one more copy of what it trains if it keeps averages (ema_decay). On CPUs, attention without
checkpointing is by plain products, which keep whole matrices.

Computed: the official size, at 512x256, in float32. Features are those that one image keeps for its gradient,
without matrices of attention, since GPUs keep none; in bf16 most of them take half of that.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from _measure import MIB, table
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

import torchreid_genext as genext
from torchreid_genext.benchmark.memory import PeakMemory
from torchreid_genext.config import get_default_config
from torchreid_genext.data.images.batch_transforms import Augmentation
from torchreid_genext.generators.ipg import (
    IdentityProjector,
    IPGDenoiser,
    IPGPipeline,
    PoseGuider,
    TransReID,
    without_head,
)
from torchreid_genext.generators.ipg.lora import LowRank
from torchreid_genext.recipes.training import ipg
from torchreid_genext.training.ipg import PARTS, IPGTask, learners

GIB = 2**30
RANK, FLOAT = 16, 4  # of the changes; bytes
SIZES = {
    "embedded": {"height": 128, "width": 64, "patch": 4, "widths": [64, 64, 96], "batch": 32},
    "middle": {"height": 256, "width": 128, "patch": 8, "widths": [160, 320, 640], "batch": 8},
}


class Mode(NamedTuple):
    """How it is trained."""

    parts: tuple[str, ...] = PARTS
    rank: int = 0
    checkpointing: bool = False


MODES = {
    "full": Mode(),
    "full, checkpointing": Mode(checkpointing=True),
    "low rank": Mode(rank=RANK),
    "low rank, checkpointing": Mode(rank=RANK, checkpointing=True),
    "pose": Mode(parts=("pose_guider",)),
    "pose, checkpointing": Mode(parts=("pose_guider",), checkpointing=True),
}


class Batch(NamedTuple):
    images: Tensor
    indices: Tensor
    others: Tensor


def main() -> None:
    arguments = parse_arguments()
    if arguments.alone:
        print(*measured(*arguments.alone))
        return
    rows = [["size", "batch", "mode", "trained, millions", "MiB", "of full"]]
    for size in arguments.sizes:
        rows += measured_rows(size, arguments.modes)
    print("a GPU" if torch.cuda.is_available() else "the CPU", table(rows), sep="\n", end="\n\n")
    print("official size, computed, GiB", table([*computed_rows(arguments.modes)]), sep="\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=SIZES)
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--alone", nargs=2, metavar=("SIZE", "MODE"), help="measure one row in this process")
    return parser.parse_args()


def measured_rows(size: str, modes: list[str]) -> Iterator[list[str]]:
    first = None
    for mode in modes:
        command = [sys.executable, __file__, "--alone", size, mode]
        words = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
        trained, peak = map(int, words[-2:])
        first = first or peak
        batch = str(SIZES[size]["batch"])
        yield [size, batch, mode, f"{trained / 1e6:.2f}", f"{peak / MIB:.0f}", f"{peak / first:.2f}"]


def measured(size: str, mode: str) -> tuple[int, int]:
    """Parameters that are trained, and bytes."""
    genext.register()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    memory = PeakMemory()
    pipe = ipg.build(configuration(SIZES[size])).to(device)
    made = task(pipe, MODES[mode], random_images(SIZES[size], 8))
    for _ in range(2):
        step(made, SIZES[size], device)
    return sum(parameter.numel() for parameter in trained(made)), memory.growth()


def configuration(size: Mapping[str, Any]) -> Any:
    cfg = get_default_config()
    cfg.genext.training.image_size = [size["height"], size["width"]]
    keys = {name: value for name, value in size.items() if name in cfg.genext.ipg.generator}
    cfg.genext.ipg.generator.update({"encoder": "osnet_x0_25", **keys})
    return cfg


def random_images(size: Mapping[str, Any], count: int) -> Tensor:
    return torch.randint(256, (count, 3, size["height"], size["width"]), dtype=torch.uint8)


def task(pipe: IPGPipeline, mode: Mode, poses: Tensor) -> IPGTask:
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False)
    changes = low_rank({part: getattr(pipe, part) for part in mode.parts}, mode)
    modules = learners(pipe, mode.parts, changes).values()
    parameters = [parameter.requires_grad_() for module in modules for parameter in module.parameters()]
    return IPGTask(
        pipe, torch.optim.AdamW(parameters, 1e-5, fused=True), poses=poses, augment=Augmentation(flip=0.0),
        parts=mode.parts, changes=changes, gradient_checkpointing=mode.checkpointing,
    )  # fmt: skip


def low_rank(networks: Mapping[str, nn.Module], mode: Mode) -> dict[str, LowRank]:
    unets = [name for name in networks if name.endswith("unet") and mode.rank]
    return {name: LowRank(networks[name], mode.rank) for name in unets}


def trained(made: IPGTask) -> list[nn.Parameter]:
    (group,) = made.phases["denoise"].optimizer.param_groups
    return group["params"]


def step(made: IPGTask, size: Mapping[str, Any], device: torch.device) -> None:
    images = [random_images(size, size["batch"]).to(device) for _ in range(2)]
    batch = Batch(images[0], torch.arange(size["batch"]) % 8, images[1])
    with torch.autocast(device.type, torch.bfloat16):
        loss, _ = made.loss("denoise", batch, torch.Generator(device).manual_seed(0))
    loss.backward()
    optimizer = made.phases["denoise"].optimizer
    optimizer.step()
    optimizer.zero_grad()


def computed_rows(modes: list[str]) -> Iterator[list[str]]:
    yield ["mode", "weights", "gradients", "AdamW", "average", "without average", "features an image"]
    for mode in modes:
        weights, learnt, features = official(MODES[mode])
        sizes = [weights, learnt, 2 * learnt, learnt, weights + 3 * learnt]
        yield [mode, *(f"{FLOAT * count / GIB:.2f}" for count in sizes), f"{features / GIB:.2f}"]


def official(mode: Mode) -> tuple[int, int, int]:
    """Numbers of all weights and of those that are trained, and bytes of features; nothing is allocated."""
    with torch.device("meta"):
        networks = {
            "reference_unet": without_head(stable_diffusion()),
            "denoising_unet": stable_diffusion(),
            "pose_guider": PoseGuider(),
            "identity_projector": IdentityProjector(),
        }
        changes = low_rank({part: networks[part] for part in mode.parts}, mode)
        learnt = [changes.get(part, networks[part]) for part in mode.parts]
        for network in networks.values():
            network.requires_grad_(False)
        for module in (*learnt, *changes.values()):
            module.requires_grad_()
        counted = [*networks.values(), *changes.values(), autoencoder(), TransReID()]
        features = kept_features(networks, changes, mode)
    return parameters(counted), parameters(learnt), features


def parameters(modules: list[nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def stable_diffusion() -> UNet2DConditionModel:
    """The U-Net of Stable Diffusion 1.5."""
    return UNet2DConditionModel(cross_attention_dim=768)


def autoencoder() -> AutoencoderKL:
    """Of its size."""
    widths = (128, 256, 512, 512)
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return AutoencoderKL(block_out_channels=widths, layers_per_block=2, **kinds)


def kept_features(networks: Mapping[str, nn.Module], changes: Mapping[str, LowRank], mode: Mode) -> int:
    """Bytes that one image keeps for its gradient, in single precision."""
    modules = [*networks.values(), *changes.values()]
    weights = {p.untyped_storage()._cdata for module in modules for p in module.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not is_attention(tensor):
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    prepare(networks, changes, mode)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        denoise(networks).square().mean()
    features = [tensor for storage, tensor in kept.items() if storage not in weights]
    return sum(tensor.untyped_storage().nbytes() for tensor in features)


def is_attention(tensor: Tensor) -> bool:
    """Whether it is a matrix of tokens and tokens, own ones or also those of a reference."""
    return tensor.ndim > 2 and tensor.shape[-1] in (tensor.shape[-2], 2 * tensor.shape[-2])


def prepare(networks: Mapping[str, nn.Module], changes: Mapping[str, LowRank], mode: Mode) -> None:
    for each in changes.values():
        each.attach()
    if mode.checkpointing:
        networks["reference_unet"].enable_gradient_checkpointing()
        networks["denoising_unet"].enable_gradient_checkpointing()


def denoise(networks: Mapping[str, nn.Module]) -> Tensor:
    """What one image goes through, 512x256."""
    denoiser = IPGDenoiser.from_unets(networks["reference_unet"], networks["denoising_unet"])
    latents, tokens = torch.randn(1, 4, 64, 32), networks["identity_projector"](torch.randn(1, 3840))
    pose = networks["pose_guider"](torch.randn(1, 3, 512, 256))
    return denoiser(latents, 0, tokens, pose=pose, seen=denoiser.see([latents], tokens))


if __name__ == "__main__":
    main()
