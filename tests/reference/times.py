"""ST-ReID's histograms of lags, one identity and one bin at a time."""

from __future__ import annotations

import numpy as np


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


def smoothed_curves(
    train: tuple, interval: int, bins: int, sigma: float
) -> dict[tuple[int, int], dict[int, float]]:
    """ST-ReID's densities, (later camera, earlier camera) -> bin -> share, without empty bins."""
    curves = {}
    for pair, counts in transition_counts(*train, interval, bins).items():
        curve: dict[int, float] = {}
        for j in np.flatnonzero(counts):
            share = counts[j] / (counts.sum() + 1e-7)
            for i in range(max(0, j - int(3 * sigma)), min(bins, j + int(3 * sigma) + 1)):
                weight = np.exp(-((i - j) ** 2) / (2 * sigma**2)) / (sigma * np.sqrt(2 * np.pi))
                curve[i] = curve.get(i, 0.0) + share * weight
        total = sum(curve.values()) + 1e-7
        curves[pair] = {i: value / total for i, value in curve.items()}
    return curves


def official_distances(
    query,
    q_cams,
    q_frames,
    gallery,
    g_cams,
    g_frames,
    train: tuple,
    interval=100,
    bins=5000,
    sigma=50.0,
    alpha=5.0,
) -> np.ndarray:
    """One minus ST-ReID's logistic product of cosine and likelihood (Q, G), a pair of images at a time."""
    curves = smoothed_curves(train, interval, bins, sigma)
    result = np.empty((len(query), len(gallery)))
    for q, g in np.ndindex(result.shape):
        a, b = query[q].astype(np.float64), gallery[g].astype(np.float64)
        cosine = (a @ b) / np.sqrt((a @ a) * (b @ b))
        lag = int(q_frames[q]) - int(g_frames[g])
        pair = (q_cams[q], g_cams[g]) if lag > 0 else (g_cams[g], q_cams[q])
        likelihood = curves.get(pair, {}).get(min(bins - 1, abs(lag) // interval), 0.0)
        result[q, g] = 1 - 1 / (1 + np.exp(-alpha * cosine)) / (1 + 2 * np.exp(-alpha * likelihood))
    return result
