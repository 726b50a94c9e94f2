"""A backbone as a file for others: with its card, or as ONNX that is known to give the same table."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from torchreid_genext import checkpoints
from torchreid_genext.backbones import sources
from torchreid_genext.backbones.card import write_card
from torchreid_genext.backbones.exporting import export_onnx
from torchreid_genext.backbones.spec import Backbone
from torchreid_genext.benchmark import settings, study
from torchreid_genext.benchmark.settings import Images
from torchreid_genext.extraction import Encoder, extract
from torchreid_genext.retrieval.protocol import Chain, RetrievalSet

if TYPE_CHECKING:
    from yacs.config import CfgNode

__all__ = ["Exported", "convert", "export"]

_TOLERANCE = 1e-3  # of the largest number in the features: single precision adds in another order


@dataclass(frozen=True)
class Exported:
    """A file, and how it compares with its network.

    Attributes:
        path: of the file; its card lies beside it.
        images: on which both were run.
        difference: the largest between features, in parts of the largest number in them.
        mAP: of the network. exported_mAP: of the file.
    """

    path: Path
    images: int
    difference: float
    mAP: float
    exported_mAP: float

    def __str__(self) -> str:
        rates = f"mAP {self.mAP:.4%}, exported {self.exported_mAP:.4%}"
        return f"{self.images} images: features differ by {self.difference:.1e} of the largest; {rates}"


def export(
    cfg: CfgNode, path: str | Path, *, identities: int = 50, tolerance: float = _TOLERANCE
) -> Exported:
    """Write the backbone of the configuration as ONNX, run both on images of the data set, and compare.

    Args:
        cfg: the whole tree; of it ``model``, ``data``, ``test``, ``genext.benchmark`` and ``evaluation``.
        path: of the file, ``*.onnx``. Nothing is written if anything is refused.
        identities: of the data set's queries, on whose images both are run; 0: all, with all others.
        tolerance: of `Exported.difference`.

    Raises:
        ImportError: if a package is missing; the message names the cure.
        ValueError: if the backbone is no network, is told each image's camera, or cannot be written; if the
            features of the file are others; as `benchmark.run` for data and weights.
    """
    backbone = settings.backbones(cfg)[0]
    _check(backbone, path)
    encoder = settings.build_encoder(cfg, backbone, exact=True)
    images = _some(settings.open_dataset(cfg), identities)
    wanted = _features(encoder, images)
    with checkpoints.atomic_path(path) as temporary:
        export_onnx(encoder.network.cpu(), temporary, (encoder.height, encoder.width))
        exported = replace(_exported(backbone, encoder), name=f"onnx:{temporary}")
        found = _features(settings.build_encoder(cfg, exported, exact=True), images)
        result = _compared(cfg, Path(os.path.expanduser(path)), wanted, found)
        if not result.difference <= tolerance:
            rule = f"expected features of the ONNX file within {tolerance:g} of the network's"
            raise ValueError(f"{rule}, got {result}")
    write_card(result.path, _exported(backbone, encoder).card)
    return result


def convert(cfg: CfgNode, path: str | Path) -> Path:
    """Write the backbone of the configuration as safetensors with its card, whatever file it came from.

    The log tells what of the file was left out.

    Args:
        cfg: as `export` takes it; no data set is opened.
        path: of the file, ``*.safetensors``.

    Raises:
        ValueError: if the backbone is no network, has no weights, or weights are another network's.
    """
    backbone = settings.backbones(cfg)[0]
    if sources.source_of(backbone.name)[0] in ("onnx", "features") or backbone.is_random:
        raise ValueError(f"expected a network with weights, got {backbone.title}")
    network, seen = settings.build_network(cfg, backbone), vars(settings.seen_by(cfg, backbone))
    card = replace(
        backbone.card, architecture=backbone.name, options=backbone.options, weights="", preprocessing=seen
    )
    return checkpoints.save_backbone(path, network, {"card": card.to_json()})


def _check(backbone: Backbone, path: str | Path) -> None:
    if Path(path).suffix != ".onnx":
        raise ValueError(f"expected a file *.onnx, got {path}")
    if sources.source_of(backbone.name)[0] in ("onnx", "features"):
        raise ValueError(f"expected a network to export, got {backbone.name}")
    if backbone.card.camera == "image":
        rule = "expected a backbone that is not told each image's camera, which ONNX files here do not take"
        raise ValueError(f"{rule}, got camera image; set none or zero in the card")


def _some(images: tuple[Images, Images], identities: int) -> tuple[Images, Images]:
    """Images of the first identities of the query."""
    if not identities:
        return images
    kept = set(sorted(set(images[0].pids))[:identities])
    query, gallery = (
        _selected(split, [i for i, pid in enumerate(split.pids) if pid in kept]) for split in images
    )
    return query, gallery


def _selected(images: Images, places: list[int]) -> Images:
    columns = {name: getattr(images, name) for name in ("paths", "pids", "camids", "frames")}
    return Images(**{name: None if x is None else [x[i] for i in places] for name, x in columns.items()})


def _exported(backbone: Backbone, encoder: Encoder) -> Backbone:
    """The same as a file: what the card says of the network is done in it."""
    height, width, interpolation, resize = encoder.reading
    seen = {"height": height, "width": width, "interpolation": interpolation, "resize": resize}
    seen |= {"mean": encoder.mean.flatten().tolist(), "std": encoder.std.flatten().tolist()}
    card = replace(
        backbone.card, architecture="", options={}, weights="", feature="", camera="none", preprocessing=seen
    )
    return replace(backbone, weights="", size=None, options={}, card=card)


def _features(encoder: Encoder, images: tuple[Images, Images]) -> tuple[RetrievalSet, RetrievalSet]:
    """Without the cache: what was computed once would be compared with itself."""
    query, gallery = (
        RetrievalSet(extract(encoder, split.paths, strict=True).features.cpu(), split.pids, split.camids)
        for split in images
    )
    return query, gallery


def _compared(
    cfg: CfgNode,
    path: Path,
    wanted: tuple[RetrievalSet, RetrievalSet],
    found: tuple[RetrievalSet, RetrievalSet],
) -> Exported:
    ours, theirs = (torch.cat([split.features for split in each]) for each in (wanted, found))
    difference = ((ours - theirs).abs().max() / ours.abs().max()).item()
    rates = [study.evaluate_chain(cfg, *each, Chain.parse("base"), None).mAP for each in (wanted, found)]
    return Exported(path, len(ours), difference, *rates)
