"""What verbs that extract features have in common."""

from __future__ import annotations

import logging
from pathlib import Path

from yacs.config import CfgNode

from torchreid_genext.benchmark import settings
from torchreid_genext.benchmark.extracting import Split
from torchreid_genext.benchmark.settings import Images
from torchreid_genext.cli.parsing import Parser
from torchreid_genext.data.images.reading import image_files, is_image
from torchreid_genext.extraction import Encoder
from torchreid_genext.retrieval.protocol import RetrievalSet

__all__ = ["READS", "add_encoder", "encoder", "extracted", "images_of"]

_log = logging.getLogger(__name__)
READS = (
    "model", "data", "test.dist_metric", "use_gpu", "loss", "train.seed", "genext.inference", "genext.benchmark",
    "genext.evaluation", "genext.identity", "genext.inverter",
)  # fmt: skip


def add_encoder(parser: Parser) -> None:
    """Options of the backbone, and of what an image is that cannot be read."""
    parser.add_key("--model", key="model.name", metavar="NAME", help="backbone that torchreid knows")
    parser.add_key("--weights", key="model.load_weights", metavar="FILE", help="of the backbone")
    strict = "stop at an image that cannot be read"
    parser.add_key("--strict", key="genext.benchmark.strict", action="store_true", help=strict)


def encoder(cfg: CfgNode) -> Encoder:
    """The one backbone of the configuration; raises as ``settings.build_encoder``."""
    backbone = settings.backbones(cfg)[0]
    if backbone.is_random:
        _log.warning("%s has random weights, so its features say nothing; --weights FILE names others", backbone.label)
    return settings.build_encoder(cfg, backbone)


def extracted(cfg: CfgNode, network: Encoder, images: Images) -> RetrievalSet:
    """Features of images."""
    return Split(cfg, network, images).images


def images_of(path: str) -> Images:
    """An image or all in a folder; their pids, of which nothing is known, are 0.

    Raises:
        ValueError: if there is no image.
    """
    files = [path] if Path(path).is_file() and is_image(path) else image_files(path)
    if not files:
        raise ValueError(f"expected images in {path}, got none")
    return Images(files, [0] * len(files), None)
