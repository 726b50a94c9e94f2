"""How both re-rankers grow with the number of images, and what 10^8 gallery images would take.

    python benchmarks/growth.py [--images 8000 20000 40000 93820]

Each size runs in a process of its own: an eighth of the images ask, all are described, and every query is
ranked. Seconds are of the processor, so that other work on the machine changes them little. The projection
continues the growth of the two largest sizes; it is computed, not measured.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import time
from typing import Any

import torch
from _crowd import people
from _measure import MIB, table

from torchreid_genext.retrieval.metrics import rank_matches
from torchreid_genext.retrieval.reranking import KReciprocal
from torchreid_genext.retrieval.spaces import FeatureSpace

WIDTH, BLOCK, GALLERY = 512, 256, 10**8
KINDS = ("k-reciprocal", "ca_jaccard")


def run(kind: str, images: int) -> tuple[float, int]:
    """Seconds of the processor, and bytes of memory above the features, of one size."""
    features, pids, camids = people(images, WIDTH)
    queries = images // 8
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    space = FeatureSpace.of(features[:queries], features[queries:])
    if kind == "ca_jaccard":
        reranked = KReciprocal.of_cameras(space, torch.from_numpy(camids), queries)
    else:
        reranked = KReciprocal.of(space, queries)
    for first in range(0, queries, BLOCK):
        rows, rest = slice(first, min(first + BLOCK, queries)), slice(queries, None)
        rank_matches(reranked.distances(rows).numpy(), pids[rows], pids[rest], camids[rows], camids[rest])
    seconds = time.process_time() - start
    return seconds, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def alone(*arguments: Any) -> tuple[float, int]:
    """The same in a process of its own, whose memory nothing else has used."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run, arguments)


def projected(sizes: list[int], values: list[float]) -> str:
    """Value at the size of GALLERY, by the growth between the two largest sizes."""
    power = math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2])
    return f"N^{power:.2f}: {values[-1] * (GALLERY / sizes[-1]) ** power:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=[8_000, 20_000, 40_000, 93_820])
    sizes = parser.parse_args().images
    lines = [["", *(f"{size:,}" for size in sizes), f"projection, {GALLERY:.0e} images"]]
    for kind in KINDS:
        seconds, memory = zip(*(alone(kind, size) for size in sizes))
        lines.append([f"{kind}, s", *(f"{value:.1f}" for value in seconds), projected(sizes, list(seconds))])
        rounded = [value / MIB for value in memory]
        lines.append([f"{kind}, MiB", *(f"{value:.0f}" for value in rounded), projected(sizes, rounded)])
    print(f"{torch.get_num_threads()} threads, {WIDTH}-d\n\n{table(lines)}")


if __name__ == "__main__":
    main()
