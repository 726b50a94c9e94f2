"""Re-ranking by reciprocal neighbours, in words and sets."""

from __future__ import annotations

import numpy as np


def k_reciprocal(
    distances: np.ndarray,
    num_query: int,
    k1: int,
    k2: int,
    lambda_value: float,
    power: float,
    own_first: bool = False,
) -> np.ndarray:
    """Zhong et al.'s re-ranking in words and sets: a matrix (N, N), the queries first; ties by index.

    own_first: an image heads its own list, also before its duplicates. A k beyond N is N; all images in one
    place have distance 0.
    """
    original = distances.astype(np.float64) ** power
    greatest = original.max(axis=1, keepdims=True)
    original = original / np.where(greatest > 0, greatest, 1)
    order = original - np.eye(len(original)) if own_first else original
    lists = np.argsort(order, axis=1, kind="stable").tolist()
    half = int(np.around(k1 / 2))

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in lists[i][: k + 1] if i in lists[j][: k + 1]}

    vectors = np.zeros_like(original)
    for i in range(len(original)):
        core = reciprocal(i, k1)
        smaller = [reciprocal(j, half) for j in core]
        members = sorted(core.union(*(s for s in smaller if 3 * len(s & core) > 2 * len(s))))
        weights = np.exp(-original[i, members])
        vectors[i, members] = weights / weights.sum()
    if k2 > 1:
        vectors = np.array([vectors[lists[i][:k2]].mean(axis=0) for i in range(len(original))])
    shared = np.array([[np.minimum(q, g).sum() for g in vectors[num_query:]] for q in vectors[:num_query]])
    jaccard = 1 - shared / (2 - shared)
    return (1 - lambda_value) * jaccard + lambda_value * original[:num_query, num_query:]


def ca_jaccard(
    distances: np.ndarray,
    num_query: int,
    cameras: np.ndarray,
    k1_intra: int,
    k1_inter: int,
    k2_intra: int,
    k2_inter: int,
    lambda_value: float,
) -> np.ndarray:
    """Chen et al.'s re-ranking of a matrix (N, N), queries first; ties by index, an image before its like."""
    greatest = distances.max(axis=1, keepdims=True)
    original = distances / np.where(greatest > 0, greatest, 1)
    same, images = cameras[:, None] == cameras, np.arange(len(cameras))
    order = original - np.eye(len(images))
    intra = [np.lexsort((images, row, ~own)).tolist() for row, own in zip(order, same)]
    inter = [np.lexsort((images, row, own)).tolist() for row, own in zip(order, same)]

    def reciprocal(lists: list[list[int]], i: int, k: int) -> set[int]:
        return {j for j in lists[i][: k + 1] if i in lists[j][: k + 1]}

    vectors = np.zeros_like(original)
    for i in images:
        members = sorted(reciprocal(intra, i, k1_intra) | reciprocal(inter, i, k1_inter))
        weights = np.exp(-original[i, members])
        vectors[i, members] = weights / weights.sum()
    near = [a[:k2_intra] + b[:k2_inter] for a, b in zip(intra, inter)]
    vectors = np.array([vectors[listed].mean(axis=0) for listed in near])
    shared = np.array([[np.minimum(q, g).sum() for g in vectors[num_query:]] for q in vectors[:num_query]])
    jaccard = 1 - shared / (2 - shared)
    return (1 - lambda_value) * jaccard + lambda_value * original[:num_query, num_query:]
