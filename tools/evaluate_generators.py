"""Measure generators against the truth that SynthReID's renderer knows, on people they were not trained on.

python tools/evaluate_generators.py --root reid-data --sheet docs/ipg.png
python tools/evaluate_generators.py --generators ipg pg2 deformable --size 64 32
python tools/evaluate_generators.py --generators camstyle

Generators of poses are compared with copying the reference (right person, wrong pose) and with the average
image of the pose (nobody); CamStyle, which has a table of its own, with the image as it was. Identity is
judged by the shipped OSNet, trained on other people of the same world, or --judge. What draws, and how, is
said by keys: genext.sampling.steps 8, genext.pg2.weights FILE and the like.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image
from torch import Generator, Tensor, nn
from torchvision.transforms.functional import to_pil_image
from yacs.config import CfgNode

import torchreid_genext as genext
from torchreid_genext import checkpoints, compat, config
from torchreid_genext.benchmark.settings import Backbone
from torchreid_genext.data.images.in_memory import ImageTensor, load_images
from torchreid_genext.evaluation import camera_truth, synthetic_truth
from torchreid_genext.extraction import Encoder
from torchreid_genext.generators.ipg.sampler import prepare
from torchreid_genext.precision import autocast, resolve
from torchreid_genext.recipes.drawing import stores
from torchreid_genext.recipes.drawing.samplers import ADVERSARIAL, load_generator
from torchreid_genext.retrieval.protocol import RetrievalSet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHIPPED = Path(__file__).resolve().parent.parent / "pretrained/synthreid"
TITLES = {"ipg": "IPG", "pg2": "PG2", "deformable": "Deformable GAN"}
POSE_COLUMNS = ("L1", "PSNR", "SSIM", "masked", "cosine", "rank-1")
CAMERA_COLUMNS = ("colours", "of people", "L1", "cosine", "rank-1")


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    genext.register()
    cfg = config.load_config(arguments.config_file, arguments.opts, root=arguments.root)
    judges = [Judge.of(name, arguments) for name in arguments.judge]
    if of_poses := [name for name in arguments.generators if name != "camstyle"]:
        evaluate_poses(cfg, arguments, of_poses, judges)
    if "camstyle" in arguments.generators:
        evaluate_cameras(cfg, arguments, judges)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--generators", nargs="+", default=["ipg"], choices=("ipg", *ADVERSARIAL), metavar="NAME",
        help=f"of ipg, {', '.join(ADVERSARIAL)} (default: ipg)",
    )  # fmt: skip
    parser.add_argument("--root", default="reid-data", help="folder that holds the data sets")
    parser.add_argument("--dataset", default="synthreid", help="a SynthReID")
    parser.add_argument("--people", type=int, default=100, help="test people, one image of each")
    parser.add_argument("--averaged", type=int, default=100, help="training images in an average image")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"),
        help="to which pictures in poses are reduced before pixels are compared (default: that of the truth)",
    )  # fmt: skip
    parser.add_argument(
        "--judge", action="append", metavar="NAME@FILE[@HEIGHTxWIDTH]",
        help="torchreid model, its weights and size; may be repeated",
    )  # fmt: skip
    parser.add_argument("--sheet", metavar="FILE", help="draw references, truths and generated images")
    parser.add_argument("--shown", type=int, default=4, help="people in it")
    parser.add_argument("--config-file", default="", help="YAML file of keys that differ from the defaults")
    parser.add_argument("opts", nargs="*", help="further keys, last: genext.sampling.steps 8 ...")
    words, keys = config.split_options(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(words)
    arguments.opts = keys
    arguments.judge = arguments.judge or [f"osnet_x0_25@{SHIPPED / 'osnet_x0_25.safetensors'}"]
    return arguments


class Judge(NamedTuple):
    """Who says whether it is the same person, and the real images that are searched."""

    name: str
    encoder: Encoder
    images: ImageTensor
    gallery: RetrievalSet

    @classmethod
    def of(cls, name: str, arguments: argparse.Namespace) -> Judge:
        images = load_images(arguments.dataset, arguments.root, height=128, width=64, split="gallery")
        encoder = encoder_of(name)
        features = encoded(encoder, images.images.float() / 255)
        return cls(name, encoder, images, RetrievalSet(features, images.pids, images.camids))

    def features(self, images: Tensor) -> Tensor:
        return encoded(self.encoder, images)


def encoder_of(name: str) -> Encoder:
    backbone = Backbone.parse(name)
    network = compat.build_model(backbone.name, 1)
    checkpoints.load_weights(network, backbone.weights, ignore=("classifier",))
    height, width = backbone.size or getattr(network, "image_size", (128, 64))
    return Encoder(network.eval(), backbone.name, height=height, width=width)


def encoded(encoder: Encoder, images: Tensor) -> Tensor:
    """Of images (B, 3, H, W) in [0, 1]."""
    size = (encoder.height, encoder.width)
    resized = torch.nn.functional.interpolate(images, size, mode="bilinear", antialias=True)
    levels = (resized * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    with torch.inference_mode():
        return torch.cat([encoder(part) for part in levels.split(64)])


def evaluate_poses(
    cfg: CfgNode, arguments: argparse.Namespace, names: Sequence[str], judges: Sequence[Judge]
) -> None:
    folder = compat.image_dataset_folder(arguments.dataset, arguments.root)
    trial = synthetic_truth.Trial.of(folder, arguments.people)
    made, costs = {}, []
    for name in names:
        made[TITLES[name]], cost = drawn(cfg, name, trial)
        costs.append(f"{TITLES[name]}: {cost}")
    candidates = {
        **made,
        "the reference": trial.references[:, None].expand_as(trial.truths),
        "average of the pose": synthetic_truth.average_images(folder, arguments.averaged)[None].expand_as(trial.truths),
        "the truth": trial.truths,
    }
    size = tuple(arguments.size) if arguments.size else None
    for judge in judges:
        judged = (trial, judge.gallery, judge.features)
        scores = {what: synthetic_truth.score(each, *judged, size=size) for what, each in candidates.items()}
        show(judge.name, POSE_COLUMNS, scores)
    print(f"\n{len(trial.pids)} people in {trial.truths.shape[1]} poses", *costs, sep="\n")
    if arguments.sheet:
        save_sheet(synthetic_truth.sheet(trial, made, arguments.shown), arguments.sheet)


def drawn(cfg: CfgNode, name: str, trial: synthetic_truth.Trial) -> tuple[Tensor, str]:
    """What a generator makes, and what it costs."""
    draw, parameters = ipg_drawer(cfg, trial) if name == "ipg" else adversarial_drawer(cfg, name, trial)
    begun = time.perf_counter()
    made = synthetic_truth.generate(trial, draw, batch=cfg.genext.sampling.batch_size)
    rate = made[..., 0, 0, 0].numel() / (time.perf_counter() - begun)
    return made, f"{rate:.2f} images/s, {parameters / 1e6:.2f} million parameters"


def ipg_drawer(cfg: CfgNode, trial: synthetic_truth.Trial) -> tuple[synthetic_truth.Draw, int]:
    pipe = stores.load_pipeline(cfg)
    options = prepare(pipe, stores.sampling(cfg, pipe))

    def draw(people: Tensor, poses: Tensor, noise: list[Generator]) -> Tensor:
        pictures = [to_pil_image(person) for person in trial.references[people]]
        skeletons = trial.skeletons[people, poses]
        return pipe(pictures, skeletons, generator=noise, output_type="pt", **options).images.cpu()

    networks = [each for each in pipe.components.values() if isinstance(each, nn.Module)]
    return draw, sum(map(parameters_of, networks))


def adversarial_drawer(cfg: CfgNode, name: str, trial: synthetic_truth.Trial) -> tuple[synthetic_truth.Draw, int]:
    generator, full = loaded(cfg, name), trial.truths.shape[-2:]
    size = generator.image_size

    def draw(people: Tensor, poses: Tensor, noise: list[Generator]) -> Tensor:
        images = synthetic_truth.resized(trial.references[people], size) * 2 - 1
        points = [trial.keypoints[people], trial.targets[people, poses]]
        inputs = (images, *(synthetic_truth.at_size(each, full, size) for each in points))
        return synthetic_truth.resized(generated(cfg, generator, *inputs, generators=noise), full)

    return draw, parameters_of(generator)


def loaded(cfg: CfgNode, name: str) -> Any:
    cfg = cfg.clone()
    cfg.genext.generator = name
    return load_generator(cfg).to(stores.fastest_device())


def generated(cfg: CfgNode, generator: Any, *inputs: Tensor, **options: Any) -> Tensor:
    """In [0, 1], on the CPU."""
    device = next(generator.parameters()).device
    with autocast(resolve(cfg.genext.sampling.precision, device), device):
        made = generator.generate(*(each.to(device) for each in inputs), **options)
    return (made.float().cpu() + 1) / 2


def parameters_of(network: nn.Module) -> int:
    return sum(each.numel() for each in network.parameters())


def evaluate_cameras(cfg: CfgNode, arguments: argparse.Namespace, judges: Sequence[Judge]) -> None:
    generator = loaded(cfg, "camstyle")
    folder = compat.image_dataset_folder(arguments.dataset, arguments.root)
    trial = camera_truth.CameraTrial.of(folder, arguments.people, generator.cameras)
    full = trial.images.shape[-2:]

    def draw(images: Tensor, source: Tensor, target: Tensor) -> Tensor:
        inputs = (synthetic_truth.resized(images, generator.image_size) * 2 - 1, source, target)
        return synthetic_truth.resized(generated(cfg, generator, *inputs), full)

    begun = time.perf_counter()
    made = camera_truth.restyle(trial, draw)
    rate = len(made) / (time.perf_counter() - begun)
    candidates = {"as it was": trial.images, "CamStyle": made, "the truth": trial.truths}
    for judge in judges:
        real = (judge.images.images.float() / 255, judge.images.camids)
        judged = (trial, real, judge.gallery, judge.features)
        scores = {what: camera_truth.score(each, *judged) for what, each in candidates.items()}
        show(judge.name, CAMERA_COLUMNS, scores)
    cost = f"{rate:.2f} images/s, {parameters_of(generator) / 1e6:.2f} million parameters"
    print(f"\n{len(trial.pids.unique())} people, {len(made)} changes of camera\nCamStyle: {cost}")
    if arguments.sheet:
        path = Path(arguments.sheet)
        save_sheet(camera_truth.sheet(trial, made, arguments.shown), path.with_stem(f"{path.stem}_camstyle"))


def show(judge: str, columns: Sequence[str], scores: dict[str, Any]) -> None:
    """A row for each candidate; the last column is a share."""
    print(f"\njudge: {judge}\n{'':>20} " + " ".join(f"{name:>9}" for name in columns))
    for what, found in scores.items():
        *values, share = astuple(found)
        print(f"{what:>20} " + " ".join(f"{value:9.4f}" for value in values) + f" {100 * share:9.2f}")


def save_sheet(figure: Figure, path: str | Path) -> None:
    """As a PNG of few colours, which is a third as large; a pixel of an image is one of the page."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=100)
    page = Image.open(drawn).convert("RGB").quantize(160, dither=Image.Dither.NONE)
    with checkpoints.atomic_path(path) as temporary:
        page.save(temporary, format="PNG", optimize=True)
    print(path)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
