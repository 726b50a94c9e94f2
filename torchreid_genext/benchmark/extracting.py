"""Features of a split for the benchmark: from the cache where they are known, else from the images."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchreid_genext.backbones.loading import OWN_CAMERA
from torchreid_genext.benchmark import settings
from torchreid_genext.benchmark.settings import Images
from torchreid_genext.extraction import (
    Encoder,
    Extraction,
    FeatureTable,
    GeneratedFeatures,
    Plan,
    generated_features,
    plan,
    plan_generated,
)
from torchreid_genext.extraction.cache import FeatureCache
from torchreid_genext.extraction.files import plan_with
from torchreid_genext.precision import comparison_device
from torchreid_genext.retrieval.protocol import RetrievalSet

if TYPE_CHECKING:
    from yacs.config import CfgNode

__all__ = ["Split", "plans", "workers"]


class Split:
    """One split through one encoder.

    Attributes:
        images: the readable ones with their features, labels and times.
        runs: what was extracted: the images, and their generated ones if there are any.
        coverage: how many images had generated ones, if a chain uses them.
    """

    def __init__(self, cfg: CfgNode, encoder: Encoder, images: Images) -> None:
        extraction = _extract(cfg, encoder, images)
        generated = _extract_generated(cfg, encoder, images, extraction)
        device = comparison_device(cfg.genext.evaluation.device)
        self.images = _retrieval_set(images, extraction, generated, device)
        self.runs: list[Extraction | GeneratedFeatures] = [extraction, *([generated] if generated else [])]
        self.coverage = generated.coverage if generated else None


def plans(cfg: CfgNode, encoder: Encoder, images: Sequence[Images]) -> list[Plan]:
    """All that is to be extracted: of both splits, and of their generated images."""
    folder = settings.cache_dir(cfg)
    generated = [plan_generated(encoder, split.generated, folder) for split in images if split.generated]
    real = (planned for split in images for _, planned in _plans(cfg, encoder, split))
    return [*real, *itertools.chain(*generated)]


def workers(cfg: CfgNode) -> int | None:
    """One process a core; ``data.workers`` counts decoders alone, but 0 is none here too."""
    return None if cfg.data.workers else 0


def _plans(cfg: CfgNode, encoder: Encoder | FeatureTable, images: Images) -> Iterator[tuple[Tensor, Plan]]:
    """Positions of images and what is to be done for them: for all at once, or for those of each camera."""
    folder = settings.cache_dir(cfg)
    if encoder.camera != OWN_CAMERA or images.camids is None:  # whoever has no camera is of an unknown one
        yield torch.arange(len(images.paths)), plan(encoder, images.paths, folder)
        return
    camids, cache = torch.tensor(images.camids), FeatureCache(folder, encoder.key)  # looks at all weights once
    for camera in camids.unique().tolist():
        places = (camids == camera).nonzero()[:, 0]
        paths = [images.paths[i] for i in places]
        yield places, plan_with(encoder.of_camera(camera), paths, cache.of(f"camera {camera}"))


def _extract(cfg: CfgNode, encoder: Encoder | FeatureTable, images: Images) -> Extraction:
    options = {"workers": workers(cfg), "strict": cfg.genext.benchmark.strict, "may_be_empty": True}
    parts = [(places, planned.run(**options)) for places, planned in _plans(cfg, encoder, images)]
    if not any(len(part.kept) for _, part in parts):
        path, why = next(iter(parts[0][1].unreadable.items()))
        raise ValueError(f"expected a readable image among {len(images.paths)}, got none; {path}: {why}")
    kept, order = torch.cat([places[part.kept] for places, part in parts]).sort()
    return Extraction(
        torch.cat([part.features for _, part in parts if len(part.kept)])[order],
        kept,
        {path: why for _, part in parts for path, why in part.unreadable.items()},
        sum(part.computed for _, part in parts),
        sum(part.seconds for _, part in parts),
    )


def _extract_generated(
    cfg: CfgNode, encoder: Encoder, images: Images, extraction: Extraction
) -> GeneratedFeatures | None:
    """Of the generated images of those that could be read, if a chain uses them."""
    if images.generated is None:
        return None
    return generated_features(
        encoder,
        images.generated.select(extraction.kept.tolist()),
        extraction.features,
        cache_dir=settings.cache_dir(cfg),
        workers=workers(cfg),
        strict=cfg.genext.benchmark.strict,
    )


def _retrieval_set(
    images: Images,
    extraction: Extraction,
    generated: GeneratedFeatures | None,
    device: torch.device | None,
) -> RetrievalSet:
    """The readable images with their features, which stay where they are unless a device is named."""
    kept = extraction.kept
    pids, camids, frames = (
        None if column is None else torch.tensor(column)[kept]
        for column in (images.pids, images.camids, images.frames)
    )
    return RetrievalSet(
        extraction.features.to(device),
        pids,
        camids,
        frames=frames,
        generated=generated.features.to(device) if generated else None,
        paths=[images.paths[i] for i in kept],
    )
