"""Measure IPG against the truth that SynthReID's renderer knows, on people it was not trained on.

python tools/evaluate_ipg.py --root reid-data --sheet docs/ipg.png
python tools/evaluate_ipg.py --root reid-data genext.ipg.sampling.steps 8 genext.ipg.sampling.guidance 1.0

Compared with copying the reference (right person, wrong pose) and with the average image of the pose
(nobody). Identity is judged by the shipped OSNet, trained on other people of the same world, or --judge.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Generator, Tensor
from torchvision.transforms.functional import to_pil_image
from yacs.config import CfgNode

import torchreid_genext as genext
from torchreid_genext import checkpoints, compat, config
from torchreid_genext.data.memory import load_images
from torchreid_genext.extraction import Encoder
from torchreid_genext.generators.ipg.sampler import prepare
from torchreid_genext.recipes import ipg_images, ipg_truth
from torchreid_genext.retrieval.protocol import RetrievalSet

SHIPPED = Path(__file__).resolve().parent.parent / "pretrained/synthreid"


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    genext.register()
    cfg = config.load_config("", arguments.opts, root=arguments.root)
    folder = compat.image_dataset_folder(arguments.dataset, arguments.root)
    trial = ipg_truth.Trial.of(folder, arguments.people)
    judges = [judge(name) for name in arguments.judge]
    galleries = [searched(arguments, encode) for encode in judges]
    begun = time.perf_counter()
    made = ipg_truth.generate(trial, drawer(cfg), batch=cfg.genext.ipg.sampling.batch_size)
    seconds = (time.perf_counter() - begun) / made[..., 0, 0, 0].numel()
    candidates = {
        "IPG": made,
        "the reference": trial.references[:, None].expand_as(made),
        "average of the pose": ipg_truth.average_images(folder)[None].expand_as(made),
        "the truth": trial.truths,
    }
    report(candidates, trial, judges, galleries, arguments.judge)
    print(f"{len(made)} people in {made.shape[1]} poses, {1 / seconds:.2f} images/s")
    if arguments.sheet:
        picture = ipg_truth.sheet(trial, made).quantize(160, dither=Image.Dither.NONE)
        Path(arguments.sheet).parent.mkdir(parents=True, exist_ok=True)
        picture.save(arguments.sheet, optimize=True)
        print(arguments.sheet)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", default="reid-data", help="folder that holds the data sets")
    parser.add_argument("--dataset", default="synthreid", help="a SynthReID")
    parser.add_argument("--people", type=int, default=100, help="test people, one image of each")
    parser.add_argument(
        "--judge", action="append", metavar="NAME@FILE", help="torchreid model and weights; may be repeated"
    )
    parser.add_argument("--sheet", metavar="FILE", help="draw references, truths and generated images")
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, help="further keys: genext.ipg.sampling.steps 8 ..."
    )
    arguments = parser.parse_args(argv)
    arguments.judge = arguments.judge or [f"osnet_x0_25@{SHIPPED / 'osnet_x0_25.safetensors'}"]
    return arguments


def judge(name: str) -> Encoder:
    model, _, weights = name.partition("@")
    network = compat.build_model(model, 1)
    checkpoints.load_weights(network, weights, ignore=("classifier",))
    height, width = getattr(network, "image_size", (128, 64))
    return Encoder(network.eval(), model, height=height, width=width)


def features(encode: Encoder, images: Tensor) -> Tensor:
    """Of images (B, 3, H, W) in [0, 1]."""
    size = (encode.height, encode.width)
    resized = torch.nn.functional.interpolate(images, size, mode="bilinear", antialias=True)
    levels = (resized * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    with torch.inference_mode():
        return torch.cat([encode(part) for part in levels.split(64)])


def searched(arguments: argparse.Namespace, encode: Encoder) -> RetrievalSet:
    images = load_images(arguments.dataset, arguments.root, height=128, width=64, split="gallery")
    return RetrievalSet(features(encode, images.images.float() / 255), images.pids, images.camids)


def drawer(cfg: CfgNode) -> Callable[[Tensor, Tensor, list[Generator]], Tensor]:
    pipe = ipg_images.load_pipeline(cfg)
    options = prepare(pipe, ipg_images.sampling(cfg, pipe))

    def draw(people: Tensor, skeletons: Tensor, noise: list[Generator]) -> Tensor:
        pictures = [to_pil_image(person) for person in people]
        return pipe(pictures, skeletons, generator=noise, output_type="pt", **options).images.cpu()

    return draw


def report(
    candidates: dict[str, Tensor], trial: ipg_truth.Trial, judges: Sequence[Encoder],
    galleries: Sequence[RetrievalSet], names: Sequence[str],
) -> None:  # fmt: skip
    for encode, gallery, name in zip(judges, galleries, names):
        print(f"\njudge: {name}\n{'':>20} {'L1':>7} {'PSNR':>7} {'SSIM':>7} {'cosine':>7} {'rank-1':>7}")
        for what, images in candidates.items():
            found = ipg_truth.score(images, trial, gallery, lambda x, encode=encode: features(encode, x))
            told = f"{found.l1:7.4f} {found.psnr:7.2f} {found.ssim:7.4f} {found.similarity:7.4f}"
            print(f"{what:>20} {told} {100 * found.rank1:7.2f}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
