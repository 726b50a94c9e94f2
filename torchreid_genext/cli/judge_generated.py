"""Mark the pictures of a store that are no good, report, and draw sheets to look at.

torchreid-genext judge-generated --dataset synthreid --root reid-data
torchreid-genext judge-generated --dataset market1501 --similarity 0.3 model.load_weights osnet.pth
torchreid-genext judge-generated --dataset market1501 --keypoints keypointrcnn_resnet50_fpn_coco-fc266e95.pth

Blank pictures are dropped, and those whose features, by the model of the configuration, are far from their
reference's; with --keypoints also those in which torchvision's Keypoint R-CNN finds another pose than was
asked for. What is dropped stays in the store, but nobody is given it any more; judging again, with another
threshold, marks all anew.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from yacs.config import CfgNode

from torchreid_genext import checkpoints, compat, config
from torchreid_genext.backbones import loading
from torchreid_genext.backbones.card import Preprocessing
from torchreid_genext.backbones.spec import Backbone
from torchreid_genext.checkpoints import shipped
from torchreid_genext.cli.parsing import Parser, configuration, refuse, set_up
from torchreid_genext.data.poses.detecting import keypoint_rcnn, pose_finder
from torchreid_genext.data.store import ImageStore
from torchreid_genext.data.store.lookup import Read
from torchreid_genext.data.torchreid_training.datasets import KINDS, generated_folder
from torchreid_genext.extraction import Encoder, reader
from torchreid_genext.generation import sheets
from torchreid_genext.generation.quality import Gate, Joints, judge
from torchreid_genext.recipes.drawing import stores

SHIPPED = shipped.PRETRAINED / "osnet_x0_25.safetensors"


def main(argv: Sequence[str] | None = None) -> None:
    """Judge the pictures of a store."""
    arguments = parse_arguments(argv)
    cfg = configuration(arguments)
    check(cfg)
    set_up(arguments, logging.WARNING)
    store = ImageStore(
        arguments.output or generated_folder(arguments.dataset, cfg.data.root, cfg.genext.generator)
    )
    read, gate = features(cfg), Gate(similarity=arguments.similarity, agreement=arguments.agreement)
    joints = finder(arguments.keypoints) if arguments.keypoints else None
    for split in dict.fromkeys(arguments.split):
        if next(store.entries(split, dropped=True), None) is None:
            print(f"{split}: no pictures in {store.root}")
            continue
        poses = {"joints": joints, "targets": targets_of(cfg, arguments, store, split)} if joints else {}
        judge_split(store, split, images_of(cfg, arguments, split), read, gate, **poses)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__name__, __doc__)
    parser.add_argument("-s", "--dataset", required=True, help="of the real images")
    parser.add_root()
    parser.add_argument(
        "--output", "--store", metavar="FOLDER",
        help="the store, as generate filled it (default: <root>/<dataset>_generated/<generator>)",
    )  # fmt: skip
    parser.add_key(
        "--generator", key="genext.generator", choices=KINDS, help="whose store it is (default: ipg)"
    )
    parser.add_key("--weights", key="model.load_weights", metavar="FILE", help="of model.name, which judges")
    parser.add_argument(
        "--split", nargs="+", default=["query", "gallery"], choices=("query", "gallery", "train"),
        help="default: query gallery",
    )  # fmt: skip
    parser.add_argument(
        "--similarity", type=float, default=Gate().similarity,
        help="least cosine of features, without what all references have in common (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--keypoints", metavar="FILE", help="weights of Keypoint R-CNN; without, poses pass")
    parser.add_key(
        "--poses",
        key="genext.sampling.poses",
        nargs="+",
        help="that were asked for, as generate was given them",
    )
    parser.add_argument(
        "--agreement", type=float, default=Gate().agreement,
        help="least share of a pose's joints that are found in their places (default: %(default)s)",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    if not arguments.keypoints:
        refuse(parser, arguments, ("poses", "agreement"), "without --keypoints, which finds poses")
    return arguments


def check(cfg: CfgNode) -> None:
    """Without weights the shipped OSNet judges, at its own size: refuse wishes that it would not fulfil."""
    if not cfg.model.load_weights and cfg.model.name != config.get_default_config().model.name:
        raise ValueError(
            f"expected --weights FILE of model.name {cfg.model.name}, got none; "
            "without both the shipped OSNet judges"
        )


def images_of(cfg: CfgNode, arguments: argparse.Namespace, split: str) -> list[str]:
    dataset = compat.init_image_dataset(arguments.dataset, root=cfg.data.root, verbose=False)
    return [item[0] for item in getattr(dataset, split)]


def features(cfg: CfgNode) -> Read:
    """Of image files, by the model of the configuration; without one, by the shipped OSNet at 128 x 64."""
    ours = not cfg.model.load_weights
    height, width = (128, 64) if ours else (cfg.data.height, cfg.data.width)
    name, weights = ("osnet_x0_25", SHIPPED) if ours else (cfg.model.name, cfg.model.load_weights)
    backbone = Backbone.of_model(name, str(weights)).with_card()
    seen = backbone.preprocessing(Preprocessing(height, width))
    return reader(Encoder(loading.load(backbone, seen.size).eval(), **loading.seeing(seen, backbone)))


def finder(weights: str) -> Joints:
    return pose_finder(keypoint_rcnn(weights), device=stores.fastest_device())


def targets_of(
    cfg: CfgNode, arguments: argparse.Namespace, store: ImageStore, split: str
) -> dict[str, np.ndarray]:
    """Joints of the poses that were asked for, in pixels of the pictures."""
    with Image.open(store.path(next(store.entries(split, dropped=True)))) as image:
        width, height = image.size
    targets = stores.joints(cfg, arguments.dataset, (height, width))
    if unknown := sorted({entry.pose for entry in store.entries(split, dropped=True)} - {*targets}):
        raise ValueError(f"expected --poses with {unknown[0]!r} of {store.root}, got {', '.join(targets)}")
    return targets


def judge_split(
    store: ImageStore, split: str, references: list[str], read: Read, gate: Gate, **poses: Any
) -> None:
    print(judge(store, split, references, read, gate=gate, **poses).summary())
    folder = store.root / "sheets"
    folder.mkdir(exist_ok=True)
    some = references[:: max(1, len(references) // 12)][:12]
    drawn = {
        f"{split}.png": sheets.contact_sheet(store, split, some),
        f"{split}-doubtful.png": sheets.doubtful_sheet(store, split, references),
    }
    for name, page in drawn.items():
        save(page, folder / name)
        print(folder / name)


def save(page: Image.Image, path: Path) -> None:
    with checkpoints.atomic_path(path) as temporary:
        page.save(temporary, "PNG")
