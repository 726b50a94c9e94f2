"""People who stand about, in the joints of OpenPose."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.generators.networks import rand

# Of somebody who stands, in shares of height and width
_STANDING = (
    (0.12, 0.5), (0.2, 0.5), (0.22, 0.35), (0.36, 0.25), (0.48, 0.2), (0.22, 0.65), (0.36, 0.75), (0.48, 0.8),
    (0.5, 0.4), (0.7, 0.38), (0.92, 0.35), (0.5, 0.6), (0.7, 0.62), (0.92, 0.65), (0.1, 0.46), (0.1, 0.54),
    (0.11, 0.42), (0.11, 0.58),
)  # fmt: skip


def standing(count: int, size: tuple[int, int], seed: int = 0, sway: float = 0.06) -> Tensor:
    """People (count, 18, 2) of (y, x) pixels, each a little different, none of their joints missing."""
    shares = torch.tensor(_STANDING) + sway * (2 * rand(count, 18, 2, seed=seed) - 1)
    return (shares.clamp(0.02, 0.98) * torch.tensor(size)).floor()
