"""DMON and ARO of Yuan et al., with the matrices that the paper writes down."""

from __future__ import annotations

import numpy as np

from tests.reference.neighbours import nearest, squared_distances


def dmon(features: np.ndarray, k1: int, k2: int, sigma: float = 0.5, gamma: float = 0.75) -> np.ndarray:
    """Hop by hop, as sets; a k beyond N - 1 is N - 1."""
    features = features.astype(np.float64)
    lists = nearest(features, None, max(k1, k2))
    rows = []
    for i, feature in enumerate(features):
        hop, total = set(lists[i][:k1]), gamma * feature
        for number, decay in enumerate((1.0, 0.5, 0.25)):
            if number:
                hop = {k for j in hop for k in lists[j][:k2]}
            width = sigma * 1.5**number
            weights = {j: np.exp(-((feature - features[j]) ** 2).sum() / (2 * width**2)) for j in hop - {i}}
            whole = sum(weights.values()) + 1e-8
            total = total + (1 - gamma) * decay * sum(w / whole * features[j] for j, w in weights.items())
        rows.append(total)
    return np.array(rows)


def aro(query: np.ndarray, gallery: np.ndarray, k1: int, k2: int) -> np.ndarray:
    """``A - A' B'^T``; of equal distances those of smaller index are near, and an image before its like."""
    query, gallery = query.astype(np.float64), gallery.astype(np.float64)
    a = of_length_one(squared_distances(query, gallery))
    b = of_length_one(squared_distances(gallery, gallery))
    b_near = of_length_one(ones_but(b, np.argsort(b - np.eye(len(b)), axis=1, kind="stable")[:, :k2]))
    a_near = of_length_one(ones_but(a, np.argsort(a, axis=1, kind="stable")[:, :k1]))
    return a - a_near @ b_near.T


def of_length_one(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)


def ones_but(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Ones, but for the columns named of each row."""
    kept = np.ones_like(rows)
    np.put_along_axis(kept, columns, np.take_along_axis(rows, columns, 1), 1)
    return kept
