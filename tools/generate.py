"""Generate images of people.

IPG (Pose2ID), people of images in other poses:

python tools/generate.py --dataset synthreid --split query gallery --root reid-data
python tools/generate.py --dataset market1501 --poses dataset --plan genext.sampling.steps 10
python tools/generate.py --ckpt_dir pretrained/ipg --pose_dir standard_poses --ref_dir ref --out_dir output
python tools/generate.py --generator pg2 --dataset synthreid genext.pg2.weights FILE
python tools/generate.py --generator camstyle --dataset synthreid genext.camstyle.weights FILE

The first fills a store, which genext.ipg.root reads; any number of these processes may share one, and one
that was interrupted goes on. --plan only tells what it will cost. The third is the authors' command line: it
writes a strip for each reference. Keys of genext.sampling say which pipeline draws, and how. In the
last two other generators, from tools/train_gan.py, fill stores as IPG does; CamStyle's are training images as
other cameras see them.

Generative identity, pictures of what it has learnt:

python tools/generate.py --generator identity
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from yacs.config import CfgNode

import torchreid_genext as genext
from torchreid_genext import checkpoints, compat, config
from torchreid_genext.data.store import ImageStore, check_writable, is_store
from torchreid_genext.data.torchreid_training.datasets import generated_folder
from torchreid_genext.generation import Work, write_manifest
from torchreid_genext.generators.ipg import IPGPipeline, load_any
from torchreid_genext.recipes.drawing import exhibition, stores, strips
from torchreid_genext.recipes.drawing.samplers import ADVERSARIAL

SHIPPED = Path(__file__).resolve().parent.parent / "pretrained/synthreid"


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    genext.register()
    if arguments.generator == "identity":
        draw_identities(arguments)
    elif arguments.ref_dir:
        draw_strips(arguments)
    else:
        fill_store(arguments)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--generator", choices=("ipg", *ADVERSARIAL, "identity"), help="default: ipg")
    parser.add_argument("--root", default="reid-data", help="folder that holds the data sets")
    parser.add_argument("--seed", type=int, help="of all noise (default: 0; of strips 12580)")
    add_store_arguments(parser.add_argument_group("into a store"))
    add_strip_arguments(parser.add_argument_group("IPG, the authors' command line"))
    add_identity_arguments(parser.add_argument_group("identity"))
    parser.add_argument("opts", nargs="*", help="further keys, last: genext.sampling.steps 10 ...")
    words, keys = config.split_options(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(words)
    arguments.opts = keys
    if arguments.generator != "identity" and not (arguments.dataset or arguments.ref_dir):
        parser.error("expected --dataset, or --ref_dir with --pose_dir, got neither")
    return arguments


def add_store_arguments(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--dataset", help="any image data set that torchreid knows")
    parser.add_argument(
        "--split", nargs="+", choices=("query", "gallery", "train"),
        help="default: query gallery; of CamStyle, which is there for training, train",
    )  # fmt: skip
    parser.add_argument(
        "--poses", nargs="+", default=["standard"],
        help="standard: eight, from all sides; standard 1 5; dataset: eight of its own; N random; "
        "of CamStyle camera1 camera3 ... (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--out_dir", help="store (default: <root>/<dataset>_generated/<generator>), or of strips"
    )
    parser.add_argument("--config-file", default="", help="YAML file of keys that differ from the defaults")
    parser.add_argument("--limit", type=int, help="only so many images of each split")
    parser.add_argument(
        "--shard", type=int, nargs=2, metavar=("I", "N"), help="the I-th part of N, without claims"
    )
    parser.add_argument("--plan", action="store_true", help="tell what it will cost, and stop")


def add_strip_arguments(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--ckpt_dir", help="the authors' five .pth files, or a saved pipeline")
    parser.add_argument("--pose_dir", help="pictures of skeletons")
    parser.add_argument("--ref_dir", help="reference images")
    parser.add_argument("--base_model", help="default: <ckpt_dir>/stable-diffusion-v1-5")
    parser.add_argument("--vae", help="default: <ckpt_dir>/sd-vae-ft-mse")
    parser.add_argument(
        "--rgb_poses", action="store_true", help="skeletons whose red and blue are not swapped"
    )
    parser.add_argument(
        "--official", action="store_true", help="with the authors' rounding and order of noise"
    )


def add_identity_arguments(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--weights", default=str(SHIPPED), help="folder of a training, or of its results")
    parser.add_argument("-s", "--source", default="synthreid", help="data set whose people are drawn")
    parser.add_argument("--output", default="log/pictures", help="folder of the pictures")
    parser.add_argument("--people", type=int, default=8, help="rows of a picture")
    parser.add_argument("--noises", type=int, default=8, help="columns of a picture")
    parser.add_argument("--steps", type=int, default=10, help="of the sampler, for reconstructions")
    parser.add_argument(
        "--refine", type=int, default=0, help="steps that sharpen the codes of reconstructions"
    )


def fill_store(arguments: argparse.Namespace) -> None:
    cfg = configured(arguments)
    usual = generated_folder(arguments.dataset, arguments.root, cfg.genext.generator)
    folder = Path(arguments.out_dir or usual)
    if not arguments.plan:
        check_writable(folder)
    drawing = stores.Drawing(cfg, arguments.dataset)
    store = ImageStore(folder) if is_store(folder) else None
    shard = tuple(arguments.shard) if arguments.shard else None
    wanted = wanted_works(arguments, drawing)
    found = drawing.survey(store, wanted, shard)
    if not found.missing:
        print(f"{folder} holds all {found.present} pictures")
        return
    print(f"{folder}, {len(drawing.poses)} poses of each image: {len(found.missing):,} pictures to make", flush=True)
    if arguments.plan or drawing.is_worth_a_plan(found):
        print(drawing.plan(found, keep=not arguments.plan), flush=True)
    if not arguments.plan:
        store = store or ImageStore.create(folder)
        print(drawing.fill(store, wanted, found=found, shard=shard))
        print(write_manifest(store))


def configured(arguments: argparse.Namespace) -> CfgNode:
    cfg = config.load_config(arguments.config_file, arguments.opts, root=arguments.root)
    cfg.genext.generator = arguments.generator = arguments.generator or cfg.genext.generator
    cfg.genext.sampling.poses = " ".join(arguments.poses)
    cfg.genext.sampling.seed = arguments.seed or cfg.genext.sampling.seed
    return cfg


def wanted_works(arguments: argparse.Namespace, drawing: stores.Drawing) -> list[Work]:
    dataset = compat.init_image_dataset(arguments.dataset, root=arguments.root, verbose=False)
    names = arguments.split or (["train"] if arguments.generator == "camstyle" else ["query", "gallery"])
    splits = {split: getattr(dataset, split)[: arguments.limit] for split in names}
    return [
        work for split, items in splits.items() for work in drawing.works(split, [item[0] for item in items])
    ]


def draw_strips(arguments: argparse.Namespace) -> None:
    poses, references = strips.read_folder(arguments.pose_dir), strips.read_folder(arguments.ref_dir)
    cfg = config.load_config(arguments.config_file, arguments.opts)
    pipe = strip_pipeline(arguments)
    how = stores.sampling(cfg, pipe)
    options = {"height": how.height, "width": how.width, "num_inference_steps": how.steps}
    made = strips.write_strips(
        pipe, references, poses, arguments.out_dir or "output", official=arguments.official,
        seed=strips.OFFICIAL_SEED if arguments.seed is None else arguments.seed,
        swap_pose_channels=not arguments.rgb_poses, guidance_scale=how.guidance, **options,
    )  # fmt: skip
    for path in made:
        print(path)


def strip_pipeline(arguments: argparse.Namespace) -> IPGPipeline:
    folder = Path(arguments.ckpt_dir or SHIPPED / "ipg")
    pipe = load_any(folder, base_model=arguments.base_model or "", vae=arguments.vae or "")
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(stores.fastest_device())


def draw_identities(arguments: argparse.Namespace) -> None:
    wishes = exhibition.Wishes(
        arguments.weights, arguments.source, arguments.root, (arguments.split or ["query"])[0],
        people=arguments.people, noises=arguments.noises, steps=arguments.steps, refine=arguments.refine,
        seed=arguments.seed or 0,
    )  # fmt: skip
    for name, draw in exhibition.identity_pictures(wishes):
        begun = time.perf_counter()
        with torch.inference_mode():
            figure = draw()
        path = Path(arguments.output, f"{name}.png")
        with checkpoints.atomic_path(path) as temporary:
            figure.savefig(temporary, format="png")
        print(f"{path} in {time.perf_counter() - begun:.1f} s")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
