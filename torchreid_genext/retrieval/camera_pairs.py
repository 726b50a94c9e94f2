"""mAP by pair of cameras: where a chain finds people again, and where it does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchreid_genext.retrieval.metrics import Ranking, precision_of

__all__ = ["CameraPairs", "camera_pairs"]


@dataclass(frozen=True, eq=False)
class CameraPairs:
    """How well a query of one camera finds its person's images under another one, in the whole gallery.

    Attributes:
        cameras: ids (C,) of queries and matches, ascending.
        mAP: of the query's camera (row) and that of the matches (column), (C, C) in 0 .. 1, NaN without a
            query; the person's images under further cameras are left aside.
        queries: behind each, (C, C).
    """

    cameras: NDArray[np.int64]
    mAP: NDArray[np.float64]
    queries: NDArray[np.int64]

    def to_json(self) -> dict[str, Any]:
        """Plain Python values, None where no query is."""
        rates = [[None if np.isnan(rate) else rate for rate in row] for row in self.mAP.tolist()]
        return {"cameras": self.cameras.tolist(), "mAP": rates, "queries": self.queries.tolist()}


def camera_pairs(ranking: Ranking, q_camids: NDArray, m_camids: NDArray) -> CameraPairs:
    """Average what was found of each query by the camera of the matches.

    Args:
        ranking: of the queries.
        q_camids: camera of each query (Q,).
        m_camids: camera of the gallery image of each match (E,).
    """
    cameras, codes = np.unique(np.concatenate([q_camids, m_camids]), return_inverse=True)
    of_query, of_match = codes[: len(q_camids)], codes[len(q_camids) :]
    group = ranking.matches["query"] * len(cameras) + of_match  # a query's matches under one camera
    order = np.argsort(group, kind="stable")
    groups, starts, sizes = np.unique(group[order], return_index=True, return_counts=True)
    place = np.arange(1, len(order) + 1) - np.repeat(starts, sizes)
    precision = precision_of(ranking.protocol)(place, place + ranking.matches["strangers"][order])
    average = np.add.reduceat(precision, starts) / sizes if len(starts) else precision
    pair = of_query[groups // len(cameras)] * len(cameras) + groups % len(cameras)
    shape = len(cameras), len(cameras)
    queries, sums = (np.bincount(pair, weights, len(cameras) ** 2) for weights in (None, average))
    rates = np.divide(sums, queries, out=np.full(len(sums), np.nan), where=queries > 0)
    return CameraPairs(cameras, rates.reshape(shape), queries.reshape(shape))
