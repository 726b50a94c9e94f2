"""CycleGAN's layers and its pool of images."""

from __future__ import annotations

import numpy as np


def instance_normalized(x: np.ndarray) -> np.ndarray:
    """Each channel of one image (C, H, W) with mean 0 and variance 1."""
    return np.stack([(channel - channel.mean()) / np.sqrt(channel.var() + 1e-5) for channel in x])


def strided(image: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, margin: int) -> np.ndarray:
    """A convolution of one image (C, H, W) under a black margin, place by place."""
    image = np.pad(image, ((0, 0), (margin, margin), (margin, margin)))
    size = weight.shape[-1]
    places = [range(0, side - size + 1, stride) for side in image.shape[1:]]
    rows = [
        [(weight * image[:, y : y + size, x : x + size]).sum((1, 2, 3)) + bias for x in places[1]]
        for y in places[0]
    ]
    return np.array(rows).transpose(2, 0, 1)


def reflected(image: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A convolution of one image under a margin that mirrors it."""
    margin = weight.shape[-1] // 2
    wide = np.pad(image, ((0, 0), (margin, margin), (margin, margin)), mode="reflect")
    return strided(wide, weight, bias, 1, 0)


def transposed(image: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A 3 x 3 convolution backwards: each pixel leaves its weights (C, D, 3, 3) two places further on."""
    _, height, width = image.shape
    result = np.zeros((weight.shape[1], 2 * height + 2, 2 * width + 2))
    for y, x in np.ndindex(height, width):
        result[:, 2 * y : 2 * y + 3, 2 * x : 2 * x + 3] += np.tensordot(image[:, y, x], weight, 1)
    return result[:, 1 : 2 * height + 1, 1 : 2 * width + 1] + bias[:, None, None]


def cyclegan_generator(state: dict[str, np.ndarray], image: np.ndarray, blocks: int) -> np.ndarray:
    """CycleGAN's generator, layer by layer, under the authors' numbers of layers."""

    def layer(number: str) -> tuple[np.ndarray, np.ndarray]:
        return state[f"model.{number}.weight"], state[f"model.{number}.bias"]

    def active(x: np.ndarray) -> np.ndarray:
        return np.maximum(instance_normalized(x), 0)

    x = active(reflected(image, *layer("1")))
    x = active(strided(x, *layer("4"), 2, 1))
    x = active(strided(x, *layer("7"), 2, 1))
    for block in range(10, 10 + blocks):
        inside = active(reflected(x, *layer(f"{block}.conv_block.1")))
        x = x + instance_normalized(reflected(inside, *layer(f"{block}.conv_block.5")))
    x = active(transposed(x, *layer(f"{10 + blocks}")))
    x = active(transposed(x, *layer(f"{13 + blocks}")))
    return np.tanh(reflected(x, *layer(f"{17 + blocks}")))


def image_pool(size: int, batches: list[list], decisions: list[tuple[list[int], list[bool]]]) -> list[list]:
    """What is shown in place of new images: one after the other, with what was drawn for each batch."""
    kept, shown = [], []
    for images, (places, swapped) in zip(batches, decisions):
        full, row = len(kept) == size, []
        for image, place, swap in zip(images, places, swapped):
            if full and swap:
                kept[place], image = image, kept[place]
            elif not full and len(kept) < size:
                kept.append(image)
            row.append(image)
        shown.append(row)
    return shown
