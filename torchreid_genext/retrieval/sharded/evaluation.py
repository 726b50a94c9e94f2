"""Evaluation of features that live in shards: queries travel, counts are summed."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from torchreid_genext.retrieval._blocks import blocks as row_blocks
from torchreid_genext.retrieval._blocks import check_count, check_limit
from torchreid_genext.retrieval._counting import Gallery, Tally
from torchreid_genext.retrieval._numerics import full_precision
from torchreid_genext.retrieval.chain import Chain
from torchreid_genext.retrieval.comparison import Comparison, Metric
from torchreid_genext.retrieval.metrics import (
    Blocks,
    Protocol,
    Ranking,
    block_shape,
    collect,
    count,
    protocol_named,
)
from torchreid_genext.retrieval.protocol import known
from torchreid_genext.retrieval.report import Report
from torchreid_genext.retrieval.sets import RetrievalSet, Training
from torchreid_genext.retrieval.sharded.cameras import CameraReranking
from torchreid_genext.retrieval.sharded.processes import Processes
from torchreid_genext.retrieval.sharded.reporting import assembled
from torchreid_genext.retrieval.sharded.reranking import Reranking
from torchreid_genext.retrieval.sharded.shards import Shards, cameras_of, visitors
from torchreid_genext.retrieval.sharded.steps import applied, check_step
from torchreid_genext.retrieval.steps import Step

__all__ = ["evaluate"]

Measured = Callable[[int, RetrievalSet, slice, slice], Tensor]


@full_precision()
def evaluate(
    query: RetrievalSet,
    gallery: RetrievalSet,
    chain: Chain | str = "base",
    *,
    metric: str = "euclidean",
    protocol: Protocol | str = "market1501",
    max_rank: int = 50,
    memory_limit: int | None = None,
    train: Training | None = None,
    group: dist.ProcessGroup | None = None,
) -> Report:
    """Apply a chain to shards of both sets, and rank the whole gallery for each query.

    Args:
        query: shard of this process; it may have no rows.
        gallery: its shard of what is searched, likewise.
        chain: of the steps ``l2``, ``camera_norm``, ``lda``, ``tracklets``, ``fuse``, ``blend``, ``dmon``,
            ``nfc`` (each set on its own), ``aqe``, ``alpha_qe``, ``dba``, ``st``,
            ``rerank`` of features only, and ``ca_jaccard``.
        metric: ``euclidean`` (squared, as in torchreid) or ``cosine`` distance.
        protocol: one whose curve is a CMC, such as ``market1501`` or ``streid``, the same on all processes.
        max_rank: length of the CMC curve, >= 1; at most the gallery's size.
        memory_limit: bytes of working memory, 96 MiB unless told; one visiting shard comes on top. Of
            ``tracklets`` a process holds all images of its share of the cameras.
        train: the whole training split on every process, for steps that learn from it.
        group: processes that hold the shards; None is the whole world.

    Returns:
        The report of all queries, process 0's first, on every process.

    Raises:
        ValueError: if an argument is out of range or not supported, on any process.
        RuntimeError: if no process group is initialised, or another process has ended.
    """
    processes = Processes(query.features.device, group)
    chain, protocol = processes.agreed(
        lambda: _checked(query, gallery, chain, metric, protocol, max_rank, memory_limit, train)
    )
    chosen = {"chain": chain.name, "metric": metric, "protocol": protocol, "memory_limit": str(memory_limit)}
    sizes = {"width": query.features.shape[1], "training images": 0 if train is None else len(train)}
    processes.same(max_rank=int(max_rank), **sizes, **chosen)
    if not sum(processes.numbers(len(gallery))):
        raise ValueError("expected a gallery image on one process at least, got none")
    comparison = Comparison(query, gallery, Metric(metric), train, memory_limit)
    for step in chain.steps[: -1 if chain.reranks else None]:
        comparison = applied(comparison, step, processes)
    start = time.perf_counter()
    measured = _reranked(comparison, chain.steps[-1], processes) if chain.reranks else _compared(comparison)
    own = _ranked(comparison, measured, protocol, processes, whole_rows=chain.reranks)
    comparison = replace(comparison, steps=chain.steps)
    seconds = {**comparison.seconds, "rank": time.perf_counter() - start}
    return assembled(comparison, own, processes, max_rank=max_rank, seconds=seconds)


def _checked(
    query: RetrievalSet,
    gallery: RetrievalSet,
    chain: Chain | str,
    metric: str,
    protocol: Protocol | str,
    max_rank: int,
    memory_limit: int | None,
    train: Training | None,
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
    check_count("max_rank", max_rank)
    Metric(metric)
    chain = Chain.parse(chain)
    for step in chain.steps:
        check_step(step)
    names = {"measures" if step.measures else step.name for step in chain.steps}
    if "rerank" in names and names & {"measures", "blend"}:
        raise ValueError(f"expected rerank of features alone in shards, else ca_jaccard, got {chain.name}")
    chain.check_needs(known(query, gallery, train))
    return chain, protocol


def _compared(comparison: Comparison) -> Measured:
    """Distances of visiting queries to this process's gallery."""

    def block(source: int, visiting: RetrievalSet, rows: slice, columns: slice) -> Tensor:
        return comparison.measure(visiting.select(rows), comparison.gallery.select(columns))

    return block


def _reranked(comparison: Comparison, step: Step, processes: Processes) -> Measured:
    if step.name == "ca_jaccard":
        cameras = CameraReranking(comparison, step, processes)
        of_cameras = functools.lru_cache(1)(cameras.against)
        return lambda source, visiting, rows, columns: of_cameras(source, visiting)(rows)[:, columns]
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
    shards, queries = Shards(len(gallery), processes), Shards(len(query), processes)
    labels = protocol.gallery(gallery.pids.numpy(), cameras_of(gallery).numpy(), first=shards.offset)
    largest = max(shards.sizes)
    for source, visiting in visitors(query, queries):
        block = _blank_last(functools.partial(measured, source, visiting), gallery)
        limit = 4 * comparison.pairs_within_limit  # of the largest gallery: all must make the same blocks
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
    if not any(processes.numbers(int(ranking.valid.any()))):
        raise ValueError("expected a query with a match in the gallery, got none on any process")
    return ranking


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
