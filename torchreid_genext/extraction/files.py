"""Image files to features: what is cached is read, the rest is computed, what cannot be read is listed.

A file is read once for its features: the bytes that name them in the cache are those that are decoded.

On a CPU whole batches, from JPEG to feature, are the work of single-threaded processes, one a core:
re-identification networks have many small layers, whose threads would mostly wait for each other. With an
accelerator these processes decode only.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import logging
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from torchreid_genext.data.images.reading import UNREADABLE, open_as_torchreid, reason
from torchreid_genext.data.images.resizing import resized
from torchreid_genext.extraction import cache as caching
from torchreid_genext.extraction.cache import FeatureCache, Known, Part
from torchreid_genext.extraction.encoder import Encoder
from torchreid_genext.extraction.process import Parcel
from torchreid_genext.processes import usable_cores

__all__ = ["Extraction", "Plan", "extract", "plan", "plan_with", "read_image"]

_SAMPLE = 96  # images of which a duration is estimated
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extraction:
    """Features of those images that could be read.

    Attributes:
        features: (N, D) float32, on the encoder's device.
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

    The cache knows images by their content, so other lists of the same images find them. It is written every
    2,000 images, so an interrupted run loses at most those; a damaged or foreign cache file is reported and
    replaced. That an image is damaged is remembered, too, but not that a file could not be opened or read.

    Args:
        encoder: the model with its preprocessing.
        paths: image files (JPEG, PNG, BMP or WebP), in the order of the wanted features.
        cache_dir: folder of cached features; None neither reads nor writes any.
        workers: processes; 0 works in this one, None takes one a core.
        strict: stop at an image that cannot be read, instead of leaving it out.
        progress: show a progress bar on a terminal when images are read.

    Raises:
        ValueError: if there are no paths, none can be read, or, with `strict`, one cannot; if the network
            returns anything but one finite feature an image, or cannot be sent to processes.
        OSError: if `cache_dir` cannot be written.
    """
    return plan(encoder, paths, cache_dir).run(workers=workers, strict=strict, progress=progress)


def plan(encoder: Encoder, paths: Sequence[str], cache_dir: str | Path | None = None) -> Plan:
    """What `extract` would do with the same arguments; nothing is computed or written before `Plan.run`.

    Raises:
        ValueError: if there are no paths.
    """
    return plan_with(encoder, paths, cache_of(encoder, cache_dir))


def cache_of(encoder: Encoder, folder: str | Path | None) -> FeatureCache | None:
    """The cache of an encoder; None without a folder, and for features that are there already."""
    return FeatureCache(folder, encoder.key) if folder is not None and isinstance(encoder, Encoder) else None


def plan_with(encoder: Encoder, paths: Sequence[str], cache: FeatureCache | None) -> Plan:
    """As `plan`, with a cache that serves several of them and knows the encoder's key."""
    if not len(paths):
        raise ValueError("expected at least one image, got an empty list")
    names = tuple(map(os.fspath, paths))
    if not isinstance(encoder, Encoder):
        return encoder.plan(names)  # of a table
    if cache is None:
        return Plan(encoder, names, ("",) * len(names), Known(torch.empty(0, 0)), None)
    digests = tuple(_digest(name) for name in names)
    return Plan(encoder, names, digests, cache.known(digests), cache)


def _digest(path: str) -> str:
    """Of a file's content, or "" if it cannot be read now."""
    try:
        return hashlib.sha256(_content(path)).hexdigest()
    except UNREADABLE:
        return ""


