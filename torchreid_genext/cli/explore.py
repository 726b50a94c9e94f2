"""Look at what the package does, in a browser: searches with their reasons, people in poses, identity codes.

torchreid-genext explore
torchreid-genext explore --gallery crops --weights osnet.pth --model osnet_x1_0 data.height 256 data.width 128

The page is for this machine alone. Keys of configs/explore.yaml hold unless another file of keys is named.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence

from yacs.config import CfgNode

from torchreid_genext.benchmark import settings
from torchreid_genext.benchmark.settings import Images
from torchreid_genext.checkpoints import shipped
from torchreid_genext.cli import features
from torchreid_genext.cli.parsing import Parser, configuration, positive, refuse, set_up
from torchreid_genext.explore.app import explorer_of, gradio, launch
from torchreid_genext.explore.search import Searcher, Sets
from torchreid_genext.explore.sets import dataset_sets, options

_READS = (
    *features.READS,
    "genext.sampling",
    "genext.pg2.weights",
    "genext.deformable.weights",
    "genext.joints",
)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve the page until somebody stops it."""
    begun = time.perf_counter()
    arguments = parse_arguments(argv)
    gradio()  # tells in a second what is missing
    cfg = configuration(arguments)
    set_up(arguments, logging.WARNING)
    settings.check_keys(cfg)
    folder = arguments.gallery or arguments.query
    named = dict.fromkeys([arguments.query or folder, folder])
    images = [features.images_of(path) for path in named if path]  # tells now what is not there
    dataset = "" if folder else settings.dataset_name(cfg)
    searcher = Searcher(lambda: unlabelled_sets(cfg, images) if images else dataset_sets(cfg))
    title = f"{folder or dataset}, seen by {settings.backbones(cfg)[0].label}"
    explorer = explorer_of(cfg, searcher, dataset=dataset, identity=arguments.identity, title=title)
    page = launch(explorer, host=arguments.host, port=arguments.port, wait=False)
    print(f"{page.local_url} after {time.perf_counter() - begun:.1f} s; Ctrl-C stops it", flush=True)
    page.block_thread()


def unlabelled_sets(cfg: CfgNode, images: Sequence[Images]) -> Sets:
    """Features of queries and gallery; images that stand alone look for each other."""
    network = features.encoder(cfg)
    sets = [features.extracted(cfg, network, each) for each in images]
    return Sets(sets[0], sets[-1], network, options=options(cfg))


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__name__, __doc__, _READS)
    parser.set_defaults(config_file="configs/explore.yaml")
    parser.add_key(
        "-s", "--dataset", key="data.targets", nargs=1, metavar="NAME", help="data set that is searched"
    )
    parser.add_argument("--query", metavar="PATH", help="folder of images, or one, in place of a data set")
    parser.add_argument("--gallery", metavar="PATH", help="folder of images that is searched")
    parser.add_root()
    features.add_encoder(parser)
    parser.add_key("--output", key="data.save_dir", metavar="FOLDER", help="for features, which are kept")
    parser.add_argument(
        "--identity", default=str(shipped.PRETRAINED), metavar="FOLDER",
        help="of train-gen, with generator, inverter and prior (default: those of SynthReID)",
    )  # fmt: skip
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; others than the default let others in"
    )
    parser.add_argument("--port", type=positive, help="default: a free one from 7860 on")
    arguments = parser.parse_args(argv)
    if arguments.query or arguments.gallery:
        refuse(parser, arguments, ["dataset", "root"], "with folders of images")
    return arguments
