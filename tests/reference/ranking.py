"""CMC, average precision and their like, one ranked list at a time."""

from __future__ import annotations

import numpy as np


def ranked(distances, pid, camid, g_pids, g_camids, ties: str = "stable") -> np.ndarray:
    """Whether each kept gallery image of one query is a match, in ranked order (nearest first).

    ties: ``stable`` by gallery index, ``pessimistic`` non-matches first, ``optimistic`` matches first.
    """
    kept = [g for g in range(len(g_pids)) if not (g_pids[g] == pid and g_camids[g] == camid)]
    preference = {
        "stable": lambda g: g,
        "pessimistic": lambda g: g_pids[g] == pid,
        "optimistic": lambda g: g_pids[g] != pid,
    }
    kept.sort(key=lambda g: (distances[g], preference[ties](g)))
    return np.array([g_pids[g] == pid for g in kept])


def average_precision(matches: np.ndarray) -> float:
    hits = [place for place, match in enumerate(matches, start=1) if match]
    return sum(found / place for found, place in enumerate(hits, start=1)) / len(hits)


def evaluate(distances, q_pids, g_pids, q_camids, g_camids, max_rank: int, ties: str = "stable"):
    """CMC (max_rank,), mAP and mINP over the queries that have a match."""
    curves, precisions, penalties = [], [], []
    for q in range(len(q_pids)):
        matches = ranked(distances[q], q_pids[q], q_camids[q], g_pids, g_camids, ties)
        if matches.any():
            first, last = np.flatnonzero(matches)[[0, -1]]
            curves.append([rank > first for rank in range(1, max_rank + 1)])
            precisions.append(average_precision(matches))
            penalties.append(matches.sum() / (last + 1))
    return np.mean(curves, axis=0), np.mean(precisions), np.mean(penalties)


def streid_average_precision(matches: np.ndarray) -> float:
    """ST-ReID's: half the precision before each match, which is 1 before the first image, half that after."""
    total, found, old = 0.0, 0, 1.0
    for place, match in enumerate(matches, start=1):
        found += match
        precision = found / place
        total += match * (old + precision) / 2
        old = precision
    return total / found


def recall_curve(matches: np.ndarray, length: int = 25) -> list[float]:
    """GenerativePersonReID's "CMC": of the matches among the first 25, the share among the first k."""
    shown = matches[:length]
    return [1.0 if not shown.any() else shown[:k].sum() / shown.sum() for k in range(1, length + 1)]