def _content(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()


@dataclass(frozen=True)
class Plan:
    """An extraction that is about to happen.

    Attributes:
        encoder: the model with its preprocessing.
        paths: all images, in order.
        digests: of their contents; "" if one could not be read, or there is no cache.
        known: what the cache has of them.
        cache: takes what is computed.
    """

    encoder: Encoder
    paths: tuple[str, ...]
    digests: tuple[str, ...]
    known: Known
    cache: FeatureCache | None

    @property
    def missing(self) -> list[int]:
        """Positions of the images that the cache does not know."""
        return [position for position, digest in enumerate(self.digests) if digest not in self.known]

    @property
    def to_compute(self) -> int:
        """How many images have to be read."""
        return len(self.missing)

    def estimated_seconds(self, *, workers: int | None = None) -> float:
        """How long `run` would take, roughly, from reading a few of the missing images."""
        paths = [self.paths[position] for position in self.missing[:_SAMPLE]]
        for _ in range(2 if self.encoder.compiled else 1):  # the first use of compiled code compiles it
            start = time.perf_counter()
            list(_computed(self.encoder, paths, workers))
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
        start, missing = time.perf_counter(), self.missing
        if strict:
            _refuse({path: why for path, why in zip(self.paths, self._known_faults()) if why})
        parts = self._fresh(missing, workers, strict, progress) if missing else []
        features, kept, faults = self._outcome(missing, parts)
        if not len(kept) and not may_be_empty:
            first = f"{_shown(self.paths[0])}: {faults[0]}"
            raise ValueError(f"expected a readable image among {len(self.paths)}, got none; {first}")
        _warn_of_zeros(features, [self.paths[position] for position in kept])
        unreadable = {self.paths[position]: faults[position] for position in sorted(faults)}
        features = features.to(self.encoder.device)
        return Extraction(features, kept, unreadable, len(missing), time.perf_counter() - start)

    def _known_faults(self) -> list[str | None]:
        return list(map(self.known.faults.get, self.digests))

    def _fresh(self, missing: list[int], workers: int | None, strict: bool, progress: bool) -> list[Part]:
        """What has to be computed, kept in the cache as it comes."""
        if self.cache:
            self.cache.prepare()
        self.encoder.probe()
        parts = []
        paths = [self.paths[position] for position in missing]
        for part in _computed(self.encoder, paths, workers, strict, progress):
            if self.cache:
                self.cache.add(part)
            parts.append(part)
        if self.cache:
            self.cache.merge()
        return parts

    def _outcome(self, missing: list[int], parts: list[Part]) -> tuple[Tensor, Tensor, dict[int, str]]:
        """Features in the order of the paths, positions of these, and position -> reason of the others."""
        faults = {position: why for position, why in enumerate(self._known_faults()) if why is not None}
        rows = {i: self.known.rows[d] for i, d in enumerate(self.digests) if d in self.known.rows}
        numbers, todo = itertools.count(len(self.known.features)), iter(missing)
        for part in parts:
            for place, position in enumerate(itertools.islice(todo, len(part.digests))):
                if place in part.faults:
                    faults[position] = part.faults[place]
                else:
                    rows[position] = next(numbers)
        kept = torch.tensor(sorted(rows), dtype=torch.int64)
        order = torch.tensor([rows[position] for position in kept.tolist()], dtype=torch.int64)
        return _joined([self.known.features, *(part.features for part in parts)])[order], kept, faults


def _joined(features: Sequence[Tensor]) -> Tensor:
    found = [each for each in features if len(each)] or [torch.empty(0, 0)]
    return torch.cat(found) if len(found) > 1 else found[0]


def _refuse(unreadable: dict[str, str]) -> None:
    for path, fault in unreadable.items():
        raise ValueError(f"expected only readable images, got {_shown(path)}: {fault}")


def _shown(path: str) -> str:
    """A path with what no UTF-8 can say, such as foreign names have, as escapes."""
    return path.encode("utf-8", "backslashreplace").decode()


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return ", ".join(map(_shown, paths[:5])) + more


def _warn_of_zeros(features: Tensor, paths: Sequence[str]) -> None:
    """A direction of none: cosine and normalised features are not defined."""
    if zeros := [paths[row] for row in (features == 0).all(1).nonzero()[:, 0].tolist()]:
        _log.warning("features of nothing but zeros, from %s", _listed(zeros))


def _computed(
    encoder: Encoder,
    paths: Sequence[str],
    workers: int | None,
    strict: bool = False,
    progress: bool = False,
) -> Iterator[Part]:
    """Parts of up to a shard each, in order; all share one set of processes and one progress bar."""
    size = encoder.batch_size
    shards = [paths[i : i + caching.SHARD] for i in range(0, len(paths), caching.SHARD)]
    batches = [[shard[i : i + size] for i in range(0, len(shard), size)] for shard in shards]
    results = _results(list(itertools.chain.from_iterable(batches)), encoder, workers)
    hidden = None if progress else True  # None shows the bar on a terminal alone
    with tqdm(total=len(paths), unit="img", desc="features", disable=hidden) as bar:
        for shard in batches:
            parts = []
            for files in shard:
                part = next(results)
                if strict:
                    _refuse({files[position]: reason for position, reason in part.faults.items()})
                parts.append(_encoded(encoder, part))
                bar.update(len(files))
            yield _finite(_concatenated(parts), list(itertools.chain.from_iterable(shard)))


def _encoded(encoder: Encoder, part: Part) -> Part:
    """A part from what a loading process sent: features, or the pixels of which features are to be made."""
    if encoder.runs_in_workers or not len(part.features):
        return Part(part.features.clone(), part.faults, part.digests)  # the original keeps a file open
    return Part(encoder(part.features), part.faults, part.digests)


def _concatenated(parts: Sequence[Part]) -> Part:
    """Parts of consecutive images as one, on the CPU: an accelerator is waited for once."""
    starts = itertools.accumulate((len(part.digests) for part in parts), initial=0)
    faults = {start + i: why for start, part in zip(starts, parts) for i, why in part.faults.items()}
    digests = [digest for part in parts for digest in part.digests]
    return Part(_joined([part.features for part in parts]).cpu(), faults, digests)


def _finite(part: Part, paths: Sequence[str]) -> Part:
    """The part, if a network made numbers of all its images.

    Raises:
        ValueError: if there is a NaN or infinity; names the images.
    """
    wrong = (~part.features.isfinite().all(1)).nonzero()[:, 0].tolist()
    if wrong:
        readable = [path for position, path in enumerate(paths) if position not in part.faults]
        names = _listed([readable[row] for row in wrong])
        raise ValueError(
            f"expected finite features, got NaN or infinity for {names}; check the weights, try fp32"
        )
    return part


def _results(batches: Sequence[Sequence[str]], encoder: Encoder, workers: int | None) -> Iterator[Part]:
    loader = _loader(batches, encoder, workers)
    try:
        return iter(loader)  # starts the processes
    except OSError:
        raise
    except Exception as error:
        if not loader.num_workers or multiprocessing.get_start_method() == "fork":
            raise
        rule = f"expected a network that can be sent to processes ({multiprocessing.get_start_method()})"
        raise ValueError(f"{rule}, got {encoder.kind}: {error}; workers=0 needs none") from error


def _loader(batches: Sequence[Sequence[str]], encoder: Encoder, workers: int | None) -> DataLoader:
    wanted = usable_cores() if workers is None else workers
    # Two batches are not worth a process.
    return DataLoader(
        _Batches(batches, encoder),
        batch_size=None,
        num_workers=min(wanted, len(batches) // 2),
        pin_memory=encoder.device.type != "cpu",
        collate_fn=_as_it_is,
    )


def _as_it_is(part: Part) -> Part:
    return part


class _Batches(Dataset):
    """Item i is batch i: pixels or features of the readable images, position -> fault of the others."""

    def __init__(self, batches: Sequence[Sequence[str]], encoder: Encoder) -> None:
        self.batches = batches
        self.reading = encoder.reading
        self.parcel = Parcel(encoder if encoder.runs_in_workers else torch.nn.Identity())

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Part:
        images, faults, digests = [], {}, []
        for position, path in enumerate(self.batches[index]):
            digests.append("")
            try:
                content = _content(path)
                digests[-1] = hashlib.sha256(content).hexdigest()
                images.append(_pixels(content, *self.reading))
            except UNREADABLE as error:
                faults[position] = reason(error)
        return Part(self._encoded(images, index), faults, digests)

    def _encoded(self, images: list[np.ndarray], index: int) -> Tensor:
        if not images:
            return torch.empty(0, 0)
        try:
            return self.parcel.network(torch.from_numpy(np.stack(images)))
        except Exception as error:
            what = f"the network failed on images such as {_shown(self.batches[index][0])}"
            raise RuntimeError(f"{what}: {type(error).__name__}: {error}") from error


def _pixels(content: bytes, *reading: Any) -> np.ndarray:
    """Height, width, and how it comes to them, as `resized` takes them."""
    if not content:
        raise ValueError("the file is empty")
    return np.array(resized(open_as_torchreid(io.BytesIO(content)), *reading))


def read_image(path: str | Path, height: int, width: int) -> np.ndarray:
    """Pixels (height, width, 3) uint8 of an image file, resized as torchreid's test transform does.

    Raises:
        OSError: if the file is missing, truncated, or no JPEG, PNG, BMP or WebP; damaged files may also raise
            the others of `data.images.UNREADABLE`.
    """
    return _pixels(_content(path), height, width)
