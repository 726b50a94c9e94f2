"""Features carried from one pose to another, part by part (Siarohin et al., CVPR 2018, section 3.2).

Officially ten copies of all features are warped, masked and compared. Masks leave little more than one part
to a pixel, so only the pixels that parts cover are fetched here: neither time nor memory grows tenfold.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["AGGREGATIONS", "warp"]

AGGREGATIONS = ("max", "avg", "masked_max")
_LARGEST = 2  # the mode of `torch.embedding_bag`


def warp(features: Tensor, transforms: Tensor, masks: Tensor, *, how: str = "max") -> Tensor:
    """Fetch each pixel from where the parts that cover it are in the source.

    Nearest neighbours, halves rounded away from zero in float32; what lies outside the source is 0.

    Args:
        features: of the source, (B, C, h, w).
        transforms: (B, P, 2, 3) from (x, y, 1) in the target image to (x, y) in the source image.
        masks: where the parts are in the target image, booleans (B, P, H, W), H a multiple of h.
        how: what parts that meet make of a pixel. ``max`` (official) lets a part that does not cover it say
            0, so that nothing negative is left; ``masked_max`` listens only to those that have something to
            say, ``avg`` to all that cover it.

    Returns:
        (B, C, h, w); 0 where no part has anything.

    Raises:
        ValueError: if `how` is unknown, or features are not a whole number of times smaller than masks.
    """
    if how not in AGGREGATIONS:
        raise ValueError(f"unknown aggregation {how!r}; choose from {', '.join(AGGREGATIONS)}")
    times = _times_smaller(features, masks)
    scale = torch.tensor([1, 1, times], device=transforms.device)
    fetched = _fetched((transforms / scale).float(), masks[:, :, ::times, ::times])
    rows = features.movedim(1, -1).flatten(0, 2)
    carried = _averaged(rows, fetched) if how == "avg" else _largest(rows, fetched, how)
    return carried.view(features.movedim(1, -1).shape).movedim(-1, 1)


def _times_smaller(features: Tensor, masks: Tensor) -> int:
    height, width = features.shape[2:]
    times = masks.shape[2] // height
    if masks.shape[2:] != (times * height, times * width):
        raise ValueError(
            f"expected masks a whole number of times larger than features of {height} x {width}, "
            f"got {masks.shape[2]} x {masks.shape[3]}"
        )
    return times


class _Fetched(NamedTuple):
    """Which pixels are fetched for which, of all those of a batch in a row."""

    source: Tensor  # (M,) int64, in the order of the pixels that they are fetched for
    first: Tensor  # (N,) int64, where the sources of each pixel begin
    count: Tensor  # (N,) how many they are
    covering: Tensor  # (N,) how many parts cover the pixel, with or without a source
    parts: int


def _fetched(transforms: Tensor, masks: Tensor) -> _Fetched:
    height, width = masks.shape[2:]
    sample, y, x, part = masks.permute(0, 2, 3, 1).nonzero(as_tuple=True)
    here = transforms[sample, part]
    # The order of the sum is TensorFlow's: another one rounds other ties
    across, down = (_rounded(row[:, 0] * x + row[:, 1] * y + row[:, 2]) for row in here.unbind(1))
    inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
    source = (sample[inside] * height + down[inside].long()) * width + across[inside].long()
    target = (sample * height + y) * width + x
    pixels = len(masks) * height * width
    count, covering = (torch.bincount(each, minlength=pixels) for each in (target[inside], target))
    return _Fetched(source, count.cumsum(0) - count, count, covering, masks.shape[1])


def _rounded(x: Tensor) -> Tensor:
    """To the nearest whole number, halves away from zero; adding a half first would round twice."""
    whole = x.trunc()
    return whole + (x - whole).mul(2).trunc()


def _averaged(rows: Tensor, fetched: _Fetched) -> Tensor:
    total = F.embedding_bag(fetched.source, rows, fetched.first, mode="sum")
    return total / fetched.covering.clamp_min(1)[:, None].to(rows.dtype)


def _largest(rows: Tensor, fetched: _Fetched, how: str) -> Tensor:
    floorless = fetched.count == fetched.parts if how == "max" else fetched.count > 0
    floor = torch.where(floorless, -torch.inf, 0.0).to(rows.dtype)[:, None]
    return _Largest.apply(rows, fetched.source.int(), fetched.first.int(), floor)


class _Largest(torch.autograd.Function):
    """The largest of a floor and the rows in each bag, channel by channel.

    `F.embedding_bag` does the same, but goes back channel by channel, many times more slowly.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, rows: Tensor, source: Tensor, first: Tensor, floor: Tensor
    ) -> Tensor:
        largest, _, _, winners = torch.embedding_bag(rows, source, first, mode=_LARGEST)
        nobody = len(rows)
        ctx.save_for_backward(winners.masked_fill_(largest <= floor, nobody))
        return torch.maximum(largest, floor, out=largest)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (winners,) = ctx.saved_tensors
        back = gradient.new_zeros(len(winners) + 1, winners.shape[1])  # nobody's row is the last
        return back.scatter_add_(0, winners.long(), gradient)[:-1], None, None, None
