"""The protocols from their descriptions: one query's ranked list at a time, then means over queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tests.reference.ranking import average_precision, recall_curve, streid_average_precision


class Rules(NamedTuple):
    """What a protocol counts: junk and own camera are left out; unmatched queries count or not."""

    junk: bool
    own_camera: bool
    precision: Callable[[np.ndarray], float]
    all_queries: bool


RULES = {
    "market1501": Rules(True, False, average_precision, False),
    "cuhk03": Rules(True, False, average_precision, False),
    "streid": Rules(True, False, streid_average_precision, True),
    "camstyle": Rules(True, False, streid_average_precision, False),
    "genid": Rules(False, True, average_precision, True),
}

TIES = ("stable", "pessimistic", "optimistic")


def hits(row, pid, camid, g_pids, g_camids, rules: Rules, ties: str) -> np.ndarray:
    """Whether each image of one query's ranking is a match, nearest first."""
    kept = []
    for g, distance in enumerate(row):
        own = g_pids[g] == pid and g_camids[g] == camid and not rules.own_camera
        if not own and not (rules.junk and str(g_pids[g]) == "-1"):
            match = g_pids[g] == pid
            second = {"stable": 0, "pessimistic": match, "optimistic": not match}[ties]
            kept.append((distance, second, g, match))
    return np.array([match for *_, match in sorted(kept)], dtype=bool)


def ranked_queries(distances, q_pids, g_pids, q_camids, g_camids, protocol: str) -> list[dict]:
    """Average precision and first rank of each query for every reading of ties; also its mINP and recall."""
    rules, found = RULES[protocol], []
    for row, pid, camid in zip(distances, q_pids, q_camids):
        one = {}
        for ties in TIES:
            matches = hits(row, pid, camid, g_pids, g_camids, rules, ties)
            places = np.flatnonzero(matches) + 1
            one[ties] = (rules.precision(matches), places[0]) if len(places) else (np.nan, 0)
            if ties == "stable":
                one["penalty"] = len(places) / places[-1] if len(places) else np.nan
                one["recall"] = recall_curve(matches)
        found.append(one)
    return found


def rates(found: list[dict], protocol: str, max_rank: int) -> dict:
    """Means over the queries that count; a query without a match adds nothing, but to the recall curve."""
    matched = [one for one in found if one["stable"][1]]
    number = len(found) if RULES[protocol].all_queries else len(matched)
    cmc = [sum(one["stable"][1] <= k for one in matched) / number for k in range(1, max_rank + 1)]
    if protocol == "genid":
        cmc = [sum(one["recall"][k] for one in found) / number for k in range(min(max_rank, 25))]
    mean = {ties: sum(one[ties][0] for one in matched) / number for ties in TIES}
    first = {ties: sum(one[ties][1] == 1 for one in matched) / number for ties in TIES}
    return {
        "mAP": mean["stable"],
        "map_bounds": (mean["pessimistic"], mean["optimistic"]),
        "rank1_bounds": (cmc[0],) * 2 if protocol == "genid" else (first["pessimistic"], first["optimistic"]),
        "mINP": sum(one["penalty"] for one in matched) / number,
        "cmc": cmc,
    }


def sampled_curve(
    distances, q_pids, g_pids, q_camids, g_camids, max_rank: int, repeats: int = 10, seed: int | None = None
) -> np.ndarray:
    """The CMC of CUHK03 as torchreid draws it: one image of each identity by numpy's global generator.

    With a seed each query has a generator of its own, which draws from the gallery as it is given.
    """
    curves = []
    for number, (row, pid, camid) in enumerate(zip(distances, q_pids, q_camids)):
        source = np.random if seed is None else np.random.default_rng((seed, number))
        order = [g for g in np.argsort(row, kind="stable") if not (g_pids[g] == pid and g_camids[g] == camid)]
        if any(g_pids[g] == pid for g in order):
            places: dict = {}
            for g in order if seed is None else sorted(order):
                places.setdefault(g_pids[g], []).append(order.index(g))
            curve = np.zeros(max_rank)
            for _ in range(repeats):
                drawn = {identity: source.choice(some) for identity, some in places.items()}
                rank = sum(place < drawn[pid] for place in drawn.values())
                curve[rank:] += 1
            curves.append(curve / repeats)
    return np.mean(curves, axis=0)


def bootstrap_by_identity(
    gains: np.ndarray, pids: np.ndarray, samples: int, seed: int
) -> tuple[float, float]:
    """95 % interval of the mean gain of a query, whole identities drawn with replacement."""
    generator, identities, means = np.random.default_rng(seed), sorted(set(pids.tolist())), []
    for _ in range(samples):
        drawn = generator.choice(identities, len(identities))
        rows = [row for identity in drawn for row in np.flatnonzero(pids == identity)]
        means.append(gains[rows].mean())
    return tuple(np.percentile(means, (2.5, 97.5)))
