"""Pictures as they are handed in: PIL images, arrays or tensors, one or many, as PIL images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["Picture", "Pictures", "check_range", "pictures"]

Picture = Image.Image | np.ndarray | Tensor
Pictures = Picture | Sequence[Picture]


def pictures(images: Pictures) -> list[Image.Image]:
    """A list of PIL images in RGB; what comes twice is one object there, too.

    Args:
        images: one or several: PIL images of any mode; arrays (H, W, 3) or (B, H, W, 3), tensors (3, H, W)
            or (B, 3, H, W), either uint8 or in [0, 1], which are rounded to 256 levels.

    Raises:
        ValueError: if there is none, or one is nothing of that.
    """
    listed = _listed(images)
    if not listed:
        raise ValueError("expected at least one picture, got none")
    distinct = {id(image): image for image in listed}
    made = {key: _picture(image) for key, image in distinct.items()}
    return [made[id(image)] for image in listed]


def check_range(images: Tensor | np.ndarray) -> None:
    """Raise ValueError if numbers are outside [0, 1]."""
    if np.prod(images.shape) and not (images.min() >= 0 and images.max() <= 1):
        rule = "expected pictures of numbers in 0..1, or of uint8"
        raise ValueError(f"{rule}, got {float(images.min()):g}..{float(images.max()):g}")


def _listed(images: Any) -> list[Any]:
    if isinstance(images, (np.ndarray, Tensor)):
        return [*images] if images.ndim == 4 else [images]
    return [images] if isinstance(images, Image.Image) else list(images)


def _picture(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, Tensor):
        image = _channels_last(image)
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3:
        rule = "expected a PIL image, an array (H, W, 3) or a tensor (3, H, W)"
        raise ValueError(f"{rule}, got {_described(image)}")
    if image.dtype != np.uint8:
        check_range(image)
        image = (image * 255).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(image))


def _channels_last(image: Tensor) -> np.ndarray:
    image = image.detach().cpu()
    image = image.float() if image.dtype == torch.bfloat16 else image  # of which NumPy knows nothing
    return image.movedim(0, -1).numpy() if image.ndim == 3 else image.numpy()


def _described(image: Any) -> str:
    shape = getattr(image, "shape", None)
    return type(image).__name__ if shape is None else f"{type(image).__name__} {tuple(shape)}"
