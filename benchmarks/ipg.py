"""IPG against the authors' arrangement of the same networks, and what each lever gains and costs.

    python benchmarks/ipg.py                                       # the shipped pipeline, people of SynthReID
    python benchmarks/ipg.py --official --device cuda --poses 8    # official size, random weights: for a GPU

The authors' arrangement is rebuilt here from the same modules: one reference at a time; its image is encoded,
and looked at by the reference U-Net, once a pose and again for guidance; each self-attention projects features
of the reference anew in every step, for people and for nobody, and what nobody must not see is then computed a
second time without. Everything is in float32. Ours draws the same pictures, with the same steps and noise, in
batches that mix references; the largest difference between the two is printed.

Every further row changes what is said in its first column. Deviation is from the pictures of the authors'
arrangement: mean absolute difference of images in [0, 1], and SSIM. With random weights it says little. Rows
take turns, and of all turns the fastest counts. "of product" is the share of this machine's rate for one large
square matrix product in the same precision, by the FLOP counter of torch (two for a multiplication with its
addition, in products and convolutions). Measure on a machine without other work.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from _measure import rate_of_product, seconds_of, table
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.models.attention_processor import Attention
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms.functional import to_tensor

from torchreid_genext.data.poses import draw_skeleton
from torchreid_genext.data.poses.standard import standard_poses
from torchreid_genext.data.synthetic.world import QUERY, shots
from torchreid_genext.data.synthetic.writing import draw_shot
from torchreid_genext.evaluation import quality
from torchreid_genext.generators.ipg import (
    IdentityProjector,
    IPGDenoiser,
    IPGPipeline,
    IPGSampler,
    PoseGuider,
    Sampling,
    TransReID,
    official_scheduler,
)
from torchreid_genext.precision import resolve

STEPS, GUIDANCE = 20, 3.5
# Stable Diffusion 1.5
UNET = {
    "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8,
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
}  # fmt: skip
VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip


class Lever(NamedTuple):
    """A change to the sampling, or of the networks, and how a row is called."""

    name: str
    changes: dict[str, Any]
    tiny_vae: bool = False
    channels_last: bool = True

    @property
    def networks(self) -> tuple[Any, ...]:
        """What sets them apart from those of other rows."""
        return self.changes.get("precision", "fp32"), self.changes.get("compile", False), self.channels_last


def levers(fast: str, *, compiled: bool, official: bool) -> list[Lever]:
    """Of low precision only if `fast` is one; the small pipeline's autoencoder costs nothing."""
    ten = {"precision": fast, "steps": 10}
    rows = [
        Lever("ours, the same pictures", {}),
        Lever("without channels_last", {}, channels_last=False),
        Lever(fast, {"precision": fast}),
        Lever("guidance in steps 1 to 10", {"interval": (0.0, 0.5)}),
        Lever("no guidance", {"guidance": 1.0}),
        Lever("DDIM, 10 steps", {"steps": 10}),
        Lever("UniPC, 10 steps", {"scheduler": "unipc", "steps": 10}),
        Lever("DPM-Solver++, 10 steps", {"scheduler": "dpmsolver++", "steps": 10}),
        Lever(f"{fast}, DPM-Solver++, 10 steps", {"scheduler": "dpmsolver++", **ten}),
        Lever(f"{fast}, DPM-Solver++, 10, no guidance", {"scheduler": "dpmsolver++", "guidance": 1.0, **ten}),
        Lever("compiled", {"compile": True}),
        Lever(f"{fast}, compiled", {"precision": fast, "compile": True}),
    ]
    rows += [Lever("tiny VAE", {}, tiny_vae=True)] if official else []
    rows = [row for row in rows if compiled or "compile" not in row.changes]
    return [row for row in rows if fast != "fp32" or "precision" not in row.changes]


class Task(NamedTuple):
    """People and poses, each person in each pose."""

    people: dict[str, Image.Image]
    poses: dict[str, Image.Image]

    def all(self) -> tuple[list[str], list[str], list[int]]:
        """Person, pose and seed of every picture."""
        pairs = [(person, pose) for person in self.people for pose in self.poses]
        return [p for p, _ in pairs], [p for _, p in pairs], list(range(len(pairs)))


