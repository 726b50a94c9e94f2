"""Who is ranked where: the first of the gallery for some queries, after each chain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain as concatenated
from itertools import zip_longest

import numpy as np
import torch
from numpy.typing import NDArray

from torchreid_genext.retrieval.comparison import Comparison
from torchreid_genext.retrieval.metrics import Protocol, protocol_named
from torchreid_genext.retrieval.report import Report
from torchreid_genext.retrieval.sets import RetrievalSet

__all__ = ["KINDS", "Place", "RankLists", "choose_queries", "collect", "ranked_lists"]

KINDS = {
    "match": "the query's identity, seen by another camera",
    "miss": "someone else",
    "distractor": "an identity, or a false detection, that no query asks for",
    "junk": "left out by the protocol: the query's identity seen by its own camera, or a bad detection",
}


@dataclass(frozen=True)
class Place:
    """A place in a ranked gallery.

    Attributes:
        index: row of the gallery set.
        kind: a key of ``KINDS``.
        rank: 1 is best; 0 for junk, which is not counted.
        distance: to the query, as the chain compares them; smaller is closer.
    """

    index: int
    kind: str
    rank: int
    distance: float


@dataclass(frozen=True, eq=False)
class RankLists:
    """Lists of some queries after several chains.

    Attributes:
        dataset: name of the data. label: of the model.
        depth: ranks of each list.
        query: the whole query set. gallery: the whole gallery.
        rows: queries that have lists, rows of the query set, ascending.
        reports: one a chain, over all queries; the others are compared with the first.
        places: of each chain, for each query in the order of `rows`, its ranked list.
    """

    dataset: str
    label: str
    depth: int
    query: RetrievalSet
    gallery: RetrievalSet
    rows: list[int]
    reports: Sequence[Report]
    places: list[list[list[Place]]]

    def changed(self, report: Report) -> tuple[int, int]:
        """How many of all queries have the first chain's wrong rank-1 repaired, and its right one broken."""
        before, after = (r.ranking.rank1 == 1 for r in (self.reports[0], report))
        return int((~before & after).sum()), int((before & ~after).sum())


def collect(
    query: RetrievalSet,
    gallery: RetrievalSet,
    reports: Sequence[Report],
    after: Callable[[str], Comparison],
    *,
    dataset: str,
    label: str,
    queries: int = 200,
    depth: int = 10,
) -> RankLists:
    """Rank the gallery for the most telling queries after each chain.

    Args:
        query: what is searched for, with paths. gallery: what is searched, with paths.
        reports: one a chain, of these sets; the first is what others are compared with.
        after: gives the comparison after a chain, by its text; one at a time is kept.
        dataset: name of the data. label: of the model; files are named by it.
        queries: how many at most, see `choose_queries`.
        depth: ranks of each list.

    Raises:
        ValueError: if a chain repeats, there is none, the sets have no paths, or a number is below 1.
    """
    names = [report.chain for report in reports]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"expected different chains, at least one, got {', '.join(names) or 'none'}")
    if query.paths is None or gallery.paths is None:
        raise ValueError("expected query and gallery sets with paths, got a set without")
    rows = choose_queries([report.average_precision for report in reports], queries)
    protocol = reports[0].ranking.protocol
    places = [ranked_lists(after(name), rows, depth, protocol) for name in names]
    return RankLists(dataset, label, depth, query, gallery, rows, reports, places)


def choose_queries(precisions: Sequence[NDArray[np.float64]], limit: int) -> list[int]:
    """The queries that tell most of what chains change, the same in every run.

    Up to half of them are those whose average precision gains or loses most against the first chain, by every
    chain in turn; the others are spread evenly over the rest of the set.

    Args:
        precisions: average precision of each query (Q,), one array a chain; NaN without a match.
        limit: how many rows to give; all of them if the set has no more.

    Returns:
        Rows, ascending.

    Raises:
        ValueError: if the limit is below 1.
    """
    if limit < 1:
        raise ValueError(f"expected at least 1 query to list, got {limit}")
    if len(precisions[0]) <= limit:
        return list(range(len(precisions[0])))
    changes = np.nan_to_num(np.array(precisions) - precisions[0])
    telling = _largest_in_turn(np.concatenate([changes, -changes]))[: limit // 2]
    rest = np.setdiff1d(np.arange(changes.shape[1]), telling)
    spread = rest[np.linspace(0, len(rest) - 1, limit - len(telling)).round().astype(int)]
    return sorted([*telling, *spread.tolist()])


def _largest_in_turn(changes: NDArray[np.float64]) -> list[int]:
    """Queries by the largest positive value of each row of (M, Q), the rows taking turns; each query once."""
    orders = np.argsort(-changes, axis=1, kind="stable")
    kept = [order[values[order] > 0].tolist() for order, values in zip(orders, changes)]
    in_turn = concatenated.from_iterable(zip_longest(*kept))
    return list(dict.fromkeys(row for row in in_turn if row is not None))


def ranked_lists(
    comparison: Comparison,
    rows: Sequence[int],
    depth: int = 10,
    protocol: Protocol | str = "market1501",
) -> list[list[Place]]:
    """The first of the gallery as a comparison ranks it, equal distances by gallery index.

    Distances that differ in their last bit only may change places with those of an evaluation, whose blocks
    are of another size.

    Args:
        comparison: what a chain made of both sets.
        rows: of the query set, one list for each, in this order.
        depth: ranks of each list; junk among them comes on top. All of a smaller gallery.
        protocol: which says what is junk.

    Raises:
        ValueError: if the depth is below 1.
    """
    if depth < 1:
        raise ValueError(f"expected lists of at least 1 rank, got {depth}")
    protocol, query, gallery = protocol_named(protocol), comparison.query, comparison.gallery
    pids = gallery.pids.numpy()
    unasked = ~np.isin(pids, query.pids.numpy())
    lists = []
    for row, distances in zip(rows, _distances(comparison, rows)):
        same = pids == int(query.pids[row])
        junk = np.full(len(pids), False) if protocol.junk_pid is None else pids == protocol.junk_pid
        if not protocol.own_camera:
            junk = junk | same & (gallery.camids.numpy() == int(query.camids[row]))
        kinds = np.select([junk, same, unasked], ["junk", "match", "distractor"], "miss")
        lists.append(list(_places(distances, kinds, depth)))
    return lists


def _distances(comparison: Comparison, rows: Sequence[int]) -> Iterator[NDArray[np.float32]]:
    """Distances (G,) of each of these queries; the matrix of all never exists."""
    chosen = torch.tensor(rows)
    for block in comparison.row_blocks(len(rows), len(comparison.gallery)):
        yield from comparison.distances(chosen[block]).cpu().numpy()


def _places(distances: NDArray[np.float32], kinds: NDArray[np.str_], depth: int) -> Iterator[Place]:
    counted = distances[kinds != "junk"]
    if not len(counted):
        return
    depth = min(depth, len(counted))
    near = np.flatnonzero(distances <= np.partition(counted, depth - 1)[depth - 1])  # no full sort
    rank = 0
    for index in near[np.argsort(distances[near], kind="stable")].tolist():
        if rank == depth:
            return
        kind = str(kinds[index])
        rank += kind != "junk"
        yield Place(index, kind, 0 if kind == "junk" else rank, float(distances[index]))
