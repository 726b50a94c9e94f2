"""Evaluation of features that live in shards: queries travel, counts are summed."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist
from numpy.lib.recfunctions import structured_to_unstructured, unstructured_to_structured
from numpy.typing import NDArray
from torch import Tensor

from torchreid_genext.retrieval._blocks import blocks as row_blocks
from torchreid_genext.retrieval._blocks import check_limit
from torchreid_genext.retrieval._counting import Gallery, Tally
from torchreid_genext.retrieval._numerics import full_precision, unit
from torchreid_genext.retrieval.chain import Chain
from torchreid_genext.retrieval.comparison import Comparison, Metric
from torchreid_genext.retrieval.metrics import (
    MATCHES,
    Blocks,
    Protocol,
    Ranking,
    block_shape,
    collect,
    count,
    protocol_named,
)
from torchreid_genext.retrieval.sets import RetrievalSet
from torchreid_genext.retrieval.sharded.neighbours import nfc
from torchreid_genext.retrieval.sharded.processes import Processes
from torchreid_genext.retrieval.sharded.reranking import Reranking
from torchreid_genext.retrieval.sharded.shards import Shards
from torchreid_genext.retrieval.steps import Step
from torchreid_genext.retrieval.steps.base import on_each

__all__ = ["evaluate"]

_STEPS = ("l2", "nfc", "rerank")

Measured = Callable[[int, RetrievalSet, slice, slice], Tensor]


@full_precision()
def evaluate(
    query: RetrievalSet,
    gallery: RetrievalSet,
    chain: Chain | str = "base",
    *,
    metric: str = "euclidean",
    protocol: Protocol | str = "market1501",
    memory_limit: int | None = None,
    group: dist.ProcessGroup | None = None,
) -> Ranking:
    """Apply a chain to shards of both sets, and rank the whole gallery for each query.

    Args:
        query: shard of this process; it may have no rows.
        gallery: its shard of what is searched, likewise.
        chain: of the steps ``l2``, ``nfc`` (neighbours of any camera, each set on its own) and ``rerank``.
        metric: ``euclidean`` (squared, as in torchreid) or ``cosine`` distance.
        protocol: one whose curve is a CMC, such as ``market1501`` or ``streid``, the same on all processes.
        memory_limit: bytes of working memory, 96 MiB unless told; one visiting shard comes on top.
        group: processes that hold the shards; None is the whole world.

    Returns:
        The ranking of all queries, process 0's first, on every process; it has the rates.

    Raises:
        ValueError: if an argument is out of range or not supported, on any process.
        RuntimeError: if no process group is initialised, or another process has ended.
    """
    processes = Processes(query.features.device, group)
    chain, protocol = processes.agreed(
        lambda: _checked(query, gallery, chain, metric, protocol, memory_limit)
    )
    chosen = {"chain": chain.name, "metric": metric, "protocol": protocol, "memory_limit": str(memory_limit)}
    processes.same(width=query.features.shape[1], **chosen)
    comparison = Comparison(query, gallery, Metric(metric), memory_limit=memory_limit)
    for step in chain.steps:
        if step.name == "rerank":
            measured = _reranked(comparison, step, processes)
            return _ranked(comparison, measured, protocol, processes, whole_rows=True)
        comparison = _changed(comparison, step, group)
    return _ranked(comparison, _compared(comparison), protocol, processes)


def _checked(
    query: RetrievalSet,
    gallery: RetrievalSet,
    chain: Chain | str,
    metric: str,
    protocol: Protocol | str,
    memory_limit: int | None,
) -> tuple[Chain, Protocol]:
    widths = query.features.shape[1], gallery.features.shape[1]
    if widths[0] != widths[1]:
        raise ValueError(f"expected query and gallery features of one width, got {widths[0]} and {widths[1]}")
    protocol = protocol_named(protocol)
    if protocol.curve != "cmc":  # a sampled curve wants whole rows, which no process has
        raise ValueError(f"expected a protocol whose curve is a CMC in shards, got {protocol.name}")
    for whose, images in (("queries", query), ("gallery images", gallery)):
        protocol.check_cameras(images.camids, whose)
    check_limit(memory_limit)
    Metric(metric)
    chain = Chain.parse(chain)
    for step in chain.steps:
        _check_step(step)
    return chain, protocol


def _check_step(step: Step) -> None:
    if step.name not in _STEPS:
        raise ValueError(f"expected only the steps {', '.join(_STEPS)} in shards, got {step.name}")
    if step.name != "nfc":
        return
    if step.side == "joint" or step.neighbours != "any" or step.self_distance != math.inf:
        raise ValueError(
            "expected nfc in shards with neighbours=any, self_distance=inf, and each set on its own, "
            f"got side={step.side}, neighbours={step.neighbours}, self_distance={step.self_distance}"
        )


def _changed(comparison: Comparison, step: Step, group: dist.ProcessGroup | None) -> Comparison:
    if step.name == "l2":
        return step(comparison)
    comparison = comparison.with_measure(replace(comparison.measure, steady=True))

    def normalized(features: Tensor, wanted: bool) -> Tensor:
        return unit(features) if wanted else features

    def centralized(images: RetrievalSet) -> Tensor:
        features = normalized(images.features, step.normalize_before)
        options = {"memory_limit": comparison.memory_limit, "group": group}
        return normalized(nfc(features, k1=step.k1, k2=step.k2, **options), step.normalize_after)

    def left_alone(images: RetrievalSet) -> Tensor:
        return normalized(images.features, step.normalize_before or step.normalize_after)

    return on_each(comparison, step.side, centralized, left_alone)


def _compared(comparison: Comparison) -> Measured:
    """Distances of visiting queries to this process's gallery."""

    def block(source: int, visiting: RetrievalSet, rows: slice, columns: slice) -> Tensor:
        return comparison.measure(visiting.select(rows), comparison.gallery.select(columns))

    return block


