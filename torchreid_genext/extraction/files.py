"""Image files to features: what is cached is read, the rest is computed, what cannot be read is listed.

On a CPU whole batches, from JPEG to feature, are the work of single-threaded processes, one a core:
re-identification networks have many small layers, whose threads would mostly wait for each other. With an
accelerator these processes decode only.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from torchreid_genext.data.images import UNREADABLE, open_image
from torchreid_genext.extraction import cache
from torchreid_genext.extraction.encoder import Encoder

__all__ = ["Extraction", "Plan", "extract", "plan", "read_image"]

_SAMPLE = 96  # images of which a duration is estimated


@dataclass(frozen=True)
class Extraction:
    """Features of those images that could be read.

    Attributes:
        features: (N, D) float32.
        kept: positions of their images in the list that was asked for, (N,) ascending.
        unreadable: path -> reason, of the images left out.
        computed: how many images were read in this run; the others came from the cache.
        seconds: what this run took.
    """

    features: Tensor
    kept: Tensor
    unreadable: dict[str, str]
    computed: int
    seconds: float


def extract(
    encoder: Encoder,
    paths: Sequence[str],
    *,
    cache_dir: str | Path | None = None,
    workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> Extraction:
    """Features of image files, from the cache where it has them.

    The cache is written every 2,000 images, so an interrupted run loses at most those; a damaged or foreign
    cache file is reported and replaced.

    Args:
        encoder: the model with its preprocessing.
        paths: image files (JPEG, PNG, BMP or WebP), in the order of the wanted features.
        cache_dir: folder of cached features; None neither reads nor writes any.
        workers: processes; 0 works in this one, None takes one a core.
        strict: stop at an image that cannot be read, instead of leaving it out.
        progress: show a progress bar on a terminal when images are read.

    Raises:
        ValueError: if there are no paths, none can be read, or, with `strict`, one cannot.
        OSError: if `cache_dir` cannot be written.
    """
    return plan(encoder, paths, cache_dir).run(workers=workers, strict=strict, progress=progress)


def plan(encoder: Encoder, paths: Sequence[str], cache_dir: str | Path | None = None) -> Plan:
    """What `extract` would do with the same arguments; nothing is computed or written before `Plan.run`.

    Raises:
        ValueError: if there are no paths.
    """
    if not paths:
        raise ValueError("expected at least one image, got an empty list")
    shards = cache.shards(encoder.key, [str(path) for path in paths], cache_dir)
    return Plan(encoder, tuple((shard, shard.load()) for shard in shards))


@dataclass(frozen=True)
class Plan:
    """An extraction that is about to happen: shards of images, each with its cached part or None."""

    encoder: Encoder
    parts: tuple[tuple[cache.Shard, cache.Part | None], ...]

    @property
    def paths(self) -> list[str]:
        """All images, in order."""
        return [path for shard, _ in self.parts for path in shard.paths]

    @property
    def missing(self) -> list[cache.Shard]:
        """Shards that the cache does not hold."""
        return [shard for shard, part in self.parts if part is None]

    @property
    def to_compute(self) -> int:
        """How many images have to be read."""
        return sum(len(shard.paths) for shard in self.missing)

    def estimated_seconds(self, *, workers: int | None = None) -> float:
        """How long `run` would take, roughly, from reading a few of the missing images."""
        paths = list(itertools.islice((path for shard in self.missing for path in shard.paths), _SAMPLE))
        for _ in range(2 if self.encoder.compiled else 1):  # the first use of compiled code compiles it
            start = time.perf_counter()
            list(_computed(self.encoder, cache.shards("", paths, None), workers))
        return (time.perf_counter() - start) * self.to_compute / max(len(paths), 1)

    def run(
        self,
        *,
        workers: int | None = None,
        strict: bool = False,
        progress: bool = True,
        may_be_empty: bool = False,
    ) -> Extraction:
        """Extract; see `extract` for the arguments and errors. With `may_be_empty` all may be unreadable."""
        start = time.perf_counter()
        for folder in {shard.file.parent for shard in self.missing if shard.file}:
            cache.mark_as_cache(folder)
        fresh = _computed(self.encoder, self.missing, workers, strict, progress)
        parts = [(len(shard.paths), part or _saved(shard, next(fresh))) for shard, part in self.parts]
        whole = _concatenated(parts)
        kept, unreadable = _outcome(self.paths, whole.faults, strict, may_be_empty)
        return Extraction(whole.features, kept, unreadable, self.to_compute, time.perf_counter() - start)


def _saved(shard: cache.Shard, part: cache.Part) -> cache.Part:
    shard.save(part)
    return part


def _concatenated(parts: Sequence[tuple[int, cache.Part]]) -> cache.Part:
    """Parts of consecutive images as one; each comes with the number of its images, readable or not."""
    features = [part.features for _, part in parts if len(part.features)]
    starts = itertools.accumulate((images for images, _ in parts), initial=0)
    faults = {
        start + position: reason
        for start, (_, part) in zip(starts, parts)
        for position, reason in part.faults.items()
    }
    return cache.Part(torch.cat(features) if features else torch.empty(0, 0), faults)


def _outcome(
    paths: Sequence[str], faults: dict[int, str], strict: bool, may_be_empty: bool
) -> tuple[Tensor, dict[str, str]]:
    """Positions of the readable images, and path -> reason of the others."""
    unreadable = {paths[position]: reason for position, reason in faults.items()}
    if strict:
        _refuse(unreadable)
    if len(faults) == len(paths) and not may_be_empty:
        raise ValueError(f"expected a readable image among {len(paths)}, got none; {paths[0]}: {faults[0]}")
    kept = [position for position in range(len(paths)) if position not in faults]
    return torch.tensor(kept, dtype=torch.int64), unreadable


def _refuse(unreadable: dict[str, str]) -> None:
    for path, reason in unreadable.items():
        raise ValueError(f"expected only readable images, got {path}: {reason}")


def _computed(
    encoder: Encoder,
    shards: Sequence[cache.Shard],
    workers: int | None,
    strict: bool = False,
    progress: bool = False,
) -> Iterator[cache.Part]:
    """The part of each shard, in order; all shards share one set of processes and one progress bar."""
    size = encoder.batch_size
    batches = [[shard.paths[i : i + size] for i in range(0, len(shard.paths), size)] for shard in shards]
    flat = list(itertools.chain.from_iterable(batches))
    results = iter(_loader(flat, encoder, workers))
    hidden = None if progress else True  # None shows the bar on a terminal alone
    with tqdm(total=sum(map(len, flat)), unit="img", desc="features", disable=hidden) as bar:
        for shard in batches:
            parts = []
            for paths in shard:
                output, faults = next(results)
                if strict:
                    _refuse({paths[position]: reason for position, reason in faults.items()})
                parts.append((len(paths), _encoded(encoder, output, faults)))
                bar.update(len(paths))
            yield _concatenated(parts)


def _encoded(encoder: Encoder, output: Tensor, faults: dict[int, str]) -> cache.Part:
    """A part from what a loading process sent: features, or the pixels of which features are to be made."""
    if encoder.runs_in_workers or not len(output):
        return cache.Part(output.clone(), faults)  # the original keeps a file of shared memory open
    return cache.Part(encoder(output), faults)


def _loader(batches: Sequence[Sequence[str]], encoder: Encoder, workers: int | None) -> DataLoader:
    wanted = _cores() if workers is None else workers
    # Two batches are not worth a process.
    return DataLoader(_Batches(batches, encoder), batch_size=None, num_workers=min(wanted, len(batches) // 2))


def _cores() -> int:
    """Cores this process may use, which a container or job scheduler may have made fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Batches(Dataset):
    """Item i is batch i: pixels or features of the readable images, position -> fault of the others."""

    def __init__(self, batches: Sequence[Sequence[str]], encoder: Encoder) -> None:
        self.batches = batches
        self.size = (encoder.height, encoder.width)
        self.encode = encoder if encoder.runs_in_workers else nn.Identity()

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[int, str]]:
        images, faults = [], {}
        for position, path in enumerate(self.batches[index]):
            try:
                images.append(read_image(path, *self.size))
            except UNREADABLE as error:
                faults[position] = str(error)
        return self.encode(torch.from_numpy(np.stack(images))) if images else torch.empty(0, 0), faults


def read_image(path: str | Path, height: int, width: int) -> np.ndarray:
    """Pixels (height, width, 3) uint8 of an image file, resized as torchreid's test transform does.

    Raises:
        OSError: if the file is missing, truncated, or no JPEG, PNG, BMP or WebP; damaged files may also raise
            the others of `data.images.UNREADABLE`.
    """
    return np.array(open_image(path).resize((width, height), Image.Resampling.BILINEAR))
