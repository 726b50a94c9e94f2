"""The run itself: check everything, extract once per backbone, evaluate every chain, compare, report."""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from torchreid_genext import config
from torchreid_genext.benchmark import drawing, settings, writing
from torchreid_genext.benchmark.results import Difference, Measurement, PrecisionEffect, Result
from torchreid_genext.benchmark.settings import Backbone, Images
from torchreid_genext.extraction import (
    Encoder,
    Extraction,
    GeneratedFeatures,
    Plan,
    generated_features,
    plan,
    plan_generated,
)
from torchreid_genext.retrieval.protocol import Chain, Report, RetrievalSet, bootstrap_difference, evaluate

if TYPE_CHECKING:
    from yacs.config import CfgNode

__all__ = ["describe", "run"]

_log = logging.getLogger(__name__)


def run(cfg: CfgNode) -> Result:
    """Measure all backbones under all chains, and write reports and pictures to ``cfg.data.save_dir``.

    What can be wrong is checked before the first image is read. Features are cached, so a run that was
    interrupted, or that asks for other chains, extracts nothing twice.

    Args:
        cfg: the whole tree; of it ``genext.benchmark``, ``genext.inference``, ``model``, ``data``, ``test``.

    Raises:
        ValueError: if a model, chain or data set is unknown or absent, weights are of another model, or an
            image cannot be read and ``genext.benchmark.strict`` is on.
        OSError: if a folder cannot be written or a file of weights is missing.
    """
    chains, backbones = settings.chains(cfg), settings.backbones(cfg)
    name = settings.dataset_name(cfg)
    # Also tells now, not after the work, if nothing can be written there.
    config.write_config(cfg, cfg.data.save_dir)
    encoders = [settings.build_encoder(cfg, backbone) for backbone in backbones]
    images = settings.with_generated(cfg, settings.open_dataset(cfg), chains)
    measurements = [_measure(cfg, *pair, images, chains) for pair in zip(backbones, encoders)]
    result = Result(name, cfg.test.dist_metric, _protocol(cfg), measurements, Path(cfg.data.save_dir))
    writing.write(result)  # before the pictures, which may fail for reasons of their own
    if cfg.genext.benchmark.pictures:
        result = replace(result, pictures=drawing.draw(result))
        writing.write(result)
    return result


def describe(cfg: CfgNode) -> str:
    """What `run` would do, after the same checks; nothing is written, downloaded or extracted."""
    chains, backbones = settings.chains(cfg), settings.backbones(cfg)
    lines = [f"{len(chains)} chains for each model: {', '.join(chain.name for chain in chains)}"]
    lines += [f"report and pictures in {cfg.data.save_dir}, features in {settings.cache_dir(cfg)}"]
    encoders = [settings.build_encoder(cfg, backbone) for backbone in backbones]
    if settings.is_ours(cfg) and not settings.is_present(cfg):
        labels = ", ".join(backbone.label for backbone in backbones)
        name, root = settings.dataset_name(cfg), cfg.data.root
        first = f"{name} will first be drawn below {root}, then extracted for {labels}"
        return "\n".join([first, *lines])
    images = query, gallery = settings.with_generated(cfg, settings.open_dataset(cfg), chains)
    sizes = f"{settings.dataset_name(cfg)}: {len(query.paths)} query and {len(gallery.paths)} gallery images"
    plans = [_described(cfg, *pair, images) for pair in zip(backbones, encoders)]
    return "\n".join([sizes, *plans, *lines])


def _described(cfg: CfgNode, backbone: Backbone, encoder: Encoder, images: tuple[Images, Images]) -> str:
    plans = _plans(cfg, encoder, images)
    missing, total = sum(plan.to_compute for plan in plans), sum(len(plan.paths) for plan in plans)
    if not missing:
        return f"{backbone.label}: all {total} features are cached"
    seconds = sum(plan.estimated_seconds(workers=_workers(cfg)) for plan in plans)
    work = f"{missing} of {total} features to extract in {encoder.precision}"
    return f"{backbone.label}: {work}, about {seconds:.0f} s"


def _plans(cfg: CfgNode, encoder: Encoder, images: tuple[Images, Images]) -> list[Plan]:
    """All that is to be extracted: of both splits, and of their generated images."""
    folder = settings.cache_dir(cfg)
    generated = [plan_generated(encoder, split.generated, folder) for split in images if split.generated]
    return [*(plan(encoder, split.paths, folder) for split in images), *itertools.chain(*generated)]


