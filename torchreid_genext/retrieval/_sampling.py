"""The CMC of the cuhk03 protocol: over one random image of each gallery identity, the mean of ten draws."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["sampled_cmc"]

_REPEATS = 10


def sampled_cmc(
    distances: NDArray, q_pids: NDArray, g_pids: NDArray, q_camids: NDArray, g_camids: NDArray, max_rank: int
) -> NDArray[np.float32]:
    """CMC (Q, max_rank) of whole rows of distances (Q, G); numpy's global generator draws, as torchreid's."""
    curves = np.zeros((len(distances), max_rank), dtype=np.float32)
    for curve, row, pid, camid in zip(curves, distances, q_pids, q_camids):
        order = np.argsort(row, kind="stable")
        order = order[(g_pids[order] != pid) | (g_camids[order] != camid)]
        if (g_pids[order] == pid).any():
            curve[:] = _sample_curve(g_pids[order], pid, max_rank)
    return curves


def _sample_curve(ranked_pids: NDArray, pid: int, max_rank: int) -> NDArray[np.float32]:
    _, first, identity, counts = np.unique(
        ranked_pids, return_index=True, return_inverse=True, return_counts=True
    )
    places = np.split(np.argsort(identity, kind="stable"), counts.cumsum()[:-1])
    own = ranked_pids[first] == pid
    appearance = np.argsort(
        first
    )  # draws are made in the order in which identities first appear in the ranking
    curve = np.zeros(max_rank, dtype=np.float32)
    for _ in range(_REPEATS):
        drawn = np.empty(len(counts), dtype=np.int64)
        for index in appearance:
            drawn[index] = np.random.choice(places[index])
        rank = int((drawn < drawn[own]).sum())
        curve[rank:] += 1
    return curve / _REPEATS
