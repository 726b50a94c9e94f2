"""The run itself: check everything, extract once per backbone, evaluate every chain, compare, report."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchreid_genext import config
from torchreid_genext.benchmark import (
    drawing,
    extracting,
    rank_lists,
    settings,
    writing,
)
from torchreid_genext.benchmark.extracting import Split
from torchreid_genext.benchmark.memory import PeakMemory
from torchreid_genext.benchmark.results import (
    Difference,
    Measurement,
    PrecisionEffect,
    Result,
)
from torchreid_genext.benchmark.settings import Backbone, Images
from torchreid_genext.benchmark.together import Together
from torchreid_genext.extraction import Encoder, FeatureTable
from torchreid_genext.retrieval.folds import folds
from torchreid_genext.retrieval.open_set import OpenSet
from torchreid_genext.retrieval.protocol import (
    Chain,
    Comparison,
    Protocol,
    Report,
    RetrievalSet,
    Training,
    bootstrap,
    bootstrap_difference,
    compare,
)
from torchreid_genext.retrieval.rules import protocol_named
from torchreid_genext.retrieval.sets import repeated_queries

if TYPE_CHECKING:
    from yacs.config import CfgNode

__all__ = ["Evaluated", "compared_with_first", "describe", "evaluate_chain", "evaluated", "run"]

_log = logging.getLogger(__name__)
_KEPT = 2**30  # bytes of features that are kept for pictures and rank lists; of other chains they are made anew


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
    settings.check_keys(cfg)
    settings.check_dataset(cfg)
    settings.check_backbones(backbones, chains)
    name = settings.dataset_name(cfg)
    together = Together()
    encoders = _encoders(cfg, backbones)
    with together.one_after_the_first():
        if together.first:
            # Also tells now, not after the work, if nothing can be written there.
            config.write_config(cfg, cfg.data.save_dir)
        images = settings.open_dataset(cfg)
        settings.check_needs(cfg, images, chains)
        images = settings.with_generated(cfg, images, chains)
    result = Result(name, cfg.test.dist_metric, settings.protocol(cfg), [], Path(cfg.data.save_dir))
    for backbone, encoder in zip(backbones, encoders):
        with _at_work(encoder):
            measured = _measure(cfg, backbone, encoder, images, chains, together)
        result = replace(result, measurements=[*result.measurements, measured])
        if together.first:
            writing.write(result)  # what is measured stands, whatever becomes of the rest
    return result if together else _illustrated(cfg, result)


def _illustrated(cfg: CfgNode, result: Result) -> Result:
    """The result with pictures and rank lists, as far as they are asked for."""
    if cfg.genext.benchmark.pictures and any(measured.reports for measured in result.measurements):
        result = replace(result, pictures=drawing.draw(result))
    if cfg.genext.benchmark.rank_lists:
        keys = cfg.genext.benchmark
        lists = rank_lists.write(result, queries=keys.rank_list_queries, depth=keys.rank_list_depth)
        result = replace(result, rank_lists=lists)
    writing.write(result)
    return result


def describe(cfg: CfgNode) -> str:
    """What `run` would do, after the same checks; nothing is written, downloaded or extracted."""
    chains, backbones = settings.chains(cfg), settings.backbones(cfg)
    settings.check_keys(cfg)
    settings.check_dataset(cfg)
    settings.check_backbones(backbones, chains)
    lines = [f"{len(chains)} chains for each model: {', '.join(chain.name for chain in chains)}"]
    lines += [f"report and pictures in {cfg.data.save_dir}, features in {settings.cache_dir(cfg)}"]
    encoders = _encoders(cfg, backbones)
    if settings.is_ours(cfg) and not settings.is_present(cfg):
        labels = ", ".join(backbone.label for backbone in backbones)
        name, root = settings.dataset_name(cfg), cfg.data.root
        first = f"{name} will first be drawn below {root}, then extracted for {labels}"
        return "\n".join([first, *lines])
    images = settings.open_dataset(cfg)
    settings.check_needs(cfg, images, chains)
    images = query, gallery = settings.with_generated(cfg, images, chains)
    sizes = f"{settings.dataset_name(cfg)}: {len(query.paths)} query and {len(gallery.paths)} gallery images"
    every = [*images, *settings.training_images(cfg, chains)]
    plans = [_described(cfg, *pair, every) for pair in zip(backbones, encoders)]
    return "\n".join([sizes, *plans, *lines])


def _encoders(cfg: CfgNode, backbones: Sequence[Backbone]) -> list[Encoder | FeatureTable]:
    """One each, in the host's memory: all of them together may be too many for an accelerator's."""
    return [settings.build_encoder(cfg, backbone).to("cpu") for backbone in backbones]


@contextmanager
def _at_work(encoder: Encoder | FeatureTable) -> Iterator[None]:
    """The encoder is on its device for as long as this lasts."""
    encoder.to(encoder.device)
    try:
        yield
    finally:
        encoder.to("cpu")


def _described(cfg: CfgNode, backbone: Backbone, encoder: Encoder, images: Sequence[Images]) -> str:
    with _at_work(encoder):
        plans = extracting.plans(cfg, encoder, images)
    missing, total = sum(plan.to_compute for plan in plans), sum(len(plan.paths) for plan in plans)
    if not missing:
        return f"{backbone.label}: all {total} features are cached"
    seconds = sum(plan.estimated_seconds(workers=extracting.workers(cfg)) for plan in plans)
    work = f"{missing} of {total} features to extract in {encoder.precision}"
    return f"{backbone.label}: {work}, about {seconds:.0f} s"


def _measure(
    cfg: CfgNode,
    backbone: Backbone,
    encoder: Encoder,
    images: tuple[Images, Images],
    chains: list[Chain],
    together: Together,
) -> Measurement:
    _log.info("%s: extracting features", backbone.label)
    training = settings.training_images(cfg, chains)
    learnt = [Split(cfg, encoder, together.part(split)) for split in training]
    splits = [Split(cfg, encoder, together.part(split)) for split in images]
    query, gallery = (split.images for split in splits)
    runs = [run for split in (*splits, *learnt) for run in split.runs]
    if together:  # all that was extracted is in the cache: what is needed as a whole is read from there
        together.wait()
        learnt = [Split(cfg, encoder, split) for split in training]
    train = learnt[0].images if learnt else settings.training_sightings(cfg)
    found = evaluated(cfg, query, gallery, chains, train, together)
    if together:
        query = Split(cfg, encoder, images[0]).images  # a report names each query
    rows = compared_with_first(cfg, found, chains[0])
    first = found.first(chains[0])
    return Measurement(
        backbone=backbone,
        precision=encoder.precision,
        computed=int(together.sum(sum(run.computed for run in runs))),
        seconds=sum(run.seconds for run in runs),
        unreadable=together.united({path: why for run in runs for path, why in run.unreadable.items()}),
        coverage={name: part.coverage for name, part in zip(("query", "gallery"), splits) if part.coverage},
        query=query,
        gallery=gallery,
        precision_effect=None if together or first is None
        else _precision_effect(cfg, backbone, encoder, images, chains[0], first),
        train=train,
        metric=cfg.test.dist_metric,
        memory_limit=cfg.genext.evaluation.memory_limit or None,
        index=cfg.genext.evaluation.index,
        dataset=settings.dataset_name(cfg),
        **rows,
    )


def compared_with_first(cfg: CfgNode, found: Evaluated, chain: Chain) -> dict[str, Any]:
    """What a `Measurement` says of its chains: their reports, beside that of the first one.

    Args:
        cfg: the whole tree; of it ``genext.benchmark``.
        found: what became of the chains.
        chain: that the others are compared with.
    """
    first, reports = found.first(chain), found.reports
    return {
        "reports": reports,
        "differences": [_difference(cfg, first, report) for report in reports],
        "intervals": [_interval(cfg, report) for report in reports] if cfg.genext.benchmark.bootstrap else [],
        "failures": found.failures,
        "peak_memory": found.peak_memory,
        "open_sets": found.open_sets,
        "comparisons": found.comparisons,
    }


class Evaluated:
    """What became of each chain."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.failures: dict[str, str] = {}
        self.peak_memory: dict[str, int] = {}
        self.open_sets: dict[str, OpenSet] = {}
        self.comparisons: dict[str, Comparison] = {}

    def first(self, chain: Chain) -> Report | None:
        """The report of the chain that others are compared with; None if it failed."""
        return next((report for report in self.reports if report.chain == chain.name), None)


