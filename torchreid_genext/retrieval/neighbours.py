"""Exact nearest neighbours in bounded memory.

The matrix of all distances never exists: rows are scored in blocks, each block keeps a few candidates a row,
and the candidates are scored again, exactly, from the difference of the two vectors. Two vectors that are
equal therefore get equal distances wherever they stand, and a tie is decided by the smaller index.

Keeping only candidates is made safe by a proof for each row. What is computed is an upper bound of the score
``s = x.y - |y|^2/2`` (larger is nearer) of each pair: the product, plus all that rounding can have taken from
it. What was left out is bounded by the last candidate, so when the exact score of the k-th neighbour lies
above that, nothing was lost. Rows for which this cannot be shown look at every entry whose bound reaches the
k-th score. The candidates may therefore come from bfloat16 products, which some processors compute five times
as fast, and the result is the same.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchreid_genext.precision import computes_bf16
from torchreid_genext.retrieval._blocks import (
    DEFAULT_MEMORY_LIMIT,
    blocks,
    check_count,
    check_limit,
)
from torchreid_genext.retrieval._numerics import full_precision, scaled
from torchreid_genext.retrieval._search import Search

if TYPE_CHECKING:
    from torchreid_genext.retrieval.approximate import Index

__all__ = [
    "DEFAULT_MEMORY_LIMIT", "INDEXES", "PRECISIONS",
    "at_most", "check_features", "check_rows", "check_sizes", "name_rows", "nearest", "use_bf16",
]  # fmt: skip

logger = logging.getLogger(__name__)

PRECISIONS = ("auto", "fp32", "bf16")
INDEXES = ("exact", "flat", "ivf", "hnsw")  # the last three through faiss
_WORTH_TWO_STAGES = 4_000_000  # scores; below, the second copy of the features costs more than it saves


@full_precision()
def nearest(
    x: Tensor,
    y: Tensor | None = None,
    *,
    k: int,
    chunk: int | None = None,
    memory_limit: int | None = None,
    precision: str = "auto",
    index: str | Index = "exact",
) -> tuple[Tensor, Tensor]:
    """Return the ``k`` nearest rows of ``y`` for each row of ``x``, nearest first.

    Args:
        x: floating, shape (N, D), finite.
        y: shape (M, D); ``None`` compares ``x`` with itself and leaves each row's own entry out.
        k: how many neighbours, in ``1 .. M`` (``1 .. N - 1`` without ``y``).
        chunk: rows scored at a time; ``None`` derives it from ``memory_limit``.
        memory_limit: bytes of working memory, 96 MiB unless told; the two results and, in ``bf16``, a
            half-size copy of the features come on top.
        precision: ``fp32`` or ``bf16`` products for the candidates, or ``auto``: ``bf16`` on processors with
            instructions for it; accelerators always use ``fp32``. The result is the same.
        index: ``exact``, or how faiss searches, a name of ``INDEXES`` or an index of ``approximate`` with its
            settings; what that finds may be incomplete, and ``precision`` has no part in it.

    Returns:
        Squared Euclidean distances (N, k), float32, and indices (N, k), int64. Equal distances are ordered by
        index. A distance beyond the range of float32 is infinite, its neighbour is the right one.

    Raises:
        ValueError: if a shape, ``k``, ``chunk``, ``memory_limit``, ``precision`` or ``index`` is out of
            range, or a value is not finite.
        ImportError: if the index needs faiss, which is not installed.
    """
    if index != "exact":
        from torchreid_genext.retrieval import approximate

        return approximate.nearest(x, y, k=k, index=index, chunk=chunk, memory_limit=memory_limit)
    x = check_features(x, "x")
    y_set = x if y is None else check_features(y, "y")
    check_sizes(x, y_set, k, excluding_self=y is None)
    size = None if chunk is None else check_count("chunk", chunk)
    limit, bf16 = check_limit(memory_limit), use_bf16(x, y_set, precision)
    (x, y_set), scale = scaled(x, y_set)
    search, most = Search(x, y_set, bf16=bf16), len(y_set) - (y is None)
    distances = torch.empty(len(x), k, dtype=torch.float32, device=x.device)
    indices = torch.empty(len(x), k, dtype=torch.int64, device=x.device)
    for rows in blocks(len(x), size or search.rows_within(limit, k)):
        bounds = search.block(rows)
        if y is None:
            bounds.diagonal(rows.start).fill_(-math.inf)
        distances[rows], indices[rows] = search.nearest(rows, bounds, k, most=most)
    return (distances if scale == 1 else distances / scale / scale), indices


def at_most(where: str, **counts: tuple[int, int]) -> list[int]:
    """Numbers of neighbours, cut to as many as there are; one warning names those that were more.

    Args:
        where: what they are for, as the warning begins.
        counts: of each number what was asked for, and how many there are.

    Raises:
        ValueError: if a number asked for is no integer >= 1.
    """
    asked = {name: check_count(name, number) for name, (number, _) in counts.items()}
    beyond = [f"{name}={asked[name]} of {most}" for name, (_, most) in counts.items() if asked[name] > most]
    if beyond:
        numbers = ", ".join(beyond)
        logger.warning("%s: expected at most as many as there are, got %s; taking all", where, numbers)
    return [min(asked[name], most) for name, (_, most) in counts.items()]


def check_features(features: Tensor, name: str = "features") -> Tensor:
    """Return ``features`` as contiguous float32, or say what is wrong with them.

    Raises:
        ValueError: unless ``features`` is a floating (N, D) tensor of finite values with N, D >= 1; names the
            rows.
    """
    if not isinstance(features, Tensor) or not features.is_floating_point():
        raise ValueError(f"expected {name} to be a floating tensor, got {_kind(features)}")
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"expected {name} of shape (N, D) with N, D >= 1, got {tuple(features.shape)}")
    features = features.detach().to(torch.float32).contiguous()
    # One pass without a mask: a sum is finite only if every term is (overflow cannot hide a bad value, only
    # add one).
    suspicious = ~features.sum(1).isfinite()
    bad = suspicious.nonzero()[:, 0]
    bad = bad[~features[bad].isfinite().all(1)]
    if len(bad):
        raise ValueError(f"expected finite {name}, got NaN or infinity in {name_rows(bad)}")
    return features


def check_rows(features: Tensor, name: str = "features") -> Tensor:
    """As ``check_features``, but there may be no rows."""
    if isinstance(features, Tensor) and features.ndim == 2 and not len(features) and features.shape[1]:
        return check_features(features.new_zeros(1, features.shape[1]), name)[:0]
    return check_features(features, name)


def name_rows(rows: Tensor, shown: int = 5) -> str:
    """Name a few of the offending rows, for messages: ``rows 1, 5, 7 (3 in all)``."""
    listed = ", ".join(str(int(row)) for row in rows[:shown])
    return f"rows {listed}{', ...' if len(rows) > shown else ''} ({len(rows)} in all)"


def _kind(value: object) -> str:
    return f"dtype {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def check_sizes(x: Tensor, y: Tensor, k: int, excluding_self: bool) -> None:
    """Raise ValueError unless the widths are one and ``k`` neighbours exist."""
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"expected x and y of one width, got {x.shape[1]} and {y.shape[1]}")
    most = len(y) - excluding_self
    if isinstance(k, bool | float) or k not in range(1, most + 1):
        raise ValueError(f"expected k in 1..{most}, got {k!r}")


def use_bf16(x: Tensor, y: Tensor, precision: str = "auto") -> bool:
    """Whether a search takes its candidates from bfloat16 products; raises ValueError as `nearest`."""
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
    if x.device.type != "cpu":
        return False  # accelerators may also add up in bfloat16, for which the bounds do not account
    if precision == "auto":
        return len(x) * len(y) >= _WORTH_TWO_STAGES and computes_bf16("cpu")
    return precision == "bf16"
