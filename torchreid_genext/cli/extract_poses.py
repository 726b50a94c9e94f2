"""Find the poses of images that have none, by torchvision's Keypoint R-CNN.

torchreid-genext extract-poses -s market1501 --root reid-data
torchreid-genext extract-poses --images folder --output poses.csv

Poses are written as Market annotations, by default into poses.csv in the data set's folder, where the
training of pose-guided generators looks for them. An interrupted run goes on from where it was. Where no file of weights is named,
torchvision's published ones are fetched once, and kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from torchreid_genext import compat
from torchreid_genext.cli.parsing import Parser, configuration, positive, refuse, set_up
from torchreid_genext.data.images.reading import image_files
from torchreid_genext.data.poses.detecting import (
    Extracted,
    cost_of,
    extract_poses,
    keypoint_rcnn,
    left_to_do,
)
from torchreid_genext.data.poses.reading import read_poses, write_openpose
from torchreid_genext.recipes.drawing.stores import fastest_device

SPLITS = ("train", "query", "gallery")


def main(argv: Sequence[str] | None = None) -> None:
    """Find poses, or tell how much there is to do."""
    arguments = parse_arguments(argv)
    root = configuration(arguments).data.root
    set_up(arguments)
    paths, target = images_of(arguments, root), target_of(arguments, root)
    missing = left_to_do(paths, target)
    network = keypoint_rcnn(arguments.weights, min_size=arguments.min_size, margin=arguments.margin)
    print(f"{len(missing)} of {len(paths)} images to do, {len(paths) - len(missing)} are in {target}")
    announce(network, missing, arguments.device)
    if arguments.plan:
        return
    options = {name: getattr(arguments, name) for name in ("batch_size", "score", "device")}
    report(extract_poses(network, paths, target, **options), target)
    if arguments.openpose:
        write_openpose(arguments.openpose, read_poses(target))


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__name__, __doc__, reads=["data.root"])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-s", "--dataset", "--source", help="data set, by torchreid's name or ours")
    what.add_argument("--images", help="folder of images instead, with the folders in it")
    parser.add_root()
    parser.add_argument("--split", nargs="+", choices=SPLITS, default=list(SPLITS), help="of the data set")
    parser.add_argument("--output", help="annotation file (default: poses.csv in the folder of the images)")
    parser.add_argument("--openpose", metavar="FOLDER", help="write OpenPose's JSON files there, too")
    parser.add_argument(
        "--weights", metavar="FILE",
        help="of Keypoint R-CNN (ResNet-50, FPN); without, torchvision's own, fetched once (237 MB)",
    )  # fmt: skip
    parser.add_argument("--min-size", type=positive, default=800, help="to which shorter sides are enlarged")
    parser.add_argument(
        "--margin", type=float, default=1 / 8, metavar="SHARE",
        help="added around crops, of their longer side (default: %(default)s); 0 for whole scenes",
    )  # fmt: skip
    parser.add_argument("--score", type=float, default=0.5, help="from which somebody counts, 0..1")
    parser.add_argument("--batch-size", type=positive, default=8)
    parser.add_argument("--device", default=str(fastest_device()))
    parser.add_argument("--plan", action="store_true", help="only say how much there is to do")
    arguments = parser.parse_args(argv)
    if arguments.images:
        refuse(parser, arguments, ("root", "split", "module"), "with --images, which are no data set")
        parser.check_read(arguments.keys, [], "a folder of images")
    return arguments


def images_of(arguments: argparse.Namespace, root: str) -> list[str]:
    if arguments.images:
        found = image_files(arguments.images)
    else:
        dataset = compat.init_image_dataset(arguments.dataset, root=root, verbose=False)
        found = [record[0] for split in arguments.split for record in getattr(dataset, split)]
    if not found:
        raise ValueError(f"expected images in {arguments.images or arguments.dataset}, got none")
    return list(dict.fromkeys(found))


def target_of(arguments: argparse.Namespace, root: str) -> Path:
    if arguments.output:
        return Path(arguments.output)
    folder = arguments.images or compat.image_dataset_folder(arguments.dataset, root)
    return Path(folder, "poses.csv")


def announce(network: nn.Module, missing: Sequence[str], device: str) -> None:
    cost = cost_of(network, missing, device=device)
    if cost is None:
        return
    hours = len(missing) * cost.seconds / 3600
    print(
        f"about {cost.operations / 1e9:.1f} GFLOP and {cost.seconds:.2f} s an image on {device}: "
        f"{len(missing) * cost.operations / 1e12:.1f} TFLOP, {hours:.1f} h at one image at a time"
    )


def report(done: Extracted, target: Path) -> None:
    print(f"{target}: somebody found in {done.found} images, nobody in {len(done.without)}")
    for path in done.without:
        print(f"  nobody in {path}")
    for path, reason in done.unreadable.items():
        print(f"  left out, cannot be read: {path}: {reason}")