def evaluated(
    cfg: CfgNode,
    query: RetrievalSet,
    gallery: RetrievalSet,
    chains: list[Chain],
    train: Training | None,
    together: Together | None = None,
) -> Evaluated:
    """Apply and rank each chain once; one that fails costs no more than its own row.

    Args:
        query: or this process's shard of it, as the gallery.
        together: the processes that hold the shards.
    """
    _warn_of_copies(query, gallery, protocol_named(settings.protocol(cfg)))
    found, room = Evaluated(), _KEPT if _draws(cfg) else 0
    for chain in chains:
        memory = PeakMemory()
        try:
            if together:
                found.reports.append(together.rank(query, gallery, chain, train, **_options(cfg)))
                continue
            comparison = _compared(cfg, query, gallery, chain, train)
            report = comparison.rank(settings.protocol(cfg))
            found.peak_memory[chain.name] = memory.growth()
            if cfg.genext.benchmark.open_set:
                found.open_sets[chain.name] = _open_set(cfg, comparison, report, chain, train)
            found.reports.append(report)
        except Exception as error:  # whatever it is: hours of other rows must not be lost
            detail = _log.isEnabledFor(logging.DEBUG)
            _log.warning("  chain %s failed: %s", chain.name, error, exc_info=detail)
            reason = " ".join(f"{type(error).__name__}: {error}".split())  # a table's row
            found.failures[chain.name] = reason
        else:
            room -= 4 * (comparison.query.features.numel() + comparison.gallery.features.numel())
            if room >= 0:
                found.comparisons[chain.name] = comparison
        found.peak_memory.setdefault(chain.name, memory.growth())
    return found