def _reranked(comparison: Comparison, step: Step, processes: Processes) -> Measured:
    reranking = Reranking(
        comparison.query.features, comparison.gallery.features, processes,
        metric=comparison.measure.name, memory_limit=comparison.memory_limit, **vars(step),
    )  # fmt: skip
    against = functools.lru_cache(1)(
        lambda source, visiting: reranking.against(source, reranking.prepared(visiting.features))
    )
    return lambda source, visiting, rows, columns: against(source, visiting)(rows)[:, columns]


def _ranked(
    comparison: Comparison,
    measured: Measured,
    protocol: Protocol,
    processes: Processes,
    *,
    whole_rows: bool = False,
) -> Ranking:
    query, gallery = comparison.query, comparison.gallery
    shards = Shards(len(gallery), processes)
    labels = protocol.gallery(gallery.pids.numpy(), _cameras(gallery).numpy(), first=shards.offset)
    if not shards.total:
        raise ValueError("expected a gallery image on one process at least, got none")
    largest = max(shards.sizes)
    columns = (values.to(processes.device) for values in (query.pids, _cameras(query)))
    queries = Shards(len(query), processes)
    for source, values in queries.visits(query.features, *columns):
        visiting = RetrievalSet(*values)
        block = _blank_last(functools.partial(measured, source, visiting), gallery)
        limit = comparison.memory_limit  # of the largest gallery, since all must make the same blocks
        shape = block_shape(len(visiting), largest, limit, whole_rows=whole_rows)
        blocks = Blocks(block, len(gallery), shape[1])
        tallies = [
            _tallied(visiting, labels, blocks, rows, processes)
            for rows in row_blocks(len(visiting), max(1, shape[0]))
        ]
        if source == processes.rank:
            tallies = tallies or [Tally(labels, visiting.pids.numpy(), visiting.camids.numpy())]
            firsts = np.cumsum([queries.offset, *(len(tally.pids) for tally in tallies[:-1])])
            parts = [Ranking.of(tally, protocol, int(first)) for tally, first in zip(tallies, firsts)]
            ranking = Ranking.concatenate(parts)
    everyone = _everyones(ranking, processes)
    if not everyone.valid.any():
        raise ValueError("expected a query with a match in the gallery, got none on any process")
    return everyone


def _cameras(images: RetrievalSet) -> Tensor:
    return torch.zeros_like(images.pids) if images.camids is None else images.camids


def _blank_last(
    measured: Callable[[slice, slice], Tensor], gallery: RetrievalSet
) -> Callable[[slice, slice], Tensor]:
    """Distances with those of images whose features were zeros infinite, as ``Comparison.distances``."""
    if not gallery.blank.any():
        return measured
    return lambda rows, columns: measured(rows, columns).masked_fill(gallery.blank[columns], math.inf)


def _tallied(
    visiting: RetrievalSet, gallery: Gallery, blocks: Blocks, rows: slice, processes: Processes
) -> Tally:
    """Matches of some visiting queries in all shards of the gallery, and the strangers before them."""
    tally = Tally(gallery, visiting.pids[rows].numpy(), visiting.camids[rows].numpy())
    collect(tally, blocks, rows)
    own = np.stack([tally.query, tally.index, tally.distance.astype(np.float64)], axis=1)
    query, index, distance = processes.gather(torch.from_numpy(own).to(processes.device)).cpu().numpy().T
    tally.replace(query.astype(np.int64), index.astype(np.int64), distance.astype(np.float32))
    count(tally, blocks, rows)
    strangers = torch.from_numpy(tally.strangers).to(processes.device)
    tally.strangers = processes.sum(strangers).cpu().numpy()
    return tally


def _everyones(ranking: Ranking, processes: Processes) -> Ranking:
    """The rankings of all processes as one."""
    names = [name for name in ranking.columns if name != "matches"]
    own = [getattr(ranking, name) for name in names]
    every = _gathered(np.stack(own, axis=1), processes)
    columns = {name: row.astype(values.dtype) for name, row, values in zip(names, every.T, own)}
    matches = _gathered(structured_to_unstructured(ranking.matches), processes)
    return replace(ranking, matches=unstructured_to_structured(matches, MATCHES), **columns)


def _gathered(rows: NDArray, processes: Processes) -> NDArray[np.float64]:
    """The rows of all processes, process 0's first."""
    return processes.gather(torch.from_numpy(rows.astype(np.float64)).to(processes.device)).cpu().numpy()
