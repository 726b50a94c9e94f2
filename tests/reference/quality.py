"""How pictures are judged, pixel by pixel."""

from __future__ import annotations

import numpy as np


def structural_similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Of images (C, H, W): at each place the formula of Wang et al. (2004) under a Gaussian of 11 pixels."""
    places = np.arange(-5, 6)
    window = np.exp(-(places[:, None] ** 2 + places[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for x, y in zip(a, b):
        for top in range(x.shape[0] - 10):
            for left in range(x.shape[1] - 10):
                p, q = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
                p_mean, q_mean = (window * p).sum(), (window * q).sum()
                p_var, q_var = (window * (p - p_mean) ** 2).sum(), (window * (q - q_mean) ** 2).sum()
                both = (window * (p - p_mean) * (q - q_mean)).sum()
                light = (2 * p_mean * q_mean + 1e-4) / (p_mean**2 + q_mean**2 + 1e-4)
                values.append(light * (2 * both + 9e-4) / (p_var + q_var + 9e-4))
    return float(np.mean(values))


def uniform_similarity(a: np.ndarray, b: np.ndarray, data_range: float) -> float:
    """Structural similarity of images (C, H, W) as PG2 has it: squares of 7 pixels, variances of samples."""
    first, second = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for x, y in zip(a, b):
        for top in range(x.shape[0] - 6):
            for left in range(x.shape[1] - 6):
                p, q = x[top : top + 7, left : left + 7].ravel(), y[top : top + 7, left : left + 7].ravel()
                covariance = np.cov(p, q)
                light = (2 * p.mean() * q.mean() + first) / (p.mean() ** 2 + q.mean() ** 2 + first)
                shape = (2 * covariance[0, 1] + second) / (covariance[0, 0] + covariance[1, 1] + second)
                values.append(light * shape)
    return float(np.mean(values))


def inception_score(predictions: np.ndarray, splits: int) -> tuple[float, float]:
    """exp of the mean divergence of a part's predictions from their average, over parts."""
    scores = []
    for part in range(splits):
        start, end = (place * len(predictions) // splits for place in (part, part + 1))
        rows = predictions[start:end]
        scores.append(np.exp(np.mean([(p * (np.log(p) - np.log(rows.mean(0)))).sum() for p in rows])))
    return float(np.mean(scores)), float(np.std(scores))


def color_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance of the colours of images (N, 3, H, W) in [0, 1], pixel by pixel."""
    from scipy.linalg import sqrtm

    moments = []
    for images in (a, b):
        pixels = [image[:, y, x] for image in images for y, x in np.ndindex(image.shape[1:])]
        mean = sum(pixels) / len(pixels)
        moments.append((mean, sum(np.outer(pixel - mean, pixel - mean) for pixel in pixels) / len(pixels)))
    (first, spread), (second, other) = moments
    return float(((first - second) ** 2).sum() + np.trace(spread + other - 2 * sqrtm(spread @ other).real))


def joints_in_place(found: list[list[float]], target: list[list[float]], radius: float) -> float:
    """PCK, joint by joint: which of the target's joints are found within a share of its longer side."""
    wanted = [place for place in target if -1 not in place]
    sides = [max(p[axis] for p in wanted) - min(p[axis] for p in wanted) for axis in (0, 1)]
    right = 0
    for place, where in zip(target, found):
        if -1 not in place and -1 not in where:
            distance = sum((a - b) ** 2 for a, b in zip(place, where)) ** 0.5
            right += distance <= radius * max(sides)
    return right / len(wanted)
