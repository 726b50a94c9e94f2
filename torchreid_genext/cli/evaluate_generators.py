"""Measure generators against the truth, of a renderer or of photographs, on people they were not trained on.

torchreid-genext evaluate-generators --root reid-data --sheet docs/ipg.png
torchreid-genext evaluate-generators --generators ipg pg2 deformable --size 64 32
torchreid-genext evaluate-generators --generators camstyle
torchreid-genext evaluate-generators --dataset market1501 --pairs market-pairs-test.csv --generators pg2
    genext.pg2.weights FILE genext.joints "['market-annotation-test.csv']"

With --pairs photographs of real people are the truth: PG2's and the Deformable GAN's own similarities, L1 of
images in [-1, 1], and a judge who has never seen the two images of the pair.

Generators of poses are compared with copying the reference (right person, wrong pose) and with the average
image of the pose (nobody); CamStyle, which has a table of its own, with the image as it was. Identity is
judged by the shipped OSNet, trained on other people of the same world, or --judge. What draws, and how, is
said by keys: genext.sampling.steps 8, genext.pg2.weights FILE and the like.
"""

from __future__ import annotations

import argparse
import functools
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image
from torch import Generator, Tensor, nn
from torchvision.transforms.functional import to_pil_image
from yacs.config import CfgNode

