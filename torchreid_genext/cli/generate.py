"""Generate images of people.

IPG (Pose2ID), people of images in other poses:

torchreid-genext generate --dataset synthreid --split query gallery --root reid-data
torchreid-genext generate --dataset market1501 --poses dataset --plan genext.sampling.steps 10
torchreid-genext generate --ckpt_dir pretrained/ipg --pose_dir standard_poses --ref_dir ref --out_dir output
torchreid-genext generate --generator pg2 --dataset synthreid --weights FILE
torchreid-genext generate --generator camstyle --dataset synthreid --weights FILE

The first fills a store, which genext.ipg.root reads; any number of these processes may share one, and one
that was interrupted goes on. --plan only tells what it will cost. The third is the authors' command line: it
writes a strip for each reference. Keys of genext.sampling say which pipeline draws, and how. In the
last two other generators, from torchreid-genext train-gan, fill stores as IPG does; CamStyle's are training
images as other cameras see them.

Generative identity, pictures of what it has learnt:

torchreid-genext generate --generator identity
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from yacs.config import CfgNode

from torchreid_genext import checkpoints, compat, visualization
from torchreid_genext.checkpoints import shipped
from torchreid_genext.cli.parsing import (
    Parser,
    configuration,
    from_zero,
    given_name,
    positive,
    set_up,
)
from torchreid_genext.data.store import ImageStore, check_writable, is_store
from torchreid_genext.data.torchreid_training.datasets import generated_folder
from torchreid_genext.generation import Work, write_manifest
from torchreid_genext.generators.ipg import IPGPipeline
from torchreid_genext.recipes.drawing import exhibition, stores, strips
from torchreid_genext.recipes.drawing.samplers import ADVERSARIAL

_ALWAYS = ("generator", "config_file", "seed", "output", "module", "weights")
_PIPELINE = ("ckpt_dir", "base_model", "vae")
# Of the three things that are done: the options that have a meaning there, besides.
_MODES = {
    "a store": ("dataset", "root", "split", "poses", "limit", "shard", "plan", *_PIPELINE),
    "strips": ("pose_dir", "ref_dir", "rgb_poses", "official", *_PIPELINE),
    "pictures of identity": ("dataset", "root", "split", "people", "noises", "steps", "refine"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Draw what the command line asks for."""
    parser = parser_of_all()
    arguments = parser.parse_args(argv)
    cfg = configuration(arguments)
    mode = mode_of(arguments, cfg)
    check(parser, arguments, cfg, mode)
    set_up(arguments)
    {"a store": fill_store, "strips": draw_strips, "pictures of identity": draw_identities}[mode](
        arguments, cfg
    )


def parser_of_all() -> Parser:
    parser = Parser(__name__, __doc__)
    parser.add_key(
        "--generator", key="genext.generator", choices=("ipg", *ADVERSARIAL, "identity"), help="default: ipg"
    )
    parser.add_argument(
        "-s", "--dataset", "--source", help="any image data set that torchreid knows (identity: synthreid)"
    )
    parser.add_root()
    parser.add_argument("--weights", help="of the generator: file, folder of a pipeline or of a training")
    parser.add_argument(
        "--output", "--out_dir", metavar="FOLDER",
        help="default: <root>/<dataset>_generated/<generator>; of strips output, of identity log/pictures",
    )  # fmt: skip
    parser.add_key(
        "--seed", key="genext.sampling.seed", type=from_zero, help="default: 0; of strips 12580"
    )
    parser.add_argument(
        "--split", nargs="+", choices=("query", "gallery", "train"),
        help="default: query gallery; of CamStyle, which is there for training, train; of identity query",
    )  # fmt: skip
    add_store_options(parser.add_argument_group("a store"), parser)
    add_strip_options(parser.add_argument_group("strips, the authors' command line"))
    add_identity_options(parser.add_argument_group("pictures of identity"))
    return parser


def add_store_options(group: argparse._ArgumentGroup, parser: Parser) -> None:
    parser.add_key(
        "--poses", key="genext.sampling.poses", nargs="+", group=group,
        help="standard: eight, from all sides; standard 1 5; dataset: eight of its own; N random; "
        "of CamStyle camera1 camera3 ... (default: all)",
    )  # fmt: skip
    group.add_argument("--limit", type=positive, help="only so many images of each split")
    group.add_argument(
        "--shard", type=from_zero, nargs=2, metavar=("I", "N"), help="part I, from 0, of N, without claims"
    )
    group.add_argument("--plan", action="store_true", help="tell what it will cost, and stop")


