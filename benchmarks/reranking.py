"""k-reciprocal re-ranking at the size of Market-1501, against its peers in the same run.

    python benchmarks/reranking.py [--peers] [--msmt] [--width 2048]

The floor is one blocked float32 product of all pairs, which any exact method needs. The peer, torchreid's
function on the three matrices that its engine computes, runs with --peers only; --msmt adds a run at the size
of MSMT17, in blocks of queries that are ranked and forgotten.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from _crowd import people, product_and_top_k
from _measure import MIB, Measurement, measure, table
from torch import Tensor

from torchreid_genext import compat
from torchreid_genext.retrieval.metrics import Ranking, rank_matches
from torchreid_genext.retrieval.reranking import KReciprocal, k_reciprocal
from torchreid_genext.retrieval.spaces import FeatureSpace

MSMT17 = 11_659, 82_161, 512  # queries, gallery, features of an OSNet
BLOCK = 256


def of_torchreid(query: Tensor, gallery: Tensor) -> np.ndarray:
    """What torchreid's engine computes with ``rerank=True``."""
    pairs = (query, gallery), (query, query), (gallery, gallery)
    return compat.re_ranking(*(compat.compute_distance_matrix(x, y).numpy() for x, y in pairs))


def in_blocks(query: Tensor, gallery: Tensor, pids: np.ndarray, camids: np.ndarray) -> Ranking:
    """Re-rank without a matrix of queries and gallery: each block is ranked at once."""
    reranked, q, parts = KReciprocal.of(FeatureSpace.of(query, gallery), len(query)), len(query), []
    for start in range(0, q, BLOCK):
        rows = slice(start, min(start + BLOCK, q))
        labels = pids[rows], pids[q:], camids[rows], camids[q:]
        parts.append(rank_matches(reranked.distances(rows).numpy(), *labels))
    return Ranking.concatenate(parts)


def compare(queries: int, gallery: int, width: int, peers: bool) -> list[list[str]]:
    features = people(queries + gallery, width)[0]
    sets = features[:queries], features[queries:]
    floor = measure(lambda: product_and_top_k(features, k=20))
    ours = measure(lambda: k_reciprocal(*sets), repeats=3)
    rows = [
        _row(f"one float32 product + top-20, {width}-d (floor)", floor),
        _row("k-reciprocal distances", ours, f"{ours.seconds / floor.seconds:.2f} of the floor"),
    ]
    if peers:
        host = measure(lambda: of_torchreid(*sets))
        gap = np.abs(host.result - ours.result.numpy())
        ratio = f"{host.seconds / ours.seconds:.1f}x time, {host.peak / ours.peak:.0f}x memory"
        differ = f"{(gap > 1e-5).mean():.1e} of the entries differ by more than 1e-5"
        rows.append(_row("k-reciprocal distances, torchreid's", host, f"{ratio}; {differ}"))
    return rows


def measure_msmt() -> list[list[str]]:
    queries, gallery, width = MSMT17
    features, pids, camids = people(queries + gallery, width)
    run = measure(lambda: in_blocks(features[:queries], features[queries:], pids, camids))
    found = f"mAP {np.nanmean(run.result.average_precision):.2%}"
    remark = f"features themselves: {features.nbytes / MIB:.0f} MiB; {found}"
    return [_row(f"re-ranked and evaluated, {queries:,} x {gallery:,}, {width}-d", run, remark)]


def _row(name: str, run: Measurement, remark: str = "") -> list[str]:
    return [name, f"{run.seconds:.1f} s", f"{run.peak / MIB:.0f} MiB", remark]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queries", type=int, default=3368)
    parser.add_argument("--gallery", type=int, default=15913)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--msmt", action="store_true", help="also a set of MSMT17's size")
    parser.add_argument("--peers", action="store_true", help="also run torchreid's (minutes, 9 GiB)")
    args = parser.parse_args()
    print(
        f"{torch.get_num_threads()} threads, {args.queries:,} x {args.gallery:,}, {args.width}-d\n",
        flush=True,
    )
    rows = [["", "median", "memory above start", ""]]
    rows += compare(args.queries, args.gallery, args.width, args.peers)
    rows += measure_msmt() if args.msmt else []
    print(table(rows))


if __name__ == "__main__":
    main()
