"""Query expansion and database augmentation, one row at a time."""

from __future__ import annotations

import numpy as np

from tests.reference.neighbours import nearest


def expanded(features: np.ndarray, others: np.ndarray | None, k: int, alpha: float) -> np.ndarray:
    """Alpha query expansion, one row at a time; without others, database augmentation."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    targets = unit if others is None else others / np.linalg.norm(others, axis=1, keepdims=True)
    rows = []
    for i, near in enumerate(nearest(unit, None if others is None else targets, k)):
        total = unit[i].astype(np.float64)
        for j in near:
            total = total + max(float(unit[i] @ targets[j]), 0.0) ** alpha * targets[j]
        rows.append(total / max(np.linalg.norm(total), 1e-12))  # opposite features leave nothing
    return np.array(rows)