def add_strip_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--ckpt_dir", help="the authors' five .pth files, or a saved pipeline")
    group.add_argument("--pose_dir", help="pictures of skeletons")
    group.add_argument("--ref_dir", help="reference images")
    group.add_argument("--base_model", help="default: <ckpt_dir>/stable-diffusion-v1-5")
    group.add_argument("--vae", help="default: <ckpt_dir>/sd-vae-ft-mse")
    group.add_argument(
        "--rgb_poses", action="store_true", help="skeletons whose red and blue are not swapped"
    )
    group.add_argument(
        "--official", action="store_true", help="with the authors' rounding and order of noise"
    )


def add_identity_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--people", type=positive, default=8, help="rows of a picture")
    group.add_argument("--noises", type=positive, default=8, help="columns of a picture")
    group.add_argument("--steps", type=positive, default=10, help="of the sampler, for reconstructions")
    group.add_argument(
        "--refine", type=from_zero, default=0, help="steps that sharpen the codes of reconstructions"
    )


def mode_of(arguments: argparse.Namespace, cfg: CfgNode) -> str:
    """Which of the three things is to be done."""
    if cfg.genext.generator == "identity":
        return "pictures of identity"
    if arguments.dataset and (arguments.ref_dir or arguments.pose_dir):
        raise ValueError("expected --dataset, for a store, or --ref_dir and --pose_dir, for strips, got both")
    return "a store" if arguments.dataset else "strips"


def check(parser: Parser, arguments: argparse.Namespace, cfg: CfgNode, mode: str) -> None:
    """Refuse what would have no effect, and what is missing."""
    for name in sorted(arguments.given - {*_ALWAYS, *_MODES[mode]}):
        others = " or ".join(other for other, options in _MODES.items() if name in options)
        raise ValueError(
            f"expected options of {mode}, got {given_name(parser, name)}, which belongs to {others}"
        )
    if mode == "strips":
        check_strips(arguments, cfg.genext.generator)
    if mode == "pictures of identity":
        parser.check_read(arguments.keys, ("data.root", "genext.generator", "genext.sampling.seed"), mode)
        if len(arguments.split or ["query"]) > 1:
            raise ValueError(f"expected one --split for {mode}, got {' '.join(arguments.split)}")
    if arguments.shard and arguments.shard[0] >= arguments.shard[1]:
        raise ValueError("expected --shard I N with I in 0..N-1, got {} {}".format(*arguments.shard))


def check_strips(arguments: argparse.Namespace, generator: str) -> None:
    if not (arguments.ref_dir and arguments.pose_dir):
        there = [f"--{name}" for name in ("ref_dir", "pose_dir") if name in arguments.given]
        raise ValueError(
            f"expected --dataset, or --ref_dir with --pose_dir, got {there[0] if there else 'neither'}"
        )
    if generator != "ipg":
        raise ValueError(f"expected --generator ipg for strips, got {generator}")


def fill_store(arguments: argparse.Namespace, cfg: CfgNode) -> None:
    use_weights(arguments, cfg)
    usual = generated_folder(arguments.dataset, cfg.data.root, cfg.genext.generator)
    folder = Path(arguments.output or usual)
    if not arguments.plan:
        check_writable(folder)
    pipe = pipeline_of(arguments, cfg) if cfg.genext.generator == "ipg" else None
    drawing = stores.Drawing(cfg, arguments.dataset, pipe=pipe)
    store = ImageStore(folder) if is_store(folder) else None
    shard = tuple(arguments.shard) if arguments.shard else None
    wanted = wanted_works(arguments, cfg, drawing)
    found = drawing.survey(store, wanted, shard)
    if not found.missing:
        print(f"{folder} holds all {found.present} pictures")
        return
    count = f"{len(drawing.poses)} poses of each image: {len(found.missing):,} pictures to make"
    print(f"{folder}, {count}", flush=True)
    if arguments.plan or drawing.is_worth_a_plan(found):
        print(drawing.plan(found, keep=not arguments.plan), flush=True)
    if not arguments.plan:
        store = store or ImageStore.create(folder)
        print(drawing.fill(store, wanted, found=found, shard=shard))
        print(write_manifest(store))


