"""Numbers that do not depend on autocast, nor on the block, the order or the scale of what is computed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

__all__ = [
    "from_fixed", "full_precision", "magnitude", "products", "rescaled", "scale_of", "scaled", "to_fixed",
    "unit",
]  # fmt: skip

_STEP = 16  # rows and columns of the tiles that a processor multiplies in one way
_FRACTION_BITS = {torch.int32: 30, torch.int64: 40, torch.float64: 40}
# Between these no square of a difference leaves float32's range, nor does a sum of thousands of them.
_SHORT, _LONG = 2.0**-30, 2.0**50


@contextmanager
def full_precision() -> Iterator[None]:
    """A context, or a decorator, in which ``torch.autocast`` changes nothing: distances need all digits.

    A training loop may evaluate inside its autocast block; the state of the block is left as it was.
    """
    found = torch.accelerator.is_available()  # torch 2.6 fails where it is asked for one that is not there
    kinds = ["cpu"] + ([torch.accelerator.current_accelerator().type] if found else [])
    with ExitStack() as stack:
        for kind in kinds:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def products(
    x: Tensor, y: Tensor, *, times: float = 1.0, plus: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """``times * x @ y.T``, where a pair has the same bits in any block; equal rows get equal results.

    Processors multiply the last rows and columns of an odd shape in another way, and so in another order,
    than the others. Here all are multiplied in one way: odd edges are filled up with zeros.

    Args:
        x: shape (N, D).
        y: shape (M, D).
        times: factor of the products; a power of two and its negative are exact.
        plus: numbers of each row (N,) and of each column (M,) that are added; squared lengths with ``times``
            -2 make squared distances.

    Returns:
        New tensor (N, M); its rows are contiguous, the whole only if M is a multiple of 16.
    """
    first, whole = _filled(x), len(y) // _STEP * _STEP
    rest = _filled(y[whole:])
    if plus is None:
        result = x.new_zeros(len(first), whole + len(rest))
    else:
        result = _filled(plus[0])[:, None] + _filled(plus[1])
    for start, part in ((0, y[:whole]), (whole, rest)):
        result[:, start : start + len(part)].addmm_(first, part.t(), alpha=times)
    return result[: len(x), : len(y)]


def _filled(rows: Tensor) -> Tensor:
    """Rows (N, ...) with rows of zeros up to a multiple of the step."""
    missing = -len(rows) % _STEP
    return pad(rows, [0, 0] * (rows.ndim - 1) + [0, missing]) if missing else rows


def unit(features: Tensor) -> Tensor:
    """Rows (..., D) of length one, float32 or float64: ``normalize(features, dim=-1)`` bit for bit.

    Where ``normalize`` leaves rows short, those shorter than 1e-12, and where it makes zeros of them, since
    their squares overflow, they are of length one here, too. A row of zeros stays one.
    """
    result = normalize(features, dim=-1)
    longest = torch.maximum(features.amax(-1), -features.amin(-1))
    odd = (longest < _SHORT) | (longest > _LONG)
    if odd.any():
        bounded = longest[odd].clamp(torch.finfo(longest.dtype).tiny, 2.0**125)
        power_of_two = torch.frexp(bounded).mantissa / bounded
        result[odd] = normalize(features[odd] * power_of_two[:, None], dim=-1)
    return result


def magnitude(*features: Tensor) -> int:
    """Exponent of the power of two just above the largest absolute value; a very small one without any."""
    # torch's kernel of the infinity norm takes twenty times as long as finding both ends.
    ends = [end for x in features if x.numel() for end in torch.aminmax(x)]
    largest = float(torch.stack(ends).abs().max()) if ends else 0.0
    return math.frexp(largest or 2.0**-149)[1]


def scale_of(exponent: int) -> float:
    """Power of two that brings features of this `magnitude` near 1; 1 where squared distances are safe.

    Multiplying by it changes no digit, so that distances only change by its square.
    """
    if _SHORT <= 2.0**exponent <= _LONG:
        return 1.0
    return 2.0 ** -min(max(exponent, -126), 126)


def scaled(*features: Tensor) -> tuple[tuple[Tensor, ...], float]:
    """Features of which squared distances can be had, and by what they were multiplied, see `scale_of`."""
    scale = scale_of(magnitude(*features))
    return tuple(rescaled(x, scale) for x in features), scale


def rescaled(features: Tensor, scale: float) -> Tensor:
    """``features * scale``, which for a scale of 1 are themselves."""
    return features if scale == 1 else features * scale


def to_fixed(values: Tensor, dtype: torch.dtype = torch.int64) -> Tensor:
    """Values in fixed point, where a sum is exact: it has the same bits in any order, on any device.

    Args:
        values: floating, absolute values and sums below 2**23, or in int32 below 2, or in float64 below 2**13.
        dtype: int64 or float64, with steps of 2**-40, or int32, with steps of 2**-30.
    """
    return (values * 2.0 ** _FRACTION_BITS[dtype]).round_().to(dtype)


def from_fixed(sums: Tensor) -> Tensor:
    """What `to_fixed` made, as float32."""
    return sums.to(torch.float32).mul_(2.0 ** -_FRACTION_BITS[sums.dtype])
