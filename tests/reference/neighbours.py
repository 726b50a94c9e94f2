"""Distances and nearest rows, one pair at a time."""

from __future__ import annotations

import numpy as np


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances (N, M), one pair at a time."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    return np.array([[((a - b) ** 2).sum() for b in y] for a in x])


def nearest(x: np.ndarray, y: np.ndarray | None, k: int) -> np.ndarray:
    """Indices (N, k) of the nearest rows, all if fewer, ties by index; without y no row finds itself."""
    distances = squared_distances(x, x if y is None else y)
    if y is None:
        np.fill_diagonal(distances, np.inf)
        k = min(k, len(x) - 1)
    return np.argsort(distances, axis=1, kind="stable")[:, :k]