class OfficialAttention:
    """Self-attention as the authors' hooks compute it: all rows see the bank, half of them again do not."""

    def __init__(self) -> None:
        self.bank: Tensor | None = None
        self.writes = False

    def __call__(self, attn: Attention, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        if self.writes:
            self.bank = hidden_states
        if self.writes or self.bank is None:
            return attend(attn, hidden_states, hidden_states)
        found = attend(attn, hidden_states, torch.cat([hidden_states, self.bank], dim=1))
        nobody = hidden_states[: len(hidden_states) // 2]
        return torch.cat([attend(attn, nobody, nobody), found[len(nobody) :]])


def attend(attn: Attention, asking: Tensor, seen: Tensor) -> Tensor:
    q, k, v = (
        layer(x).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        for layer, x in ((attn.to_q, asking), (attn.to_k, seen), (attn.to_v, seen))
    )
    x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return attn.to_out[1](attn.to_out[0](x))


class Official:
    """The authors' arrangement of a pipeline's networks, whose attention it replaces."""

    def __init__(self, pipe: IPGPipeline, sampling: Sampling) -> None:
        self.pipe, self.sampling = pipe, sampling
        self.writer, self.reader = pipe.reference_unet, pipe.denoising_unet
        names = [name for name in self.reader.attn_processors if ".attn1." in name]
        self.writes, self.reads = ({n: OfficialAttention() for n in names} for _ in range(2))
        for unet, ours in ((self.writer, self.writes), (self.reader, self.reads)):
            unet.set_attn_processor(unet.attn_processors | ours)
        for processor in self.writes.values():
            processor.writes = True

    @torch.no_grad()
    def __call__(self, task: Task) -> list[Image.Image]:
        made = []
        for number, person in enumerate(task.people.values()):
            seeds = range(number * len(task.poses), (number + 1) * len(task.poses))
            made += self.images(person, [*task.poses.values()], seeds)
        return made

    def images(self, person: Image.Image, poses: list[Image.Image], seeds: Sequence[int]) -> Any:
        pipe, size = self.pipe, (self.sampling.height, self.sampling.width)
        drawn = pipe.preprocess_poses(poses, *size)
        looked_at = torch.cat([pipe.encoder_input(person)] * len(poses))
        tokens = pipe.identity_tokens(torch.cat([torch.zeros_like(looked_at), looked_at]))
        pictures = torch.cat([pipe.image_processor.preprocess(person, *size)] * len(poses))
        self.look_at(torch.cat([pipe.encode(pictures)] * 2), tokens)
        pose = torch.cat([pipe.pose_guider(drawn)] * 2)
        noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        latents = pipe.prepare_latents(len(poses), *size, noise)
        return pipe.decode(self.denoised(latents, tokens, pose), "pil")

    def look_at(self, latents: Tensor, tokens: Tensor) -> None:
        self.writer(latents, 0, tokens)
        for name, processor in self.reads.items():
            processor.bank = self.writes[name].bank

    def denoised(self, latents: Tensor, tokens: Tensor, pose: Tensor) -> Tensor:
        scheduler = self.pipe.scheduler
        scheduler.set_timesteps(self.sampling.steps, device=latents.device)
        hook = self.reader.conv_in.register_forward_hook(lambda _, __, output: output + pose)
        for step in scheduler.timesteps:
            noisy = torch.cat([latents] * 2).to(tokens.dtype)
            nobody, someone = self.reader(noisy, step, tokens).sample.float().chunk(2)
            found = nobody + self.sampling.guidance * (someone - nobody)
            latents = scheduler.step(found, step, latents).prev_sample
        hook.remove()
        return latents


def copies(pipe: IPGPipeline, rows: Sequence[Lever]) -> dict[tuple[Any, ...], IPGPipeline]:
    """By `Lever.networks`: of official size not all rows could have their own."""
    return {kind: copy.deepcopy(pipe) for kind in dict.fromkeys(row.networks for row in rows)}


def ours(pipe: IPGPipeline, lever: Lever, task: Task, size: dict[str, int], batch: int) -> Callable[[], list]:
    sampling = Sampling(**size | {"steps": STEPS, "guidance": GUIDANCE} | lever.changes)
    pipe = copy.copy(pipe)  # with the same networks, but another scheduler
    if lever.tiny_vae:
        pipe.vae = AutoencoderTiny().to(pipe.device).eval()
    drawn = IPGSampler(pipe, task.poses, sampling, task.people.__getitem__)
    for network in () if lever.channels_last else pipe.components.values():
        if isinstance(network, torch.nn.Module):
            network.to(memory_format=torch.contiguous_format)
    wanted = list(zip(*task.all()))

    def work() -> list[Image.Image]:
        drawn.forget()  # each turn looks at its references
        parts = [wanted[i : i + batch] for i in range(0, len(wanted), batch)]
        return [image for part in parts for image in drawn(*zip(*part))]

    return work


def tensors(images: Sequence[Image.Image]) -> Tensor:
    return torch.stack([to_tensor(image) for image in images])


def official_size(device: torch.device) -> IPGPipeline:
    """Random weights, made where they are used."""
    with device:
        networks = (
            AutoencoderKL(**VAE), IPGDenoiser(UNET), PoseGuider(), IdentityProjector(), TransReID(),
        )  # fmt: skip
    return IPGPipeline(*(network.eval() for network in networks), scheduler=official_scheduler())


def people_and_poses(people: int, poses: int, size: dict[str, int]) -> Task:
    queries = [shot for shot in shots("small", 0) if shot.folder == QUERY][:people]
    shape = (size["height"], size["width"])
    skeletons = [*standard_poses(*shape).items()][:poses]
    return Task(
        {shot.name: draw_shot(shot).image for shot in queries},
        {name: draw_skeleton(pose, shape) for name, pose in skeletons},
    )


def main() -> None:
    arguments = parse_arguments()
    device = torch.device(arguments.device)
    pipe = official_size(device) if arguments.official else IPGPipeline.from_pretrained(arguments.pipeline)
    pipe = pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    height = 512 if arguments.official else pipe.denoising_unet.config.sample_size * pipe.vae_scale_factor
    size = {"height": height, "width": height // 2}
    task = people_and_poses(arguments.people, arguments.poses, size)
    fast = resolve(arguments.fast, device)
    wished = levers(fast, compiled=arguments.compile, official=arguments.official)
    rows = [Lever("authors' arrangement", {}), *wished]
    if arguments.only:
        rows = [
            row
            for row in rows
            if row.name == rows[0].name or any(word in row.name for word in arguments.only)
        ]
    pipes = copies(pipe, rows[1:])
    official = Official(pipe, Sampling(**size, steps=STEPS, guidance=GUIDANCE))
    works = [lambda: official(task)]
    works += [ours(pipes[row.networks], row, task, size, arguments.batch) for row in rows[1:]]
    report(rows, works, device, arguments.turns)


def report(
    rows: Sequence[Lever], works: Sequence[Callable[[], list]], device: torch.device, turns: int
) -> None:
    flops, pictures = [], []
    for work in works:
        with FlopCounterMode(display=False) as counter:
            pictures.append(tensors(work()))
        flops.append(counter.get_total_flops())
    times = [[seconds_of(work, device) for work in works] for _ in range(turns)]
    fastest = [min(each) for each in zip(*times)]
    count = len(pictures[0])
    lines = [["", "images/s", "ratio", "GFLOP/image", "of product", "mean |difference|", "SSIM"]]
    for row, seconds, made, flop in zip(rows, fastest, pictures, flops):
        rate = flop / seconds / rate_of_product(row.changes.get("precision", "fp32"), device)
        lines.append([
            row.name, f"{count / seconds:.3g}", f"{fastest[0] / seconds:.2f}", f"{flop / count / 1e9:.2f}", f"{rate:.1%}",
            f"{(made - pictures[0]).abs().mean():.4f}", f"{quality.ssim(made, pictures[0]).mean():.3f}",
        ])  # fmt: skip
    print(
        f"{count} pictures, {STEPS} steps of DDIM with guidance {GUIDANCE} where nothing else is said, {device}"
    )
    print(table(lines))
    print(f"largest difference of ours: {(pictures[1] - pictures[0]).abs().max() * 255:.0f} grey levels")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pipeline", default="pretrained/synthreid/ipg", help="a saved pipeline")
    parser.add_argument("--official", action="store_true", help="official size, random weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--fast", default="auto", choices=("auto", "bf16", "fp16"),
        help="the low precision (default: bf16 if the device has it, else none)",
    )  # fmt: skip
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--poses", type=int, default=4, help="of each, 1 .. 8")
    parser.add_argument("--batch", type=int, default=32, help="pictures at a time, of ours")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="also torch.compile, minutes of it first")
    parser.add_argument("--only", nargs="+", help="rows that contain one of these words")
    return parser.parse_args()


if __name__ == "__main__":
    main()