from torchreid_genext import checkpoints, compat
from torchreid_genext.backbones import loading
from torchreid_genext.backbones.card import Preprocessing
from torchreid_genext.backbones.spec import Backbone
from torchreid_genext.checkpoints import shipped
from torchreid_genext.cli.parsing import Parser, configuration, positive, refuse, set_up
from torchreid_genext.data.images.in_memory import ImageTensor, load_images
from torchreid_genext.data.poses import draw_skeleton
from torchreid_genext.data.poses.datasets import read_dataset_poses
from torchreid_genext.evaluation import camera_truth, pairs, synthetic_truth
from torchreid_genext.extraction import Encoder
from torchreid_genext.generators.ipg.sampler import prepare
from torchreid_genext.precision import autocast, resolve
from torchreid_genext.recipes.drawing import stores
from torchreid_genext.recipes.drawing.samplers import ADVERSARIAL, load_generator
from torchreid_genext.retrieval.protocol import RetrievalSet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {"ipg": "IPG", "pg2": "PG2", "deformable": "Deformable GAN"}
POSE_COLUMNS = ("L1", "PSNR", "SSIM", "masked", "cosine", "rank-1")
PAIR_COLUMNS = ("SSIM PG2", "masked", "SSIM Def", "masked", "L1", "cosine", "rank-1")
CAMERA_COLUMNS = ("colours", "of people", "L1", "cosine", "rank-1")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the generators that the command line names."""
    arguments = parse_arguments(argv)
    cfg = configuration(arguments)
    use_weights(arguments, cfg)
    set_up(arguments)
    if arguments.pairs:
        evaluate_pairs(cfg, arguments)
        return
    judges = [Judge.of(name, cfg, arguments) for name in arguments.judge]
    if of_poses := [name for name in arguments.generators if name != "camstyle"]:
        evaluate_poses(cfg, arguments, of_poses, judges)
    if "camstyle" in arguments.generators:
        evaluate_cameras(cfg, arguments, judges)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__name__, __doc__)
    parser.add_argument(
        "--generators", "--generator", nargs="+", default=["ipg"], choices=("ipg", *ADVERSARIAL),
        metavar="NAME", help=f"of ipg, {', '.join(ADVERSARIAL)} (default: ipg)",
    )  # fmt: skip
    parser.add_root()
    parser.add_argument(
        "-s", "--dataset", default="synthreid", help="a SynthReID; with --pairs any image data set"
    )
    parser.add_argument("--pairs", metavar="CSV", help="from,to: images of the test split, given and wanted")
    parser.add_argument("--limit", type=positive, help="so many pairs, evenly chosen")
    parser.add_argument("--weights", help="of the generator, if it is one: file, or folder of a pipeline")
    parser.add_argument("--people", type=positive, help="test people, one image of each (default: up to 100)")
    parser.add_argument("--averaged", type=positive, default=100, help="training images in an average image")
    parser.add_argument(
        "--size", type=positive, nargs=2, metavar=("HEIGHT", "WIDTH"),
        help="to which pictures in poses are reduced before pixels are compared (default: that of the truth)",
    )  # fmt: skip
    parser.add_argument(
        "--judge", action="append", metavar="NAME@FILE[@HEIGHTxWIDTH]",
        help="torchreid model, its weights and size; may be repeated",
    )  # fmt: skip
    parser.add_argument("--sheet", metavar="FILE", help="draw references, truths and generated images")
    parser.add_argument("--shown", type=positive, default=4, help="people in it")
    arguments = parser.parse_args(argv)
    if not arguments.sheet:
        refuse(parser, arguments, ["shown"], "without --sheet")
    if arguments.pairs:
        refuse(parser, arguments, ("people", "averaged", "size", "sheet"), "with --pairs")
        if "camstyle" in arguments.generators:
            raise ValueError("expected generators of poses with --pairs, got camstyle")
    else:
        refuse(parser, arguments, ["limit"], "without --pairs")
    if arguments.generators == ["camstyle"]:
        refuse(parser, arguments, ("averaged", "size"), "for camstyle, which has no poses")
    weights = shipped.PRETRAINED / "osnet_x0_25.safetensors"
    arguments.judge = shipped.located(arguments.judge) or [f"osnet_x0_25@{weights}"]
    return arguments


def use_weights(arguments: argparse.Namespace, cfg: CfgNode) -> None:
    """Let --weights be those of the one generator."""
    if not arguments.weights:
        return
    name, *others = arguments.generators
    key = "genext.sampling.pipeline" if name == "ipg" else f"genext.{name}.weights"
    if others or key in arguments.keys:
        rule = "expected --weights for one of --generators, whose key is not there"
        raise ValueError(f"{rule}, got {' '.join(arguments.generators)}; keys: genext.<name>.weights")
    node = cfg.genext.sampling if name == "ipg" else cfg.genext[name]
    node[key.rpartition(".")[2]] = shipped.file(arguments.weights)


def people_of(trial: Any, arguments: argparse.Namespace) -> int:
    """How many people there are; those whom somebody asks for must be there."""
    found = len(set(trial.pids.tolist()))
    if arguments.people and arguments.people > found:
        raise ValueError(f"expected --people in 1..{found} of {arguments.dataset}, got {arguments.people}")
    return found


class Judge(NamedTuple):
    """Who says whether it is the same person, and the real images that are searched."""

    name: str
    encoder: Encoder
    images: ImageTensor
    gallery: RetrievalSet

    @classmethod
    def of(cls, name: str, cfg: CfgNode, arguments: argparse.Namespace) -> Judge:
        images = load_images(arguments.dataset, cfg.data.root, height=128, width=64, split="gallery")
        encoder = encoder_of(name)
        features = encoded(encoder, images.images.float() / 255)
        return cls(name, encoder, images, RetrievalSet(features, images.pids, images.camids))

    def features(self, images: Tensor) -> Tensor:
        return encoded(self.encoder, images)


def encoder_of(name: str) -> Encoder:
    """Of a judge; where nobody says what it sees, that is the size that its network is made for, or 128 x 64."""
    backbone = Backbone.parse(name).with_card()
    seen = backbone.preprocessing(Preprocessing(128, 64))
    told = backbone.size or backbone.card.preprocessing
    network = loading.load(backbone, seen.size if told else None)
    height, width = seen.size if told else getattr(network, "image_size", seen.size)
    seen = replace(seen, height=height, width=width)
    return Encoder(network.eval(), backbone.name, **loading.seeing(seen, backbone))


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
    folder = compat.image_dataset_folder(arguments.dataset, cfg.data.root)
    trial = synthetic_truth.Trial.of(folder, arguments.people or 100)
    people_of(trial, arguments)
    made, costs = {}, []
    for name in names:
        made[TITLES[name]], cost = drawn(cfg, name, trial)
        costs.append(f"{TITLES[name]}: {cost}")
    candidates = {
        **made,
        "the reference": trial.references[:, None].expand_as(trial.truths),
        "average of the pose": synthetic_truth.average_images(folder, arguments.averaged)[None].expand_as(
            trial.truths
        ),
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
    paint, parameters = painter(cfg, name, trial.truths.shape[-2:])

    def draw(people: Tensor, poses: Tensor, noise: list[Generator]) -> Tensor:
        points = trial.keypoints[people], trial.targets[people, poses]
        return paint(trial.references[people], *points, noise, trial.skeletons[people, poses])

    begun = time.perf_counter()
    made = synthetic_truth.generate(trial, draw, batch=cfg.genext.sampling.batch_size)
    rate = made[..., 0, 0, 0].numel() / (time.perf_counter() - begun)
    return made, f"{rate:.2f} images/s, {parameters / 1e6:.2f} million parameters"


def painter(cfg: CfgNode, name: str, full: tuple[int, int]) -> tuple[Callable[..., Tensor], int]:
    """What paints images (B, 3, *full) of people with joints in the pose of others, and its parameters."""
    return ipg_painter(cfg, full) if name == "ipg" else adversarial_painter(cfg, name, full)


def ipg_painter(cfg: CfgNode, full: tuple[int, int]) -> tuple[Callable[..., Tensor], int]:
    pipe = stores.load_pipeline(cfg)
    options = prepare(pipe, stores.sampling(cfg, pipe))

    def paint(
        images: Tensor, joints: Tensor, targets: Tensor, noise: list[Generator], drawn: Tensor | None = None
    ) -> Tensor:
        pictures = [to_pil_image(person) for person in images]
        if drawn is None:
            drawn = [draw_skeleton(each.numpy(), full, style=pipe.config.pose_style) for each in targets]
        return pipe(pictures, drawn, generator=noise, output_type="pt", **options).images.cpu()

    networks = [each for each in pipe.components.values() if isinstance(each, nn.Module)]
    return paint, sum(map(parameters_of, networks))


def adversarial_painter(cfg: CfgNode, name: str, full: tuple[int, int]) -> tuple[Callable[..., Tensor], int]:
    generator = loaded(cfg, name)
    size = generator.image_size

    def paint(
        images: Tensor, joints: Tensor, targets: Tensor, noise: list[Generator], drawn: Tensor | None = None
    ) -> Tensor:
        points = [synthetic_truth.at_size(each, full, size) for each in (joints, targets)]
        inputs = (synthetic_truth.resized(images, size) * 2 - 1, *points)
        return synthetic_truth.resized(generated(cfg, generator, *inputs, generators=noise), full)

    return paint, parameters_of(generator)


def evaluate_pairs(cfg: CfgNode, arguments: argparse.Namespace) -> None:
    """The papers' tables on photographs, with rows that say what these numbers are worth."""
    load = functools.partial(load_images, arguments.dataset, cfg.data.root, height=128, width=64)
    names = pairs.read_pairs(arguments.pairs)
    names = names[:: max(1, len(names) // (arguments.limit or len(names)))][: arguments.limit]
    joints = read_dataset_poses(arguments.dataset, cfg.data.root, cfg.genext.joints)
    trial = pairs.PairTrial.of(load(split="gallery"), joints, names)
    made, costs = {}, []
    for name in arguments.generators:
        made[TITLES[name]], cost = drawn_pairs(cfg, name, trial)
        costs.append(f"{TITLES[name]}: {cost}")
    candidates = made | pairs.baselines(trial, load(split="train").images.float().mean(0) / 255)
    scores = {what: astuple(pairs.score(images, trial)) for what, images in candidates.items()}
    for judge in arguments.judge:
        encoder = encoder_of(judge)
        known = pairs.Judge.of(functools.partial(encoded, encoder), trial)
        judged = {what: pairs.identity(images, trial, known) for what, images in candidates.items()}
        show(judge, PAIR_COLUMNS, {what: (*scores[what], *judged[what]) for what in candidates})
    print(f"\n{len(trial):,} pairs of {len(trial.pids[trial.target].unique())} people", *costs, sep="\n")


def drawn_pairs(cfg: CfgNode, name: str, trial: pairs.PairTrial) -> tuple[Tensor, str]:
    """What a generator makes of pairs, and what it costs."""
    full = trial.images.shape[-2:]
    paint, parameters = painter(cfg, name, full)
    begun = time.perf_counter()
    draw = lambda *inputs: synthetic_truth.resized(paint(*inputs), full)  # noqa: E731
    made = trial.drawn(draw, batch=cfg.genext.sampling.batch_size, seed=cfg.genext.sampling.seed)
    rate = len(made) / (time.perf_counter() - begun)
    return made, f"{rate:.2f} images/s, {parameters / 1e6:.2f} million parameters"


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
    folder = compat.image_dataset_folder(arguments.dataset, cfg.data.root)
    trial = camera_truth.CameraTrial.of(folder, arguments.people or 100, generator.cameras)
    people, full = people_of(trial, arguments), trial.images.shape[-2:]

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
    print(f"\n{people} people, {len(made)} changes of camera\nCamStyle: {cost}")
    if arguments.sheet:
        path = Path(arguments.sheet)
        save_sheet(camera_truth.sheet(trial, made, arguments.shown), path.with_stem(f"{path.stem}_camstyle"))


def show(judge: str, columns: Sequence[str], scores: dict[str, Any]) -> None:
    """A row for each candidate; the last column is a share."""
    print(f"\njudge: {judge}\n{'':>20} " + " ".join(f"{name:>9}" for name in columns))
    for what, found in scores.items():
        *values, share = found if isinstance(found, tuple) else astuple(found)
        print(f"{what:>20} " + " ".join(f"{value:9.4f}" for value in values) + f" {100 * share:9.2f}")


def save_sheet(figure: Figure, path: str | Path) -> None:
    """As a PNG of few colours, which is a third as large; a pixel of an image is one of the page."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=100)
    page = Image.open(drawn).convert("RGB").quantize(160, dither=Image.Dither.NONE)
    with checkpoints.atomic_path(path) as temporary:
        page.save(temporary, format="PNG", optimize=True)
    print(path)
