"""Retrieval at the size of Market-1501, against its peers in the same run.

    python benchmarks/retrieval.py [--peers] [--large 100000] [--msmt]

Peers: torchreid's Python evaluator and re-ranking; one blocked float32 product with top-k, the least that any
exact search does; NFC as published (all distances, an identity mask, a Python loop); and ST-ReID's loops, on a
slice. The slow ones run with --peers only. --msmt adds evaluation in blocks at the size of MSMT17.
"""

from __future__ import annotations

import argparse

import numpy as np
import reranking
import spatiotemporal
import torch
from _crowd import people, product_and_top_k
from _measure import MIB, Measurement, measure, table
from torch import Tensor

from torchreid_genext import compat
from torchreid_genext.retrieval.centralization import nfc
from torchreid_genext.retrieval.comparison import distances
from torchreid_genext.retrieval.metrics import evaluate_rank
from torchreid_genext.retrieval.protocol import RetrievalSet, evaluate
from torchreid_genext.retrieval.steps.expansion import alpha_query_expansion, database_augmentation


def published_nfc(features: Tensor, k1: int = 2, k2: int = 2) -> Tensor:
    """NFC the way it is described: the whole matrix, a mask for the diagonal, a loop over neighbours."""
    squares = features.square().sum(1)
    distances = squares[:, None] + squares - 2 * features @ features.t()
    distances[torch.eye(len(features), dtype=torch.bool)] = 1000.0
    lists = distances.topk(k1, largest=False).indices
    result = features.clone()
    for i in range(len(features)):
        for j in lists[i]:
            if i in lists[j][:k2]:
                result[i] += features[j]
    return result


def compare_evaluators(queries: int, gallery: int, width: int, peers: bool) -> list[list[str]]:
    features, pids, camids = people(queries + gallery, width)
    distances = (2 - 2 * features[:queries] @ features[queries:].t()).numpy()
    labels = pids[:queries], pids[queries:], camids[:queries], camids[queries:]
    ours = measure(lambda: evaluate_rank(distances, *labels), repeats=5)
    rows = [_row("CMC and mAP, this package", ours)]
    if peers:
        host = measure(lambda: compat.host().metrics.evaluate_rank(distances, *labels, use_cython=False))
        gap = max(abs(ours.result[1] - host.result[1]), np.abs(ours.result[0] - host.result[0]).max())
        rows.append(
            _row(
                "CMC and mAP, torchreid (Python)",
                host,
                f"{host.seconds / ours.seconds:.0f}x; differs by {gap:.0e}",
            )
        )
    return rows


def compare_nfc(images: int, width: int, peers: bool) -> list[list[str]]:
    features = people(images, width)[0]
    runs: dict[str, list[Measurement]] = {"product": [], "fp32": [], "bf16": []}
    for _ in range(5):  # in turn, so that a change of the machine's speed meets all of them
        runs["product"].append(measure(lambda: product_and_top_k(features)))
        runs["fp32"].append(measure(lambda: nfc(features, precision="fp32")))
        runs["bf16"].append(measure(lambda: nfc(features, precision="bf16")))
    floor, fp32, bf16 = (sorted(of, key=lambda m: m.seconds)[2] for of in runs.values())
    same = torch.equal(fp32.result, bf16.result)
    rows = [
        _row("one float32 product + top-3 (floor)", floor),
        _row("NFC, fp32 candidates", fp32, f"{fp32.seconds / floor.seconds:.2f} of the floor"),
        _row(
            "NFC, bf16 candidates",
            bf16,
            f"{bf16.seconds / floor.seconds:.2f} of the floor; same result: {same}",
        ),
    ]
    if peers:
        dense = measure(lambda: published_nfc(features))
        gap = (dense.result - fp32.result).abs().amax(1)
        ratio = f"{dense.seconds / bf16.seconds:.1f}x time, {dense.peak / bf16.peak:.0f}x memory of bf16"
        rows.append(_row("NFC as published", dense, f"{ratio}; {int((gap > 1e-4).sum())} rows differ"))
    return rows


def measure_large(images: int, width: int) -> list[list[str]]:
    features = people(images, width)[0]
    run = measure(lambda: nfc(features))
    return [
        _row(f"NFC of {images:,} x {width}", run, f"features themselves: {features.nbytes / MIB:.0f} MiB")
    ]


def measure_expansion(queries: int, gallery: int, width: int) -> list[list[str]]:
    features = people(queries + gallery, width)[0]
    query, rest = features[:queries], features[queries:]
    expanded = measure(lambda: alpha_query_expansion(query, rest), repeats=3)
    augmented = measure(lambda: database_augmentation(rest), repeats=3)
    return [_row("alpha query expansion", expanded), _row("database augmentation", augmented)]


def measure_msmt(queries: int = 11_659, gallery: int = 82_161, width: int = 512) -> list[list[str]]:
    features, pids, camids = people(queries + gallery, width)
    columns = zip(features.split([queries, gallery]), *(np.split(x, [queries]) for x in (pids, camids)))
    sets = [RetrievalSet(*column) for column in columns]
    run = measure(lambda: evaluate(*sets))
    product = measure(lambda: [distances(part, sets[1].features) for part in sets[0].features.split(256)])
    share = f"{run.seconds / product.seconds:.2f} of the distances alone"
    remark = f"{share}; features themselves: {features.nbytes / MIB:.0f} MiB"
    return [_row(f"evaluation of {queries:,} x {gallery:,} in blocks", run, remark)]


def _row(name: str, run: Measurement, remark: str = "") -> list[str]:
    return [name, f"{run.seconds:.2f} s", f"{run.peak / MIB:.0f} MiB", remark]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queries", type=int, default=3368)
    parser.add_argument("--gallery", type=int, default=15913)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--large", type=int, default=0, help="also centralize so many images")
    parser.add_argument("--msmt", action="store_true", help="also evaluate at the size of MSMT17")
    parser.add_argument("--peers", action="store_true", help="also run the slow peers (minutes, 4 GiB)")
    args = parser.parse_args()
    print(
        f"{torch.get_num_threads()} threads, {args.queries:,} x {args.gallery:,}, {args.width}-d\n",
        flush=True,
    )
    rows = [["", "median", "memory above start", ""]]
    rows += compare_evaluators(args.queries, args.gallery, args.width, args.peers)
    rows += compare_nfc(args.gallery, args.width, args.peers)
    rows += measure_expansion(args.queries, args.gallery, args.width)
    rows += reranking.compare(args.queries, args.gallery, args.width, args.peers)
    rows += spatiotemporal.compare(40)
    rows += measure_msmt() if args.msmt else []
    rows += measure_large(args.large, args.width) if args.large else []
    print(table(rows))


if __name__ == "__main__":
    main()
