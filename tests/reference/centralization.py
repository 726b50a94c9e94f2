"""Pose2ID's sums of features, and its density."""

from __future__ import annotations

import numpy as np

from tests.reference.neighbours import nearest, squared_distances


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


def nfc_in_order(features: np.ndarray, k1: int, k2: int) -> np.ndarray:
    """The same in float32, each sum by ascending index with the own feature in its place: bit for bit."""
    lists = nearest(features, None, k1)
    result = np.empty_like(features)
    for i in range(len(features)):
        members = sorted([i, *(j for j in lists[i] if i in lists[j][:k2])])
        result[i] = features[members[0]]
        for j in members[1:]:
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


def summed(features: np.ndarray, distances: np.ndarray, k1: int, k2: int) -> np.ndarray:
    """Each feature with those of its mutual neighbours by any distances; an infinite one is no neighbour."""
    lists = []
    for row in distances:
        order = sorted(range(len(row)), key=lambda j: (row[j], j))
        lists.append([j for j in order if np.isfinite(row[j])][:k1])
    found = []
    for i, near in enumerate(lists):
        members = sorted([i, *(j for j in near if i in lists[j][:k2])])
        found.append(sum(features[j].astype(np.float64) for j in members))
    return np.array(found)


def reported_density(features: np.ndarray, pids: np.ndarray, asked: np.ndarray) -> float:
    """Mean density over the images of those identities that are asked for."""
    return float(np.mean([value for value, pid in zip(id2(features, pids), pids) if pid in asked]))
