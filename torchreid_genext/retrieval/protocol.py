"""Evaluate anyone's features: sets in, a report out.

    report = evaluate(RetrievalSet(qf, q_pids, q_camids), RetrievalSet(gf, g_pids, g_camids), "nfc")
    report.mAP, report.rank(1), report.summary()

The matrix of all distances never exists: images are compared in blocks, of queries and of the gallery.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torchreid_genext.retrieval._memory import PeakMemory
from torchreid_genext.retrieval.centralization import id2
from torchreid_genext.retrieval.chain import Chain, expand_chains
from torchreid_genext.retrieval.comparison import METRICS, Comparison, Metric, distances
from torchreid_genext.retrieval.metrics import PROTOCOLS, Ranking, rank_streamed
from torchreid_genext.retrieval.report import Report, bootstrap_difference
from torchreid_genext.retrieval.sets import RetrievalSet, Sightings, unmatched_queries
from torchreid_genext.retrieval.steps import STEPS, Step

__all__ = [
    "METRICS", "STEPS", "Chain", "Comparison", "Report", "RetrievalSet", "Sightings", "Step",
    "bootstrap_difference", "distances", "evaluate", "expand_chains", "transform",
]  # fmt: skip

logger = logging.getLogger(__name__)

# What becomes of queries without a match where they are not left out.
_FATES = {
    "streid": "they count as failures",
    "genid": "their average precision counts as 0, their recall as 1",
}


def evaluate(
    query: RetrievalSet,
    gallery: RetrievalSet,
    chain: Chain | str = Chain(),
    *,
    metric: str = "euclidean",
    protocol: str = "market1501",
    max_rank: int = 50,
    memory_limit: int | None = None,
    train: Sightings | None = None,
    index: str = "exact",
) -> Report:
    """Apply a chain to both sets, rank the gallery for each query, and report.

    Args:
        query: what is searched for.
        gallery: what is searched; features as wide as the query's.
        chain: steps, as a ``Chain`` or its text.
        metric: ``euclidean`` (squared, as in torchreid) or ``cosine`` distance.
        protocol: ``market1501``, ``cuhk03``, or an official evaluation: of ST-ReID, ``streid``, of CamStyle,
            ``camstyle``, or of GenerativePersonReID, ``genid``; see ``metrics``.
        max_rank: length of the CMC curve; at most the gallery's size.
        memory_limit: bytes of working memory, of steps and for a block of distances; 96 MiB unless told.
        train: who was where when in the training split, for spatio-temporal steps.
        index: how steps search neighbours: ``exact``, or through faiss, see ``neighbours.nearest``.

    Returns:
        The report; rates in 0 .. 1.

    Raises:
        ValueError: if the sets do not belong together, no query has a match (it says which and why), or an
            argument is out of range.
    """
    chain = Chain.parse(chain) if isinstance(chain, str) else chain
    _check(query, gallery, metric, protocol, max_rank, memory_limit)
    clock = _Clock()
    after = _apply(Comparison(query, gallery, Metric(metric), train, memory_limit, index), chain, clock)
    with clock.step("rank"):
        ranking = _rank(after, protocol, max_rank)
    query, gallery = after.query, after.gallery
    with clock.step("id2"):
        density_query, density_gallery = id2(query.features, query.pids), id2(gallery.features, gallery.pids)
    return Report.of(
        chain, protocol, metric, ranking, density_query, density_gallery,
        max_rank=min(max_rank, len(gallery)), num_gallery=len(gallery),
        seconds=clock.seconds, peak_memory=clock.peak_memory,
    )  # fmt: skip


def transform(
    query: RetrievalSet,
    gallery: RetrievalSet,
    chain: Chain | str,
    *,
    metric: str = "euclidean",
    memory_limit: int | None = None,
    train: Sightings | None = None,
    index: str = "exact",
) -> Comparison:
    """Both sets, and how they are compared, as they are after a chain; arguments as `evaluate`."""
    chain = Chain.parse(chain) if isinstance(chain, str) else chain
    start = Comparison(query, gallery, Metric(metric), train, memory_limit, index)
    return _apply(start, chain, _Clock())


def _apply(comparison: Comparison, chain: Chain, clock: _Clock) -> Comparison:
    for step in chain.steps:
        with clock.step(step.name):
            comparison = step(comparison)
    return comparison


def _check(
    query: RetrievalSet,
    gallery: RetrievalSet,
    metric: str,
    protocol: str,
    max_rank: int,
    memory_limit: int | None,
) -> None:
    widths = query.features.shape[1], gallery.features.shape[1]
    if widths[0] != widths[1]:
        raise ValueError(f"expected query and gallery features of one width, got {widths[0]} and {widths[1]}")
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; choose from {', '.join(PROTOCOLS)}")
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; choose from {', '.join(METRICS)}")
    if max_rank < 1:
        raise ValueError(f"expected max_rank >= 1, got {max_rank}")
    if memory_limit is not None and memory_limit < 1:
        raise ValueError(f"expected memory_limit >= 1 byte, got {memory_limit}")
    unmatched = unmatched_queries(query, gallery)
    if protocol == "genid":  # the query's own camera is as good as another
        unmatched = replace(unmatched, same_camera=())
    if len(unmatched) == len(query):
        raise ValueError(str(unmatched))
    if unmatched:
        fate = _FATES.get(protocol, "they are left out of all rates")
        logger.warning("%s; %s", unmatched, fate)


def _rank(comparison: Comparison, protocol: str, max_rank: int) -> Ranking:
    query, gallery = comparison.query, comparison.gallery
    labels = (query.pids, gallery.pids, query.camids, gallery.camids)
    return rank_streamed(
        lambda rows, columns: comparison.distances(rows, columns).cpu().numpy(),
        *(values.numpy() for values in labels),
        gallery_rows=len(gallery) if comparison.reranked else None,  # re-ranking gives whole rows
        memory_limit=4 * comparison.pairs_within_limit,
        protocol=protocol,
        max_rank=max_rank,
    )


class _Clock:
    """Seconds and peak memory of each step, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_memory: dict[str, int] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        memory, start = PeakMemory(), time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        self.peak_memory[name] = max(self.peak_memory.get(name, 0), memory.growth())
