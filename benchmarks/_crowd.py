"""Features of people that were never photographed, and the least that any exact search of them does."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["people", "product_and_top_k"]


def people(images: int, width: int, seed: int = 0) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Unit features that cluster by identity and, within it, by camera; pids and camids."""
    generator = torch.Generator().manual_seed(seed)
    pids = torch.randint(0, 751, (images,), generator=generator)
    camids = torch.randint(0, 6, (images,), generator=generator)
    centres = torch.randn(751, width, generator=torch.Generator().manual_seed(1))
    views = torch.randn(751 * 6, width, generator=torch.Generator().manual_seed(2))
    features = torch.randn(images, width, generator=generator)
    for part in torch.arange(images).split(8192):  # in parts, so that the peak stays that of the features
        features[part] += 0.6 * centres[pids[part]] + 0.4 * views[pids[part] * 6 + camids[part]]
    return normalize(features, out=features), pids.numpy(), camids.numpy()


def product_and_top_k(features: Tensor, k: int = 3, rows: int = 1024) -> None:
    """The floor of an exact search: every score once, in single precision, and the best k of each row."""
    block = torch.empty(rows, len(features))
    for part in features.split(rows):
        torch.mm(part, features.t(), out=block[: len(part)]).topk(k, dim=1)