def _warn_of_copies(query: RetrievalSet, gallery: RetrievalSet, protocol: Protocol) -> None:
    if rows := repeated_queries(query, gallery, protocol):
        first = query.paths[rows[0]] if query.paths is not None else f"row {rows[0]}"
        _log.warning(
            "%d of %d queries, such as %s, have the very features of a gallery image of the same person, and "
            "find themselves under the protocol %s; take them out of one of both",
            len(rows), len(query), first, protocol.label,
        )  # fmt: skip


def _open_set(
    cfg: CfgNode, comparison: Comparison, report: Report, chain: Chain, train: Training | None
) -> OpenSet:
    """Decisions on the test; also by thresholds of the training split, where its features are known."""
    seed, thresholds = cfg.genext.benchmark.seed, None
    if isinstance(train, RetrievalSet):
        try:
            query, gallery, others = next(folds(train, 2, seed=seed))
            learnt = _compared(cfg, query, gallery, chain, others)
            points = learnt.open_set(learnt.rank(settings.protocol(cfg))).verification
            thresholds = {rate: point.threshold for rate, point in points.items()}
        except ValueError as error:  # generated images or times may be known of the test alone
            _log.warning("  no threshold is chosen on the training split: %s", error)
    return comparison.open_set(report, thresholds=thresholds, seed=seed)


def _draws(cfg: CfgNode) -> bool:
    """Whether something is drawn or listed after the measuring, for which chains need not be applied again."""
    return cfg.genext.benchmark.pictures or cfg.genext.benchmark.rank_lists


def evaluate_chain(
    cfg: CfgNode, query: RetrievalSet, gallery: RetrievalSet, chain: Chain, train: Training | None
) -> Report:
    """One chain as the configuration has it measured."""
    return _compared(cfg, query, gallery, chain, train).rank(settings.protocol(cfg))


def _compared(
    cfg: CfgNode, query: RetrievalSet, gallery: RetrievalSet, chain: Chain, train: Training | None
) -> Comparison:
    _log.info("  chain %s", chain.name)
    return compare(
        query,
        gallery,
        chain,
        metric=cfg.test.dist_metric,
        memory_limit=cfg.genext.evaluation.memory_limit or None,
        train=train,
        index=cfg.genext.evaluation.index,
    )


def _options(cfg: CfgNode) -> dict[str, Any]:
    """Of a chain on shards."""
    limit = cfg.genext.evaluation.memory_limit or None
    return {"metric": cfg.test.dist_metric, "protocol": settings.protocol(cfg), "memory_limit": limit}


def _interval(cfg: CfgNode, report: Report) -> Difference:
    keys = cfg.genext.benchmark
    return bootstrap(report, samples=keys.bootstrap, seed=keys.seed)


def _difference(cfg: CfgNode, first: Report | None, report: Report) -> Difference | None:
    keys = cfg.genext.benchmark
    if first is None or report is first:
        return None
    if keys.bootstrap:
        return bootstrap_difference(first, report, samples=keys.bootstrap, seed=keys.seed)
    changes = {"mAP": report.mAP - first.mAP, "rank1": report.rank(1) - first.rank(1)}
    return {name: (change, change, change) for name, change in changes.items()}


def _precision_effect(
    cfg: CfgNode,
    backbone: Backbone,
    encoder: Encoder,
    images: tuple[Images, Images],
    chain: Chain,
    report: Report,
) -> PrecisionEffect | None:
    """Known if exact features are cached, or asked for by ``genext.benchmark.compare_precision``."""
    if (precision := encoder.precision) == "fp32":
        return None
    encoder = settings.build_encoder(cfg, backbone, exact=True)
    images = settings.with_generated(cfg, images, [chain])
    every = [*images, *settings.training_images(cfg, [chain])]
    missing = sum(plan.to_compute for plan in extracting.plans(cfg, encoder, every))
    if missing and not cfg.genext.benchmark.compare_precision:
        return None
    query, gallery, *learnt = (Split(cfg, encoder, split).images for split in every)
    train = learnt[0] if learnt else settings.training_sightings(cfg)
    exact = evaluate_chain(cfg, query, gallery, chain, train)
    return PrecisionEffect(precision, report.mAP, exact.mAP)