def use_weights(arguments: argparse.Namespace, cfg: CfgNode) -> None:
    """Let --weights, or of IPG --ckpt_dir, be those of the generator."""
    name, given = cfg.genext.generator, arguments.given & {"weights", "ckpt_dir"}
    key = "genext.sampling.pipeline" if name == "ipg" else f"genext.{name}.weights"
    if len(given) + (key in arguments.keys) > 1:
        raise ValueError(f"expected --weights or --ckpt_dir or {key}, one of them, got {' and '.join(given)}")
    if name != "ipg" and (of_ipg := arguments.given & {"ckpt_dir", "base_model", "vae"}):
        raise ValueError(f"expected --weights of {name}, got --{min(of_ipg)}, which belongs to ipg")
    if given:
        node = cfg.genext.sampling if name == "ipg" else cfg.genext[name]
        node[key.rpartition(".")[2]] = shipped.file(arguments.weights or arguments.ckpt_dir)


def pipeline_of(arguments: argparse.Namespace, cfg: CfgNode) -> IPGPipeline:
    folder = Path(cfg.genext.sampling.pipeline)
    files = {name: getattr(arguments, name) for name in ("base_model", "vae") if name in arguments.given}
    if files and (folder / "model_index.json").is_file():
        raise ValueError(f"expected no --{min(files)} with the saved pipeline in {folder}, which has its own")
    return stores.load_pipeline(cfg, **files)


def wanted_works(arguments: argparse.Namespace, cfg: CfgNode, drawing: stores.Drawing) -> list[Work]:
    dataset = compat.init_image_dataset(arguments.dataset, root=cfg.data.root, verbose=False)
    names = arguments.split or (["train"] if cfg.genext.generator == "camstyle" else ["query", "gallery"])
    splits = {split: [item[0] for item in getattr(dataset, split)] for split in dict.fromkeys(names)}
    wanted = [work for split, paths in splits.items() for work in drawing.works(split, paths)]
    asked = {split: {*paths[: arguments.limit]} for split, paths in splits.items()}
    return [work for work in wanted if work.reference in asked[work.split]]


def draw_strips(arguments: argparse.Namespace, cfg: CfgNode) -> None:
    poses, references = strips.read_folder(arguments.pose_dir), strips.read_folder(arguments.ref_dir)
    use_weights(arguments, cfg)
    pipe = pipeline_of(arguments, cfg)
    how = stores.sampling(cfg, pipe)
    options = {"height": how.height, "width": how.width, "num_inference_steps": how.steps}
    made = strips.write_strips(
        pipe, references, poses, arguments.output or "output", official=arguments.official,
        seed=strip_seed(arguments, cfg), swap_pose_channels=not arguments.rgb_poses,
        guidance_scale=how.guidance, **options,
    )  # fmt: skip
    for path in made:
        print(path)


def strip_seed(arguments: argparse.Namespace, cfg: CfgNode) -> int:
    """The authors' own, unless somebody asks for another."""
    key, seed = "genext.sampling.seed", cfg.genext.sampling.seed
    return seed if key in arguments.keys or key in arguments.standing else seed or strips.OFFICIAL_SEED


def draw_identities(arguments: argparse.Namespace, cfg: CfgNode) -> None:
    weights = shipped.file(arguments.weights) if arguments.weights else str(shipped.PRETRAINED)
    wishes = exhibition.Wishes(
        weights, arguments.dataset or "synthreid", cfg.data.root, (arguments.split or ["query"])[0],
        people=arguments.people, noises=arguments.noises, steps=arguments.steps, refine=arguments.refine,
        seed=cfg.genext.sampling.seed,
    )  # fmt: skip
    for name, draw in exhibition.identity_pictures(wishes):
        begun = time.perf_counter()
        with torch.inference_mode():
            figure = draw()
        path = Path(arguments.output or "log/pictures", f"{name}.png")
        checkpoints.write_bytes(path, visualization.png(figure))
        print(f"{path} in {time.perf_counter() - begun:.1f} s")
