"""Features carried from one pose to another, part by part (Siarohin et al., CVPR 2018, section 3.2).

Officially ten copies of all features are warped, masked and compared. Masks leave little more than one part
to a pixel, so only the pixels that parts cover are fetched here: neither time nor memory grows tenfold.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["AGGREGATIONS", "Fetched", "carried", "fetched", "warp"]

AGGREGATIONS = ("max", "avg", "masked_max")
_LARGEST = 2  # the mode of `torch.embedding_bag`


class Fetched(NamedTuple):
    """Which pixels are fetched for which, of all those of a batch in a row (N)."""

    source: Tensor  # (M,) int32, in the order of the pixels that they are fetched for
    first: Tensor  # (N,) int32, where the sources of each pixel begin
    floorless: Tensor  # (N,) booleans, which maxima may be below 0
    covering: Tensor  # (N,) int32, how many parts cover the pixel, with or without a source; at least 1

    def to(self, device: torch.device) -> Fetched:
        """The same on a device."""
        return Fetched(*(each.to(device, non_blocking=True) for each in self))


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
    found = fetched(transforms, masks, _times_smaller(features, masks), how=how)
    return carried(features, found.to(features.device), how=how)


def fetched(transforms: Tensor, masks: Tensor, times: int, *, how: str = "max") -> Fetched:
    """What `warp` fetches for features so many times smaller than the masks; arguments as there.

    How many pixels there are depends on the poses, so on an accelerator the host would wait for each number.
    """
    if how not in AGGREGATIONS:
        raise ValueError(f"unknown aggregation {how!r}; choose from {', '.join(AGGREGATIONS)}")
    scale = torch.tensor([1, 1, times], device=transforms.device)
    return _fetched((transforms / scale).float(), masks[:, :, ::times, ::times], how)


def carried(features: Tensor, fetched: Fetched, *, how: str = "max") -> Tensor:
    """Features (B, C, h, w) as `warp` gives them, from what `fetched` found for their size."""
    rows = features.movedim(1, -1).flatten(0, 2)
    moved = _averaged(rows, fetched) if how == "avg" else _largest(rows, fetched)
    return moved.view(features.movedim(1, -1).shape).movedim(-1, 1)


def _times_smaller(features: Tensor, masks: Tensor) -> int:
    height, width = features.shape[2:]
    times = masks.shape[2] // height
    if masks.shape[2:] != (times * height, times * width):
        raise ValueError(
            f"expected masks a whole number of times larger than features of {height} x {width}, "
            f"got {masks.shape[2]} x {masks.shape[3]}"
        )
    return times


def _fetched(transforms: Tensor, masks: Tensor, how: str) -> Fetched:
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
    floorless = count == masks.shape[1] if how == "max" else count > 0
    return Fetched(source.int(), (count.cumsum(0) - count).int(), floorless, covering.clamp_min(1).int())


def _rounded(x: Tensor) -> Tensor:
    """To the nearest whole number, halves away from zero; adding a half first would round twice."""
    whole = x.trunc()
    return whole + (x - whole).mul(2).trunc()


def _averaged(rows: Tensor, fetched: Fetched) -> Tensor:
    total = F.embedding_bag(fetched.source, rows, fetched.first, mode="sum")
    return total / fetched.covering[:, None].to(rows.dtype)


def _largest(rows: Tensor, fetched: Fetched) -> Tensor:
    floor = torch.where(fetched.floorless, -torch.inf, 0.0).to(rows.dtype)[:, None]
    return _Largest.apply(rows, fetched.source, fetched.first, floor)


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
