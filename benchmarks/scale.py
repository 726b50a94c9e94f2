"""Nearest neighbours from 10,000 to 1,000,000 images, exact and through faiss, and what 10^8 would take.

    python benchmarks/scale.py [--rows 10000 100000 1000000] [--indexes exact flat ivf hnsw] [--full]

A slice of the images asks, all are searched: time per question and for building the index are measured, and
the time for all images to ask is their sum, computed. With --full all images do ask. Recall is the share of
the exact search's neighbours. The projection is computed from the formulas that it prints.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import Any

import torch
from _measure import Measurement, measure, table
from torch import Tensor
from torch.nn.functional import normalize

from torchreid_genext.retrieval.approximate import INDEXES, Index, InvertedLists, recall
from torchreid_genext.retrieval.neighbours import nearest

MIB, GB, TERA = 2**20, 1e9, 1e12
IMAGES_A_PERSON, DIRECTIONS = 20, 32

# NVIDIA's data sheet of the H200 (SXM), dense: FLOP/s of bfloat16 and of float32, bytes/s of memory and links
BF16, FP32, HBM, NVLINK, NETWORK = 990 * TERA, 67 * TERA, 4.8 * TERA, 450 * GB, 50 * GB


def crowd(images: int, width: int) -> Tensor:
    """Unit features of people, 20 images each in random order, that mostly vary in a few directions."""
    generator = torch.Generator().manual_seed(0)
    people = max(1, images // IMAGES_A_PERSON)
    centres = torch.randn(people, DIRECTIONS, generator=generator)
    directions = torch.randn(DIRECTIONS, width, generator=generator) / math.sqrt(DIRECTIONS)
    features = torch.randn(images, width, generator=generator).mul_(0.2)
    for part in torch.arange(images).split(65536):
        person = torch.randint(0, people, (len(part),), generator=generator)
        appearance = centres[person] + torch.randn(len(part), DIRECTIONS, generator=generator)
        features[part] += appearance @ directions
    return normalize(features, out=features)


class Timed:
    """An index that knows how long it took to build."""

    def __init__(self, index: Index) -> None:
        self.index, self.seconds = index, 0.0

    def build(self, y: Tensor, width: int) -> Any:
        start = time.perf_counter()
        built = self.index.build(y, width)
        self.seconds = time.perf_counter() - start
        return built

    def __repr__(self) -> str:
        return repr(self.index)


class Run:
    """One search: seconds to build, seconds per question, and for all images to ask."""

    def __init__(self, name: str, features: Tensor, asking: int, k: int) -> None:
        index = "exact" if name == "exact" else Timed(INDEXES[name]())
        self.measured: Measurement = measure(lambda: nearest(features[:asking], features, k=k, index=index))
        self.build = 0.0 if name == "exact" else index.seconds
        self.each = (self.measured.seconds - self.build) / asking
        self.all = self.build + self.each * len(features)
        self.index, self.found = index, self.measured.result[1]


def compare(
    rows: int, width: int, asking: int, k: int, names: list[str]
) -> tuple[list[list[str]], dict[str, float]]:
    """A table row and the seconds for all images of each search."""
    features, lines, seconds, exact = crowd(rows, width), [], {}, None
    nearest(features[:2000], features, k=k)  # the first products of a process are slow
    for name in names:
        run = Run(name, features, asking, k)
        exact = run.found if name == "exact" else exact
        share = f"{recall(run.found, exact):.4f}" if exact is not None else ""
        lines.append([
            f"{rows:,}", str(run.index), f"{run.build:.1f} s", f"{1000 * run.each:.3f} ms",
            f"{run.all:.1f} s", f"{run.measured.peak / MIB:.0f} MiB", share,
        ])  # fmt: skip
        seconds[name] = run.all
        print("  ".join(lines[-1]), flush=True)
    return lines, seconds


def exponent(points: list[tuple[int, float]]) -> float:
    """The slope of log time over log size: 2 is quadratic growth."""
    x, y = (torch.tensor([math.log(value) for value in column]) for column in zip(*points))
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def projection(n: float = 1e8, d: int = 128, k: int = 10) -> str:
    """What the k nearest of each of n images cost on nodes of 8 H200, from formulas."""
    products, scores, features = 2 * n * n * d, n * n, 4 * n * d
    nlist, nprobe = 4 * math.sqrt(n), InvertedLists.nprobe
    listed = n * (nlist + nprobe * n / nlist)
    ways = (
        ("exact, float32 as accelerators run it here", products / FP32, 16 * scores / HBM),
        ("exact, bfloat16 candidates, scores in memory", products / BF16, 4 * scores / HBM),
        ("exact, bfloat16, scores never leave the chip", products / BF16, 0),
        (f"inverted lists, {nlist:,.0f}, {nprobe} read", 2 * listed * d / FP32, 4 * listed * d / HBM),
    )
    rows = [["", "products", "memory", "1 GPU", "8 GPUs", "64 GPUs"]]
    for name, compute, memory in ways:
        slowest = max(compute, memory)
        rows.append([name, *(duration(s) for s in (compute, memory, slowest, slowest / 8, slowest / 64))])
    return "\n".join((
        f"Projection, computed, not measured: the {k} nearest of each of {n:.0e} x {d} on H200, at the peaks",
        f"of the data sheet ({BF16 / TERA:.0f} TFLOP/s in bfloat16, {FP32 / TERA:.0f} in float32, memory "
        f"{HBM / TERA} TB/s), of which real programs reach about a half:",
        f"  products  2 N^2 D = {products:.2e} FLOP",
        f"  scores    N^2 = {scores:.0e}, through memory with 16 bytes each in float32 (product, bound,",
        "            selection), with 4 in bfloat16, or not at all",
        f"  features  4 N D = {features / GB:.1f} GB and lists 12 N k = {12 * n * k / GB:.1f} GB; "
        "a GPU has 141 GB",
        "  links     each process receives the shards of the others once, 4 N D (P - 1) / P: on 8 GPUs",
        f"            {duration(features * 7 / 8 / NVLINK)} by NVLink ({NVLINK / GB:.0f} GB/s each way), on 64 "
        f"{duration(features * 63 / 64 / NETWORK)} by 400 Gb/s: little beside the products",
        "  inverted lists add their training, and need as many copies of the index as there are GPUs",
        "",
        table(rows),
    ))  # fmt: skip


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.{0 if seconds >= 10 else 1}f} s" if seconds else "-"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--asking", type=int, default=10_000, help="images that ask")
    parser.add_argument("--full", action="store_true", help="all images ask")
    parser.add_argument("--indexes", nargs="+", default=["exact", *INDEXES], choices=["exact", *INDEXES])
    args = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, {args.width}-d, k={args.k}, "
          f"{'all images' if args.full else f'{args.asking:,} images'} ask\n", flush=True)  # fmt: skip
    lines, points = [], {name: [] for name in args.indexes}
    for rows in args.rows:
        asking = rows if args.full else min(rows, args.asking)
        more, seconds = compare(rows, args.width, asking, args.k, args.indexes)
        lines += more
        for name, value in seconds.items():
            points[name].append((rows, value))
    heading = ["images", "index", "build", "per question", "all ask", "memory above features", "recall"]
    print("\n" + table([heading, *lines]) + "\n")
    if len(args.rows) > 1:
        grown = ", ".join(f"{name} N^{exponent(of):.2f}" for name, of in points.items())
        print(f"Time for all images to ask grows as: {grown}\n")
    print(projection(k=args.k))


if __name__ == "__main__":
    main()
