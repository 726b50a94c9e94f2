"""Extraction of random images, and retrieval at the sizes of Market-1501 and MSMT17."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _gpu import GIB, TERA, Part, flops
from PIL import Image
from torch import Tensor, nn

from torchreid_genext import compat
from torchreid_genext.benchmark.memory import PeakMemory
from torchreid_genext.extraction import Encoder, extract
from torchreid_genext.retrieval.protocol import RetrievalSet, Sightings, evaluate, transform

MODELS = ("osnet_x0_25", "resnet50")
WAYS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "bf16, channels_last": {"precision": "bf16", "channels_last": True},
    "bf16, channels_last, compiled": {"precision": "bf16", "channels_last": True, "compile": True},
}
COMPILING = 25  # seconds that torch.compile may need for a network


def extraction(part: Part) -> None:
    """Images a second from memory, and from files with all that users wait for."""
    for name in MODELS:
        for way in list(WAYS)[:-1]:
            with part.trying(f"{name}, {way}"):
                from_memory(part, name, way)
    with tempfile.TemporaryDirectory() as folder:
        paths = files(Path(folder), 40 if part.tiny else 4000)
        for name in MODELS:
            with part.trying(f"{name}, files"):
                from_files(part, name, paths)
    for name in MODELS:
        compiled(part, name, [*WAYS][-1])


def compiled(part: Part, name: str, way: str) -> None:
    """Last, since nobody knows how long it takes."""
    if part.left() < COMPILING:
        part.add(f"{name}, memory, {way}", remark="left out: too little time")
        return
    with part.trying(f"{name}, {way}"):
        from_memory(part, name, way)


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return compat.build_model(name, 1).eval()


def from_memory(part: Part, name: str, way: str) -> None:
    encoder = Encoder(network(name), **WAYS[way], device=part.device)
    images = torch.randint(256, (encoder.batch_size, 256, 128, 3), dtype=torch.uint8)
    batches, count = (1, len(images)) if part.tiny else (20, 20 * len(images))
    total, _ = flops(lambda: Encoder(network(name), device=part.device)(images))
    encoder(images), encoder(images)
    seconds = part.timed(f"{name}, {way}", lambda: [encoder(images) for _ in range(batches)])
    precision, rate = "tf32" if way == "fp32" else "bf16", total / len(images) * count / seconds
    part.add(
        f"{name}, memory, {way}", images_per_second=count / seconds,
        gflop_per_image=total / len(images) / 1e9, tflops=rate / TERA,
        of_product=rate / part.product(precision), batch=len(images),
    )  # fmt: skip


def files(folder: Path, count: int) -> list[str]:
    """JPEG files of coarse noise, 128 x 64 as those of Market-1501."""
    paths, random = [], np.random.default_rng(0)
    for number in range(count):
        paths.append(str(folder / f"{number}.jpg"))
        coarse = Image.fromarray(random.integers(256, size=(16, 8, 3), dtype=np.uint8))
        coarse.resize((64, 128), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def from_files(part: Part, name: str, paths: list[str]) -> None:
    encoder = Encoder(network(name), precision="bf16", channels_last=True, device=part.device)
    extract(encoder, paths[: len(paths) // 8], progress=False)
    seconds = part.timed(f"{name}, files", lambda: extract(encoder, paths, progress=False), 1)
    part.add(f"{name}, files, bf16, channels_last", images_per_second=len(paths) / seconds, images=len(paths))


class Size(NamedTuple):
    """Of a test split."""

    name: str
    queries: int
    gallery: int
    people: int
    cameras: int
    width: int = 512


MARKET = Size("Market-1501", 3368, 15913, 751, 6)
MSMT = Size("MSMT17", 11659, 82161, 3060, 15)
SMALL = Size("tiny", 40, 160, 20, 3, 32)
CHAINS = (
    "base", "nfc", "camera_norm", "l2+st", "rerank", "camera_norm+nfc(neighbours=cross_camera)+st",
    "camera_norm+nfc+rerank", "camera_norm+nfc+st+rerank",
)  # fmt: skip
FEW_CHAINS = ("base", "camera_norm+nfc+rerank")  # of the larger size, whose ranking takes long
STEPS_ALONE = ("nfc", "camera_norm", "alpha_qe", "dba", "l2+st", "rerank")


def people(size: Size, count: int, seed: int) -> RetrievalSet:
    """Features that cluster by person and camera, and people who walk from camera to camera."""
    random = torch.Generator().manual_seed(seed)
    pids = torch.randint(1, size.people, (count,), generator=random)
    camids = torch.randint(0, size.cameras, (count,), generator=random)
    frames = 250 * pids + 900 * camids + torch.randint(0, 300, (count,), generator=random)
    centres, views = (torch.randn(number, size.width, generator=torch.Generator().manual_seed(number))
                      for number in (size.people, size.people * size.cameras))  # fmt: skip
    features = torch.randn(count, size.width, generator=random)
    features += 0.4 * centres[pids] + 0.3 * views[pids * size.cameras + camids]
    return RetrievalSet(features, pids, camids, frames)


def retrieval(part: Part) -> None:
    """Chains of steps with features on the device: seconds, its peak memory and that of the host."""
    warm_up(part.device)
    for size, chains in ((SMALL, CHAINS),) if part.tiny else ((MARKET, CHAINS), (MSMT, FEW_CHAINS)):
        retrieval_rows(part, size, chains, part.device)


def retrieval_cpu(part: Part) -> None:
    """The same on the CPU of this machine, at the smaller size."""
    retrieval_rows(part, SMALL if part.tiny else MARKET, CHAINS, torch.device("cpu"))


def warm_up(device: torch.device) -> None:
    """Load the kernels of all that works; what does not is told with its row."""
    sets, train = crowd(SMALL, device)
    for chain in CHAINS:
        with contextlib.suppress(RuntimeError):
            evaluate(*sets, chain, train=train)


def crowd(size: Size, device: torch.device) -> tuple[list[RetrievalSet], Sightings]:
    """Query and gallery, and who was seen when."""
    known = people(size._replace(width=2), size.people * 10, 3)
    sets = [people(size, count, seed) for seed, count in ((1, size.queries), (2, size.gallery))]
    placed = [images.with_features(images.features.to(device)) for images in sets]
    return placed, Sightings(known.pids, known.camids, known.frames)


def retrieval_rows(part: Part, size: Size, chains: tuple[str, ...], device: torch.device) -> None:
    sets, train = crowd(size, device)
    works: dict[str, Callable[[], Any]] = {
        f"{step}, the step alone": partial(step_alone, sets, step, train) for step in STEPS_ALONE
    }
    works |= {chain: partial(evaluate, *sets, chain, train=train) for chain in chains}
    works["base, blocks of 2 GiB"] = partial(evaluate, *sets, memory_limit=2 * GIB)
    product_row(part, size, sets)
    for name, work in works.items():
        with part.trying(f"{size.name}, {name}, {device.type}"):
            retrieval_row(part, size, name, work, device)


def step_alone(sets: list[RetrievalSet], step: str, train: Sightings) -> None:
    """Of those that change distances, all distances too, which stay where they are."""
    after = transform(*sets, step, train=train)
    for _ in after.blocks() if step in ("l2+st", "rerank") else ():
        continue


def product_row(part: Part, size: Size, sets: list[RetrievalSet]) -> None:
    """The least that any ranking does: every distance once, and the best hundred of each query."""

    def work() -> list[Tensor]:
        query, gallery = (each.features for each in sets)
        k = min(100, len(gallery))
        return [(block @ gallery.T).topk(k, 1).indices for block in query.split(1024)]

    work()
    seconds = part.timed(f"{size.name}, products", work)
    part.add(
        f"{size.name}, all products and the best 100", seconds=seconds, device=sets[0].features.device.type
    )


def retrieval_row(part: Part, size: Size, name: str, work: Callable[[], Any], device: torch.device) -> None:
    part.start_memory()
    memory = PeakMemory()
    kept: list[Any] = []
    seconds = part.timed(f"{size.name}, {name}", lambda: kept.append(work()), 1)
    host, report = memory.growth(), kept[0]
    told = {"mAP": report.mAP, "rank1": report.rank(1)} if hasattr(report, "mAP") else {}
    steps = {f"seconds of {step}": spent for step, spent in getattr(report, "seconds", {}).items()}
    part.add(
        f"{size.name}, {name}", device=device.type, seconds=seconds, **told, growth_gib=host / GIB,
        peak_gib=part.peak_gib() if device.type == "cuda" else None, steps=steps or None,
    )  # fmt: skip
