"""ST-ReID at the size of Market-1501: learning the times, reading them for all pairs, joining them.

    python benchmarks/spatiotemporal.py [--slice 40]

The peer is the description taken literally, as published code does it: a Python loop over pairs of images,
and a smoothing matrix of all bins. It runs on a slice of the queries and one pair of cameras; its time for all
of them is computed from that, and said so.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import torch
from _measure import MIB, Measurement, measure, table

from torchreid_genext.retrieval.spatiotemporal import SpatioTemporalModel, joint_similarity

TRAIN, QUERIES, GALLERY, IDENTITIES, CAMERAS, CLOCK = 12_936, 3_368, 15_913, 751, 6, 450_000
BINS, INTERVAL, SIGMA = 5000, 100, 50


def sightings(images: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """People who walk past all cameras in an order of their own."""
    generator = np.random.default_rng(seed)
    pids, camids = generator.integers(0, IDENTITIES, images), generator.integers(0, CAMERAS, images)
    start = np.random.default_rng(1).integers(0, CLOCK // 2, IDENTITIES)
    frames = start[pids] + 4000 * camids + generator.integers(0, 500, images)
    return pids, camids, frames


def smoothed_by_matrix(row: np.ndarray) -> np.ndarray:
    """One pair of cameras through a matrix of all bins."""
    lag = np.arange(len(row))[:, None] - np.arange(len(row))
    weights = np.exp(-(lag**2) / (2 * SIGMA**2)) / (SIGMA * math.sqrt(2 * math.pi))
    return np.where(np.abs(lag) <= 3 * SIGMA, weights, 0) @ row


def scored_by_loop(visual: np.ndarray, curves: np.ndarray, query: tuple, gallery: tuple) -> np.ndarray:
    """The joint score, one pair of images at a time."""
    score = np.zeros_like(visual)
    for q, (q_cam, q_frame) in enumerate(zip(*query)):
        for g, (g_cam, g_frame) in enumerate(zip(*gallery)):
            lag = min(BINS - 1, abs(q_frame - g_frame) // INTERVAL)
            time = curves[q_cam, g_cam, lag] if q_frame > g_frame else curves[g_cam, q_cam, lag]
            score[q, g] = 1 / (1 + math.exp(-5 * visual[q, g])) / (1 + 2 * math.exp(-5 * time))
    return score


def dense(model: SpatioTemporalModel) -> np.ndarray:
    curves = np.zeros((CAMERAS, CAMERAS, BINS))
    curves[tuple(model.pairs.T.numpy())] = model.curves.numpy()
    return curves


def compare(part: int) -> list[list[str]]:
    train, query, gallery = (sightings(*of) for of in ((TRAIN, 0), (QUERIES, 2), (GALLERY, 3)))
    visual = torch.rand(QUERIES, GALLERY) * 2 - 1

    def whole() -> torch.Tensor:
        model = SpatioTemporalModel.fit(*train)
        return joint_similarity(visual, model.likelihood(*query[1:], *gallery[1:]))

    ours = measure(whole, repeats=3)
    model = SpatioTemporalModel.fit(*train)
    fit = measure(lambda: SpatioTemporalModel.fit(*train), repeats=3)
    some = tuple(column[:part].tolist() for column in query[1:])
    everyone = tuple(column.tolist() for column in gallery[1:])
    curves, seen = dense(model), visual[:part].double().numpy()
    loop = measure(lambda: scored_by_loop(seen, curves, some, everyone))
    matrix = measure(lambda: smoothed_by_matrix(model.counts[0].numpy()))
    gap = np.abs(loop.result - ours.result[:part].numpy()).max()
    published = loop.seconds * QUERIES / part + matrix.seconds * len(model.pairs)
    results = f"likelihood and result themselves: {2 * ours.result.nbytes / MIB:.0f} MiB"
    return [
        _row("ST-ReID: fit", fit),
        _row("ST-ReID: fit, likelihood and joint score of all pairs", ours, results),
        _row(f"loop over pairs of images, {part} queries", loop, f"differs by {gap:.0e}"),
        _row("smoothing by a matrix of all bins, one pair of cameras", matrix),
        ["the last two for everything, computed", f"{published:.0f} s", "", f"{published / ours.seconds:.0f}x"],
    ]


def _row(name: str, run: Measurement, remark: str = "") -> list[str]:
    return [name, f"{run.seconds:.2f} s", f"{run.peak / MIB:.0f} MiB", remark]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slice", type=int, default=40, help="queries of the loop")
    args = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, {QUERIES:,} x {GALLERY:,}\n", flush=True)
    print(table([["", "median", "memory above start", ""], *compare(args.slice)]))


if __name__ == "__main__":
    main()
