"""Optimisers and losses, one number at a time."""

from __future__ import annotations

import numpy as np


def adam(gradient, start: np.ndarray, steps: int, step_size: float) -> np.ndarray:
    """Kingma and Ba's descent of one vector; gradient: vector -> vector."""
    x, first, second = start.astype(np.float64), np.zeros(len(start)), np.zeros(len(start))
    for step in range(1, steps + 1):
        slope = gradient(x)
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope**2
        unbiased = first / (1 - 0.9**step), second / (1 - 0.999**step)
        x = x - step_size * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-12)
    return x


def soft_margin_triplet(codes: np.ndarray, labels: np.ndarray, scale: float) -> float:
    """Mean over images of log(1 + e^(scale (furthest of the same person - nearest of another)))."""
    losses = []
    for i in range(len(codes)):
        distances = [float(np.linalg.norm(codes[i] - code)) for code in codes]
        furthest = max(d for d, label in zip(distances, labels) if label == labels[i])
        nearest = min(d for d, label in zip(distances, labels) if label != labels[i])
        losses.append(np.log1p(np.exp(scale * (furthest - nearest))))
    return float(np.mean(losses))
