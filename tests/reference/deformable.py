"""Parts of a body, carried from pose to pose."""

from __future__ import annotations

import numpy as np


def convex_contains(corners: np.ndarray, y: float, x: float) -> bool:
    """Whether a point is in a convex polygon (V, 2) of (y, x) or on its edge: on one side of all edges."""
    sides = []
    for (y0, x0), (y1, x1) in zip(corners, np.roll(corners, -1, axis=0)):
        sides.append((y1 - y0) * (x - x0) - (x1 - x0) * (y - y0))
    return not (min(sides) < 0 < max(sides))


def direct_linear_transform(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Affine (2, 3) from points (N, 2) to points, both normalised, by the least singular vector."""

    def normalizing(points: np.ndarray) -> np.ndarray:
        centre = points.mean(0)
        scale = np.sqrt(2 / ((points - centre) ** 2).sum(1).mean())
        return np.array([[scale, 0, -scale * centre[0]], [0, scale, -scale * centre[1]], [0, 0, 1]])

    to, by, rows = normalizing(target), normalizing(source), []
    for (x, y), (u, v) in zip(target, source):
        x, y, _ = to @ [x, y, 1]
        u, v, _ = by @ [u, v, 1]
        rows += [[x, y, 1, 0, 0, 0, u], [0, 0, 0, x, y, 1, v]]
    least = np.linalg.svd(np.array(rows))[2][-1]
    affine = np.vstack([(-least[:6] / least[6]).reshape(2, 3), [0, 0, 1]])
    return (np.linalg.inv(by) @ affine @ to)[:2]


def carried(features: np.ndarray, transforms: np.ndarray, masks: np.ndarray, how: str) -> np.ndarray:
    """Features (C, h, w) by parts: each pixel asks every part (P, 2, 3) whose mask (P, h, w) covers it."""
    result = np.zeros_like(features)
    channels, height, width = features.shape
    for y in range(height):
        for x in range(width):
            answers = []
            for (across, down), mask in zip(transforms, masks):
                u, v = (row[0] * x + row[1] * y + row[2] for row in (across, down))
                u, v = (int(np.sign(place) * np.floor(abs(place) + 0.5)) for place in (u, v))
                inside = 0 <= u < width and 0 <= v < height
                value = features[:, v, u] if inside else np.zeros(channels)
                if mask[y, x] and (inside or how == "avg"):
                    answers.append(value)
                elif how == "max":
                    answers.append(np.zeros(channels))
            if answers:
                result[:, y, x] = np.mean(answers, 0) if how == "avg" else np.max(answers, 0)
    return result


def nearest_neighbour(real: np.ndarray, generated: np.ndarray, window: int) -> np.ndarray:
    """Of features (C, H, W): at each place the least L1 distance to a real one in the window around it."""
    _, height, width = real.shape
    reach, result = window // 2, np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            near = real[:, max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
            result[y, x] = np.abs(near - generated[:, y, x][:, None, None]).sum(0).min()
    return result
