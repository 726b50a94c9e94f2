"""Slow, literal restatements of the formulas, in double precision: the oracles of the fast code."""

from __future__ import annotations

import numpy as np


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances (N, M), one pair at a time."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    return np.array([[((a - b) ** 2).sum() for b in y] for a in x])


def nearest(x: np.ndarray, y: np.ndarray | None, k: int) -> np.ndarray:
    """Indices (N, k) of the nearest rows, ties by index; without y a row does not find itself."""
    distances = squared_distances(x, x if y is None else y)
    if y is None:
        np.fill_diagonal(distances, np.inf)
    return np.argsort(distances, axis=1, kind="stable")[:, :k]


def nfc(features: np.ndarray, k1: int, k2: int, self_distance: float = np.inf) -> np.ndarray:
    """Pose2ID's neighbour feature centralization, as its description reads."""
    distances = squared_distances(features, features)
    np.fill_diagonal(distances, self_distance)
    lists = np.argsort(distances, axis=1, kind="stable")[:, :k1]
    result = features.astype(np.float64)
    for i in range(len(features)):
        for j in lists[i]:
            if i in lists[j][:k2]:
                result[i] = result[i] + features[j]
    return result


def id2(features: np.ndarray, pids: np.ndarray) -> np.ndarray:
    """Squared distance of each normalised feature to the mean of its identity."""
    unit = features / np.sqrt((features.astype(np.float64) ** 2).sum(1, keepdims=True))
    return np.array([((unit[i] - unit[pids == pids[i]].mean(0)) ** 2).sum() for i in range(len(unit))])


def fuse_generated(features: np.ndarray, generated: np.ndarray, eta: float, reduce: str) -> np.ndarray:
    total = np.zeros_like(features, dtype=np.float64)
    for pose in range(generated.shape[1]):
        total += generated[:, pose]
    return features + eta * (total / generated.shape[1] if reduce == "mean" else total)


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


def k_reciprocal(distances: np.ndarray, num_query: int, k1: int, k2: int, lambda_value: float, power: float):
    """Zhong et al.'s re-ranking in words and sets: a matrix (N, N), the queries first; ties by index."""
    original = distances.astype(np.float64) ** power
    original = original / original.max(axis=1, keepdims=True)
    lists = np.argsort(original, axis=1, kind="stable").tolist()
    half = int(np.around(k1 / 2))

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in lists[i][: k + 1] if i in lists[j][: k + 1]}

    vectors = np.zeros_like(original)
    for i in range(len(original)):
        core = reciprocal(i, k1)
        smaller = [reciprocal(j, half) for j in core]
        members = sorted(core.union(*(s for s in smaller if 3 * len(s & core) > 2 * len(s))))
        weights = np.exp(-original[i, members])
        vectors[i, members] = weights / weights.sum()
    if k2 > 1:
        vectors = np.array([vectors[lists[i][:k2]].mean(axis=0) for i in range(len(original))])
    shared = np.array([[np.minimum(q, g).sum() for g in vectors[num_query:]] for q in vectors[:num_query]])
    jaccard = 1 - shared / (2 - shared)
    return (1 - lambda_value) * jaccard + lambda_value * original[:num_query, num_query:]


def expanded(features: np.ndarray, others: np.ndarray | None, k: int, alpha: float) -> np.ndarray:
    """Alpha query expansion, one row at a time; without others, database augmentation."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    targets = unit if others is None else others / np.linalg.norm(others, axis=1, keepdims=True)
    rows = []
    for i, near in enumerate(nearest(unit, None if others is None else targets, k)):
        total = unit[i].astype(np.float64)
        for j in near:
            total = total + max(float(unit[i] @ targets[j]), 0.0) ** alpha * targets[j]
        rows.append(total / np.linalg.norm(total))
    return np.array(rows)


def mean_frames(pids, camids, frames) -> dict[tuple[int, int], float]:
    """Mean frame of each identity under each camera, with ST-ReID's tiny number in the denominator."""
    times: dict[tuple[int, int], list[int]] = {}
    for pid, camid, frame in zip(pids, camids, frames):
        times.setdefault((pid, camid), []).append(frame)
    return {key: sum(values) / (len(values) + 1e-7) for key, values in times.items()}


def transition_counts(pids, camids, frames, interval: int, bins: int) -> dict[tuple[int, int], np.ndarray]:
    """ST-ReID's histograms, (later camera, earlier camera) -> votes by lag."""
    means, counts = mean_frames(pids, camids, frames), {}
    for pid in set(pids):
        for j in sorted(set(camids)):
            for k in sorted(set(camids)):
                if j < k and (pid, j) in means and (pid, k) in means:
                    lag = means[pid, j] - means[pid, k]
                    pair = (j, k) if lag > 0 else (k, j)
                    counts.setdefault(pair, np.zeros(bins))[min(bins - 1, int(abs(lag) / interval))] += 1
    return counts


def parzen(row: np.ndarray, sigma: float) -> np.ndarray:
    """ST-ReID's smoothing, one bin at a time."""
    result = np.zeros(len(row))
    for i in range(len(row)):
        for j in range(len(row)):
            if abs(i - j) <= 3 * sigma:
                result[i] += row[j] * np.exp(-((i - j) ** 2) / (2 * sigma**2)) / (sigma * np.sqrt(2 * np.pi))
    return result


def log_ratios(pids, camids, frames, interval: int, bins: int, sigma: float, floor: float):
    """(later, earlier) -> log of the density of lags of one person over that of two, both ways together."""
    means, same = mean_frames(pids, camids, frames), transition_counts(pids, camids, frames, interval, bins)
    other = {pair: np.zeros(bins) for pair in same}
    for (pid, camid), time in means.items():
        for (pid2, camid2), time2 in means.items():
            if pid != pid2 and time > time2 and (camid, camid2) in other:
                other[camid, camid2][min(bins - 1, int((time - time2) / interval))] += 1
    same, other = ({pair: parzen(row, sigma) for pair, row in rows.items()} for rows in (same, other))

    def density(rows, pair):
        both = [rows[way].sum() for way in (pair, pair[::-1]) if way in rows]
        return rows[pair] / sum(both)

    return {pair: np.log((density(same, pair) + floor) / (density(other, pair) + floor)) for pair in same}


def merged_tracklets(features: np.ndarray, camids, frames, gap: int, threshold: float) -> np.ndarray:
    """Mean direction of what one camera saw at the same time and that looks alike."""
    unit = features / np.sqrt((features.astype(np.float64) ** 2).sum(1, keepdims=True))
    rows = []
    for i in range(len(unit)):
        together = [
            j for j in range(len(unit))
            if i == j
            or camids[i] == camids[j] and abs(frames[i] - frames[j]) <= gap and unit[i] @ unit[j] >= threshold
        ]  # fmt: skip
        rows.append(unit[together].sum(0))
    return np.array([row / np.sqrt((row**2).sum()) for row in rows])


def recall_curve(matches: np.ndarray, length: int = 25) -> list[float]:
    """GenerativePersonReID's "CMC": of the matches among the first 25, the share among the first k."""
    shown = matches[:length]
    return [1.0 if not shown.any() else shown[:k].sum() / shown.sum() for k in range(1, length + 1)]
