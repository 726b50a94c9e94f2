"""Open-set figures as their definitions read, over one threshold after the other."""

from __future__ import annotations

import numpy as np


def pairs(distances, query, gallery, own_camera: bool = False) -> list[list[tuple[float, int, bool]]]:
    """Of each query: distance, identity and whether genuine, of each gallery image that counts."""
    found = []
    for row, (pid, camid) in zip(distances.tolist(), query):
        found.append([
            (distance, other, other == pid)
            for distance, (other, camera) in zip(row, gallery)
            if other != -1 and (own_camera or other != pid or camera != camid)
        ])  # fmt: skip
    return found

def rates(found, threshold: float) -> tuple[float, float]:
    """TPR and FPR of a threshold."""
    flat = [entry for row in found if any(entry[2] for entry in row) for entry in row]
    sides = [[d <= threshold for d, _, genuine in flat if genuine == side] for side in (True, False)]
    return tuple(sum(side) / len(side) for side in sides)

def verification(found, limits) -> tuple[float, list[float]]:
    """EER, and TPR at most at each FPR: over every threshold that there is."""
    thresholds = sorted({entry[0] for row in found for entry in row}) + [-np.inf]
    curve = [rates(found, threshold) for threshold in thresholds]
    return min(max(fpr, 1 - tpr) for tpr, fpr in curve), [
        max(tpr for tpr, fpr in curve if fpr <= limit) for limit in limits
    ]

def detection(found, pids, left_out: set[int], rate: float) -> float:
    """DIR at a FAR when some identities are left out of the gallery: the best over every threshold."""
    nearest = []
    for pid, row in zip(pids, found):
        left = [(d, genuine) for d, other, genuine in row if other not in left_out]
        if any(entry[2] for entry in row):
            distance = min(d for d, _ in left)
            nearest.append((pid, distance, all(genuine for d, genuine in left if d == distance)))
    best = 0.0
    for threshold in [-np.inf, *(d for _, d, _ in nearest)]:
        alarms = [d <= threshold for pid, d, _ in nearest if pid in left_out]
        hits = [right and d <= threshold for pid, d, right in nearest if pid not in left_out]
        if sum(alarms) / len(alarms) <= rate:
            best = max(best, sum(hits) / len(hits))
    return best
