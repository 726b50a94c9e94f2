"""PG2's masks and its discriminator."""

from __future__ import annotations

import numpy as np


def pg2_discs(centres: list, size: tuple[int, int], radius: int) -> np.ndarray:
    """1 on every pixel that is near enough to one of the centres (y, x), which are truncated."""
    image = np.zeros(size, int)
    for y, x in centres:
        for row in range(size[0]):
            for column in range(size[1]):
                if (row - int(y)) ** 2 + (column - int(x)) ** 2 <= radius**2:
                    image[row, column] = 1
    return image


def pg2_mask(pose: np.ndarray, limbs: list, size: tuple[int, int], radius: int) -> np.ndarray:
    """PG2's mask of the body of one pose (18, 2): discs along limbs, then a closing of 5 x 5 pixels."""
    centres = []
    for first, second in limbs:
        a, b = pose[first], pose[second]
        if min(a) >= 0 and min(b) >= 0:
            centres += [a, b]
            n = int(np.sqrt(((a - b) ** 2).sum()) / radius)
            centres += [a + (b - a) * i / n for i in range(1, n)]
    mask = pg2_discs(centres, size, radius)
    for pick in (np.max, np.min):
        windows = [[mask[max(r - 2, 0) : r + 3, max(c - 2, 0) : c + 3] for c in range(size[1])]
                   for r in range(size[0])]  # fmt: skip
        mask = np.array([[pick(window) for window in row] for row in windows])
    return mask


def halving_convolved(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(C, H, W) with stride 2 and TensorFlow's SAME border, for even sizes: less of it above and left."""
    side, (_, height, width) = kernel.shape[-1], x.shape
    before = (side - 2) // 2
    padded = np.pad(x, ((0, 0), (before, side - 2 - before), (before, side - 2 - before)))
    result = np.empty((len(kernel), height // 2, width // 2))
    for row in range(height // 2):
        for column in range(width // 2):
            window = padded[:, 2 * row : 2 * row + side, 2 * column : 2 * column + side]
            result[:, row, column] = (kernel * window).sum((1, 2, 3)) + bias
    return result


def pg2_discriminator(state: dict[str, np.ndarray], batch: np.ndarray) -> np.ndarray:
    """Logits (B,) of images (B, C, H, W), normalised over the batch in all layers but the first."""
    x = batch.astype(np.float64)
    for layer in range(4):
        kernel, bias = state[f"convs.{layer}.weight"], state[f"convs.{layer}.bias"]
        x = np.stack([halving_convolved(image, kernel, bias) for image in x])
        if layer:
            mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
            gamma, beta = (state[f"norms.{layer - 1}.{part}"][:, None, None] for part in ("weight", "bias"))
            x = (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta
        x = np.where(x > 0, x, 0.2 * x)
    return x.reshape(len(x), -1) @ state["head.weight"][0] + state["head.bias"]
