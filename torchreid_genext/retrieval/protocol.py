"""Evaluate anyone's features: sets in, a report out.

    report = evaluate(RetrievalSet(qf, q_pids, q_camids), RetrievalSet(gf, g_pids, g_camids), "nfc")
    report.mAP, report.rank(1), report.summary()

``evaluate`` is ``compare(query, gallery, chain).rank(protocol)``: what a chain made of both sets can be
ranked under several protocols, looked at (``Comparison.distances``), and re-ranked, without applying it
again. The matrix of all distances never exists: images are compared in blocks, of queries and of the gallery.
"""

from __future__ import annotations

from dataclasses import replace

from torchreid_genext.retrieval._blocks import check_count, check_limit
from torchreid_genext.retrieval.chain import Chain, expand_chains
from torchreid_genext.retrieval.comparison import METRICS, Comparison, Metric, distances
from torchreid_genext.retrieval.metrics import (
    PROTOCOLS,
    Protocol,
    Ranking,
    protocol_named,
)
from torchreid_genext.retrieval.neighbours import INDEXES
from torchreid_genext.retrieval.report import Report, bootstrap, bootstrap_difference
from torchreid_genext.retrieval.sets import RetrievalSet, Sightings, Training
from torchreid_genext.retrieval.steps import STEPS, Step

__all__ = [
    "METRICS", "PROTOCOLS", "STEPS", "Chain", "Comparison", "Protocol", "Ranking", "Report", "RetrievalSet",
    "Sightings", "Step", "Training", "bootstrap", "bootstrap_difference", "check_options", "compare", "distances",
    "evaluate", "expand_chains", "known", "transform",
]  # fmt: skip


def evaluate(
    query: RetrievalSet,
    gallery: RetrievalSet,
    chain: Chain | str = Chain(),
    *,
    metric: str = "euclidean",
    protocol: Protocol | str = "market1501",
    max_rank: int = 50,
    memory_limit: int | None = None,
    train: Training | None = None,
    index: str = "exact",
    seed: int | None = None,
) -> Report:
    """Apply a chain to both sets, rank the gallery for each query, and report.

    Equal distances rank by index in the gallery as it is given. Another order of the images therefore changes
    figures where there are ties, and the sums of neighbours by their last bits.

    Args:
        query: what is searched for.
        gallery: what is searched; features as wide as the query's.
        chain: steps, as a ``Chain`` or its text.
        metric: ``euclidean`` (squared, as in torchreid) or ``cosine`` distance.
        protocol: ``market1501``, ``cuhk03``, or an official evaluation: of ST-ReID, ``streid``, of CamStyle,
            ``camstyle``, or of GenerativePersonReID, ``genid``; or a ``Protocol`` of your own.
        max_rank: length of the CMC curve, >= 1; at most the gallery's size.
        memory_limit: bytes of working memory of a step, or of a block of distances; 96 MiB unless told.
            Results come on top, such as the features (N, D) of each set that a step returns.
        train: the training split, for steps that learn from it: who was where when, and with features a
            ``RetrievalSet``.
        index: how steps search neighbours: ``exact``, or through faiss, see ``neighbours.nearest``.
        seed: of the random samples of cuhk03, the same for every chain; None is the protocol's, 0.

    Returns:
        The report; rates in 0 .. 1.

    Raises:
        ValueError: if the sets do not belong together or lack what a step needs, no query has a match (it
            says which and why), or an argument is out of range.
    """
    protocol = protocol_named(protocol)
    protocol = protocol if seed is None else replace(protocol, seed=seed)
    check_count("max_rank", max_rank)
    options = {"metric": metric, "memory_limit": memory_limit, "train": train, "index": index}
    return compare(query, gallery, chain, **options).rank(protocol, max_rank=max_rank)


def compare(
    query: RetrievalSet,
    gallery: RetrievalSet,
    chain: Chain | str = Chain(),
    *,
    metric: str = "euclidean",
    memory_limit: int | None = None,
    train: Training | None = None,
    index: str = "exact",
) -> Comparison:
    """Both sets, and how they are compared, as they are after a chain; arguments as `evaluate`.

    Raises:
        ValueError: as `evaluate`, before the first step is applied.
    """
    chain = Chain.parse(chain)
    check_options(metric=metric, memory_limit=memory_limit, index=index)
    _check(query, gallery)
    chain.check_needs(known(query, gallery, train))
    comparison = Comparison(query, gallery, Metric(metric), train, memory_limit, index)
    for step in chain.steps:
        comparison = comparison.after(step)
    return comparison


transform = compare  # its earlier name


def known(query: RetrievalSet, gallery: RetrievalSet, train: Training | None) -> set[str]:
    """What there is besides features, as steps name it."""
    found = query.has & gallery.has
    found |= {
        f"generated {side}" for side, s in (("query", query), ("gallery", gallery)) if "generated" in s.has
    }
    found |= {"training features"} if isinstance(train, RetrievalSet) else set()
    timed = train is not None and train.frames is not None and train.camids is not None
    return found | ({"training times"} if timed else set())


def check_options(
    *,
    metric: str = "euclidean",
    protocol: Protocol | str = "market1501",
    memory_limit: int | None = None,
    index: str = "exact",
) -> None:
    """Tell before any work what `evaluate` would refuse of its options; raises ValueError as it does."""
    Metric(metric)
    protocol_named(protocol)
    check_limit(memory_limit)
    if index is None or isinstance(index, str) and index not in INDEXES:
        raise ValueError(f"unknown index {index!r}; choose from {', '.join(INDEXES)}")


def _check(query: RetrievalSet, gallery: RetrievalSet) -> None:
    widths = query.features.shape[1], gallery.features.shape[1]
    if widths[0] != widths[1]:
        raise ValueError(f"expected query and gallery features of one width, got {widths[0]} and {widths[1]}")
    if not (len(query) and len(gallery)):
        sizes = f"{len(query)} and {len(gallery)}"
        raise ValueError(f"expected a query and a gallery image at least, got {sizes}")
