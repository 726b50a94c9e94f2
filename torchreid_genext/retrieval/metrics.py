"""CMC, mAP and mINP without sorting the gallery.

All three depend only on the ranks of a query's matches, and a rank is a count: how many gallery images are
nearer. So each match costs one comparison with the row of distances, which no sort can beat as long as
matches are few. Counts add up over parts of the gallery, so that neither the matrix of distances nor a whole
row of it need exist (``rank_streamed``); a matrix that does exist (``rank_matches``) is one such part.

Ties are defined: equal distances rank by gallery index, as a stable sort would have it. How much depends on
that is known as well: ``Ranking`` also holds the average precision when all ties are read against the query,
and for it.

Protocols: ``market1501`` leaves out gallery images of the query's own identity and camera (Zheng et al., ICCV
2015). ``cuhk03`` leaves out the same and computes the CMC over one random image per identity, ten times (Li
et al., CVPR 2014). ``streid`` is what the authors of ST-ReID evaluate (Wang et al., AAAI 2019): also without
gallery images of pid -1, average precision by the trapezoidal rule, and queries without a match count as
failures in all rates, where the other protocols leave them out. ``camstyle`` is ``market1501`` with the
trapezoidal rule (Zhong et al., CVPR 2018). ``genid`` is what the authors of GenerativePersonReID evaluate,
kept to check their figures and to compare with nothing else: every gallery image counts, the query's own
camera included, and instead of a CMC there is the share of the matches among the first 25 that stands among
the first k, which is 1 at 25 and, for a query with no match there, everywhere. A query without any match has
an average precision of 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from torchreid_genext.retrieval.ranking import PROTOCOLS, Ranking
from torchreid_genext.retrieval.streaming import rank_streamed

__all__ = ["PROTOCOLS", "Ranking", "evaluate_rank", "rank_matches", "rank_streamed"]


def evaluate_rank(
    distmat: ArrayLike,
    q_pids: ArrayLike,
    g_pids: ArrayLike,
    q_camids: ArrayLike,
    g_camids: ArrayLike,
    max_rank: int = 50,
    use_metric_cuhk03: bool = False,
    use_cython: bool = True,
) -> tuple[NDArray[np.float32], float]:
    """CMC curve and mAP with torchreid's signature and numbers.

    Args:
        distmat: distances, shape (Q, G), smaller is closer.
        q_pids: identity of each query (Q,).
        g_pids: identity of each gallery image (G,).
        q_camids: camera of each query (Q,).
        g_camids: camera of each gallery image (G,).
        max_rank: length of the CMC curve; at most G.
        use_metric_cuhk03: the cuhk03 protocol; its random samples come from numpy's global generator, as
            torchreid's.
        use_cython: accepted for torchreid's sake, without effect.

    Returns:
        CMC (max_rank,) float32 and mAP, both in 0 .. 1, over the queries that have a match.

    Raises:
        ValueError: if shapes do not fit, a distance is NaN, or no query has a match in another camera.
    """
    protocol = "cuhk03" if use_metric_cuhk03 else "market1501"
    distmat = np.asarray(distmat)
    max_rank = min(max_rank, distmat.shape[-1])
    ranking = rank_matches(distmat, q_pids, g_pids, q_camids, g_camids, protocol=protocol, max_rank=max_rank)
    if not ranking.valid.any():
        raise ValueError(
            "expected a query identity to appear in the gallery under another camera, got none that does"
        )
    return ranking.cmc(max_rank), ranking.mAP


def rank_matches(
    distances: ArrayLike,
    q_pids: ArrayLike,
    g_pids: ArrayLike,
    q_camids: ArrayLike,
    g_camids: ArrayLike,
    *,
    protocol: str = "market1501",
    max_rank: int = 50,
) -> Ranking:
    """Rank the matches of each query; arguments as ``evaluate_rank``.

    Raises:
        ValueError: if shapes do not fit, a distance is NaN, or the protocol is unknown.
    """
    distances, labels = _checked(distances, q_pids, g_pids, q_camids, g_camids)
    return rank_streamed(
        lambda rows, columns: distances[rows, columns], *labels,
        query_rows=len(distances), gallery_rows=distances.shape[1], protocol=protocol, max_rank=max_rank,
    )  # fmt: skip


def _checked(distances: ArrayLike, *labels: ArrayLike) -> tuple[NDArray, list[NDArray]]:
    distances, labels = np.asarray(distances), [np.asarray(values) for values in labels]
    lengths = tuple(len(values) for values in labels)
    if distances.ndim != 2 or 0 in distances.shape or lengths != distances.shape * 2:
        raise ValueError(
            "expected distances (Q, G) with Q, G >= 1 and as many labels, "
            f"got {distances.shape} with {lengths[0]} and {lengths[2]} query, "
            f"{lengths[1]} and {lengths[3]} gallery labels"
        )
    return distances, labels
