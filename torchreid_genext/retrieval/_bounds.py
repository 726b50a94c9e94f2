"""Upper bounds of the scores of all pairs of a block: the proof of `neighbours.nearest`."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = ["Bf16Bounds", "Fp32Bounds"]

_BF16_ROUNDOFF = 2.0**-8  # one rounding to 8 significant bits, with room to spare
_FP32_ROUNDOFF = 2.0**-24
_LARGEST = 3e38


class _Bounds(ABC):
    """Upper bounds of the scores of a block of rows with all of ``y``.

    Distances do not change when all vectors move together, errors do: they grow with the vectors' lengths. So
    scores are of vectors relative to the mean of ``y``, which shortens features after a ReLU several times.
    """

    dtype: torch.dtype
    bytes: int
    spare: int  # candidates beyond k
    storing: float  # relative error of a stored bound

    def __init__(self, y: Tensor) -> None:
        self.mean = y.mean(0)
        self.summation = 4 * (y.shape[1] + 8) * _FP32_ROUNDOFF  # of products and squares, with room to spare
        self.half_squares = torch.cat([(part - self.mean).square_().sum(1) for part in y.split(4096)]) / 2
        self.block: Tensor | None = None

    def upper(self, stored: Tensor) -> Tensor:
        """What a score can be at most, given its stored bound; an excluded entry, -inf, stays below all."""
        return stored + self.storing * stored.abs().clamp(max=_LARGEST) if self.storing else stored

    def lower(self, x: Tensor, distance: Tensor) -> Tensor:
        """What the score of an exact squared distance (B,) of rows ``x`` is at least."""
        square = (x - self.mean).square_().sum(1)
        return (square - distance) / 2 - self.summation * (square + distance)

    def slack(self, x: Tensor) -> Tensor:
        """By how much the bound of the least score of rows ``x`` (B,) may lie above the least bound."""
        return 2 * self._error(x) + 2 * self.stored_error(x)

    def stored_error(self, x: Tensor) -> Tensor:
        """How much storing can take from any bound of rows ``x`` (B,)."""
        largest = self.half_squares.max()
        return self.storing * ((x - self.mean).norm(dim=1) * (2 * largest).sqrt() + largest + self._error(x))

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Bounds (B, M), in a buffer that the next call overwrites."""

    @abstractmethod
    def _error(self, x: Tensor) -> Tensor:
        """What the product of rows ``x`` (B,) with any of ``y`` may be off the score, at most."""

    def _buffer(self, rows: int) -> Tensor:
        # Allocated once: fresh pages for each block would cost as much as the products.
        if self.block is None or len(self.block) < rows:
            shape = rows, len(self.half_squares)
            self.block = torch.empty(shape, dtype=self.dtype, device=self.half_squares.device)
        return self.block[:rows]


class Fp32Bounds(_Bounds):
    """``x' . y - |y'|^2/2`` in single precision, where ``'`` is relative to the mean."""

    dtype, bytes, spare, storing = torch.float32, 4, 3, 0.0

    def __init__(self, y: Tensor) -> None:
        super().__init__(y)
        self.y = y  # a centred copy would cost memory; x' . y differs from x' . y' by a constant of the row
        longest = max(float(part.norm(dim=1).max()) for part in y.split(4096))
        self.error = (self.summation + _shortened() * 2.1 * _BF16_ROUNDOFF) * longest
        self.square_error = self.summation * float(self.half_squares.max())

    def __call__(self, x: Tensor) -> Tensor:
        centred = x - self.mean
        bounds = torch.addmm(-self.half_squares, centred, self.y.t(), out=self._buffer(len(x)))
        return bounds.add_((self._error(x) - centred @ self.mean)[:, None])

    def _error(self, x: Tensor) -> Tensor:
        return self.error * (x - self.mean).norm(dim=1) + self.square_error


class Bf16Bounds(_Bounds):
    """Bounds from one bfloat16 product, the error of each pair included.

    With ``h = |y'|^2/2`` split in two numbers, and ``e`` the norm of what rounding took from a vector::

        [x', 1, 1, e_x, |x'|] . [y', -h_high, -h_low, |y'|, e_y]
    """

    dtype, bytes, spare, storing = torch.bfloat16, 2, 6, 2.0**-8

    def __init__(self, y: Tensor) -> None:
        super().__init__(y)
        high = self.half_squares.bfloat16()
        low = (self.half_squares - high.float()).bfloat16()
        lost = self.half_squares - high.float() - low.float()
        self.targets = torch.empty(len(y), y.shape[1] + 4, dtype=torch.bfloat16, device=y.device)
        for start in range(0, len(y), 4096):  # in parts: a centred copy of all rows would cost memory
            rows = slice(start, start + 4096)
            rounded, norm, error = _round(y[rows] - self.mean)
            norm = norm + self.half_squares[rows]
            extra = -high[rows], -low[rows], _round_up(norm), _round_up(error + lost[rows].abs())
            self.targets[rows] = torch.cat([rounded, torch.stack(extra, dim=1)], dim=1)

    def __call__(self, x: Tensor) -> Tensor:
        rounded, extra = self._asking(x)
        one = torch.ones_like(extra[:, :1])
        asking = torch.cat([rounded, one, one, extra], dim=1)
        return torch.mm(asking, self.targets.t(), out=self._buffer(len(x)))

    def _error(self, x: Tensor) -> Tensor:
        return self._asking(x)[1].float() @ self.targets[:, -2:].amax(0).float()

    def _asking(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows in bfloat16, and what their error is made of, (B, 2)."""
        rounded, norm, error = _round(x - self.mean)
        norm = norm + 1
        extra = _round_up(error + self.summation * norm), _round_up(norm)
        return rounded, torch.stack(extra, dim=1)


def _shortened() -> bool:
    """Whether the user has allowed single precision products to take shorter inputs (TF32, bfloat16)."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # allowed by torch's newer switch, for some backend: this question has no answer
        return True


def _round(vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors in bfloat16, an upper bound of their norms before and after, and the norm of what was lost."""
    rounded = vectors.bfloat16()
    return rounded, vectors.norm(dim=1) * (1 + _BF16_ROUNDOFF), (vectors - rounded.float()).norm(dim=1)


def _round_up(values: Tensor) -> Tensor:
    """Non-negative values in bfloat16, never smaller than they are."""
    return (values * (1 + 2 * _BF16_ROUNDOFF)).bfloat16()
