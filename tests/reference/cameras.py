"""What one camera saw."""

from __future__ import annotations

import numpy as np


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


def camera_normalized(features, camids, reference, reference_camids, epsilon: float) -> np.ndarray:
    """Each row less the mean of its camera's reference images, over their standard deviation.

    A camera with fewer than two of them has the statistics of all together; one image in all has none.
    """
    rows = []
    for row, camid in zip(features.astype(np.float64), camids):
        seen = reference[reference_camids == camid].astype(np.float64)
        seen = seen if len(seen) > 1 else reference.astype(np.float64)
        if len(seen) > 1:
            mean = sum(seen) / len(seen)
            deviation = np.sqrt(sum((some - mean) ** 2 for some in seen) / len(seen))
            row = (row - mean) / (deviation + epsilon)
        rows.append(row)
    return np.array(rows)