def _protocol(cfg: CfgNode) -> str:
    return "cuhk03" if cfg.cuhk03.use_metric_cuhk03 else "market1501"


def _measure(
    cfg: CfgNode, backbone: Backbone, encoder: Encoder, images: tuple[Images, Images], chains: list[Chain]
) -> Measurement:
    _log.info("%s: extracting features", backbone.label)
    extractions = [_extract(cfg, encoder, split) for split in images]
    generated = [_extract_generated(cfg, encoder, *pair) for pair in zip(images, extractions)]
    query, gallery = (_retrieval_set(*parts) for parts in zip(images, extractions, generated))
    runs = [*extractions, *filter(None, generated)]
    reports = [_evaluate(cfg, query, gallery, chain) for chain in chains]
    return Measurement(
        backbone=backbone,
        precision=encoder.precision,
        computed=sum(run.computed for run in runs),
        seconds=sum(run.seconds for run in runs),
        unreadable={path: why for run in runs for path, why in run.unreadable.items()},
        coverage={name: part.coverage for name, part in zip(("query", "gallery"), generated) if part},
        query=query,
        gallery=gallery,
        reports=reports,
        differences=[None, *(_difference(cfg, reports[0], report) for report in reports[1:])],
        precision_effect=_precision_effect(cfg, backbone, images, chains[0], reports[0]),
    )


def _extract(cfg: CfgNode, encoder: Encoder, images: Images) -> Extraction:
    planned = plan(encoder, images.paths, settings.cache_dir(cfg))
    return planned.run(workers=_workers(cfg), strict=cfg.genext.benchmark.strict)


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
        workers=_workers(cfg),
        strict=cfg.genext.benchmark.strict,
    )


def _workers(cfg: CfgNode) -> int | None:
    """One process a core; ``data.workers`` counts decoders alone, but 0 is none here too."""
    return None if cfg.data.workers else 0


def _retrieval_set(
    images: Images, extraction: Extraction, generated: GeneratedFeatures | None
) -> RetrievalSet:
    """The readable images with their features."""
    kept = extraction.kept
    pids, camids = torch.tensor(images.pids)[kept], torch.tensor(images.camids)[kept]
    return RetrievalSet(
        extraction.features,
        pids,
        camids,
        generated=generated.features if generated else None,
        paths=[images.paths[i] for i in kept],
    )


def _evaluate(cfg: CfgNode, query: RetrievalSet, gallery: RetrievalSet, chain: Chain) -> Report:
    _log.info("  chain %s", chain.name)
    return evaluate(
        query,
        gallery,
        chain,
        metric=cfg.test.dist_metric,
        protocol=_protocol(cfg),
        memory_limit=cfg.genext.evaluation.memory_limit or None,
    )


def _difference(cfg: CfgNode, first: Report, report: Report) -> Difference:
    keys = cfg.genext.benchmark
    if keys.bootstrap:
        return bootstrap_difference(first, report, samples=keys.bootstrap, seed=keys.seed)
    changes = {"mAP": report.mAP - first.mAP, "rank1": report.rank(1) - first.rank(1)}
    return {name: (change, change, change) for name, change in changes.items()}


def _precision_effect(
    cfg: CfgNode, backbone: Backbone, images: tuple[Images, Images], chain: Chain, report: Report
) -> PrecisionEffect | None:
    """Known if exact features are cached, or asked for by ``genext.benchmark.compare_precision``."""
    if cfg.genext.inference.precision == "fp32":
        return None
    encoder = settings.build_encoder(cfg, backbone, exact=True)
    images = settings.with_generated(cfg, images, [chain])
    missing = sum(plan.to_compute for plan in _plans(cfg, encoder, images))
    if missing and not cfg.genext.benchmark.compare_precision:
        return None
    extractions = [_extract(cfg, encoder, split) for split in images]
    generated = [_extract_generated(cfg, encoder, *pair) for pair in zip(images, extractions)]
    sets = [_retrieval_set(*parts) for parts in zip(images, extractions, generated)]
    return PrecisionEffect(cfg.genext.inference.precision, report.mAP, _evaluate(cfg, *sets, chain).mAP)
