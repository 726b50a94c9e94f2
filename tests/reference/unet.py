"""The U-Net of GenerativePersonReID, one image at a time."""

from __future__ import annotations

import numpy as np


def convolved(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """One image (C, H, W) under a kernel (out, C, k, k), zeros around it, an output pixel at a time."""
    size, (height, width) = kernel.shape[-1], x.shape[1:]
    padded = np.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2)))
    result = np.empty((len(kernel), height, width))
    for row in range(height):
        for column in range(width):
            window = padded[:, row : row + size, column : column + size]
            result[:, row, column] = np.tensordot(kernel, window, 3) + bias
    return result


def residual_block(state: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    """Standardise with kept statistics, convolve, SiLU, convolve, add the input."""
    mean, variance = (state[f"{name}.bn.running_{part}"][:, None, None] for part in ("mean", "var"))
    y = (x - mean) / np.sqrt(variance + 1e-3)
    y = convolved(y, state[f"{name}.conv1.weight"], state[f"{name}.conv1.bias"])
    y = convolved(y / (1 + np.exp(-y)), state[f"{name}.conv2.weight"], state[f"{name}.conv2.bias"])
    if f"{name}.shortcut.weight" in state:
        x = convolved(x, state[f"{name}.shortcut.weight"], state[f"{name}.shortcut.bias"])
    return x + y


def halved(x: np.ndarray) -> np.ndarray:
    """Means of squares of two by two pixels."""
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def doubled(x: np.ndarray) -> np.ndarray:
    """Bilinear, with pixels as squares: a new centre lies a quarter of an old pixel off an old one."""
    for axis in (1, 2):
        places = np.clip((np.arange(2 * x.shape[axis]) + 0.5) / 2 - 0.5, 0, x.shape[axis] - 1)
        below = np.floor(places).astype(int)
        above = np.minimum(below + 1, x.shape[axis] - 1)
        share = (places - below).reshape(-1, *[1] * (2 - axis))
        x = x.take(below, axis) * (1 - share) + x.take(above, axis) * share
    return x


def with_constants(x: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """A vector appended as channels that are the same everywhere."""
    return np.concatenate([x, np.broadcast_to(vector[:, None, None], (len(vector), *x.shape[1:]))])


def encoded(state: dict[str, np.ndarray], x: np.ndarray, code: np.ndarray, levels: int, depth: int):
    """Down to the deepest level; also what the way up is given of each block, the last block first."""
    skips = []
    for level in range(levels - 1):
        for block in range(depth):
            x = residual_block(state, f"down.{level}.{block}", x)
            skips.insert(0, x)
        x = with_constants(halved(x), code)
    for block in range(depth):
        x = residual_block(state, f"mid.{block}", x)
    return x, skips


def unet(state: dict[str, np.ndarray], image: np.ndarray, code, context, levels: int, depth: int):
    """One image through the U-Net; the context joins once, the code at the input and after each halving."""
    x = convolved(image, state["stem.weight"], state["stem.bias"])
    x = with_constants(with_constants(x, context), code)
    x, skips = encoded(state, x, code, levels, depth)
    for level in range(levels - 1):
        x = doubled(x)
        for block in range(depth):
            skip = skips[level * depth + block]
            x = residual_block(state, f"up.{level}.{block}", np.concatenate([x, skip]))
    return convolved(x, state["head.weight"], state["head.bias"])
