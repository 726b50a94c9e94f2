"""Write features of any backbone, of a data set or a folder of images, as npz.

torchreid-genext extract --dataset market1501 --weights osnet.pth --output log/osnet
torchreid-genext extract --images crops --weights osnet.pth --output log/osnet

Of a data set come query.npz and gallery.npz (and train.npz by --split), for evaluate; of a folder without labels
images.npz, for search. folder:PATH is a data set, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from yacs.config import CfgNode

from torchreid_genext.benchmark import settings
from torchreid_genext.benchmark.settings import Images
from torchreid_genext.cli import features
from torchreid_genext.cli.folders import add_folders, name_folders
from torchreid_genext.cli.parsing import Parser, configuration, refuse, set_up
from torchreid_genext.retrieval.files import save_set

_SPLITS = ("train", "query", "gallery")


def main(argv: Sequence[str] | None = None) -> None:
    """Extract, and tell what was written."""
    arguments = parse_arguments(argv)
    cfg = configuration(arguments)
    set_up(arguments)
    folder = Path(cfg.data.save_dir).expanduser()
    if arguments.images:
        images = features.images_of(arguments.images)
        found = features.extracted(cfg, features.encoder(cfg), images)
        files = [(save_set(found, folder / "images.npz", labelled=False), found)]
    else:
        images = _images(cfg, list(dict.fromkeys(arguments.split or ("query", "gallery"))))
        network = features.encoder(cfg)
        splits = ((name, features.extracted(cfg, network, split)) for name, split in images)
        files = [(found.save(folder / f"{name}.npz"), found) for name, found in splits]
    for file, found in files:
        print(f"{file}: {len(found)} features of width {found.features.shape[1]}")


def _images(cfg: CfgNode, names: Sequence[str]) -> list[tuple[str, Images]]:
    """Splits by name; what is missing is told before anything is extracted."""
    tests = dict(zip(("query", "gallery"), settings.open_dataset(cfg))) if {*names} - {"train"} else {}
    return [(name, settings.open_training(cfg) if name == "train" else tests[name]) for name in names]


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__name__, __doc__, features.READS)
    parser.add_key("-t", "--targets", "--dataset", key="data.targets", nargs=1, help="data set")
    add_folders(parser)
    parser.add_argument("--images", metavar="PATH", help="instead: an image, or a folder without labels")
    parser.add_argument("--split", nargs="+", choices=_SPLITS, help="default: query gallery")
    parser.add_root()
    features.add_encoder(parser)
    parser.add_key("--output", key="data.save_dir", metavar="FOLDER", help="for the files, and the cache")
    arguments = parser.parse_args(argv)
    if arguments.images:
        why = "with --images, which has no labels"
        refuse(parser, arguments, ("targets", "query", "gallery", "pattern", "split"), why)
    return name_folders(arguments, "data.targets")
