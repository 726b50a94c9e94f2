"""Features of generated images, by the encoder and the cache that serve the real ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from torchreid_genext.data.store.lookup import Coverage, GeneratedImages, Read, collect_features
from torchreid_genext.extraction.encoder import Encoder
from torchreid_genext.extraction.files import Extraction, Plan, cache_of, plan_with

__all__ = ["GeneratedFeatures", "generated_features", "plan_generated", "reader"]


@dataclass(frozen=True)
class GeneratedFeatures:
    """Features of P generated images of each of N real ones.

    Attributes:
        features: (N, P, D) float32, nowhere missing; see `data.store.lookup` for what stands in.
        coverage: how many images had how many generated ones that could be read.
        unreadable: path -> reason, of those that could not.
        computed: how many images were read in this run; the others came from the cache.
        seconds: what this run took.
    """

    features: Tensor
    coverage: Coverage
    unreadable: dict[str, str]
    computed: int
    seconds: float


def generated_features(
    encoder: Encoder,
    images: GeneratedImages,
    features: Tensor,
    *,
    cache_dir: str | Path | None = None,
    workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> GeneratedFeatures:
    """Features of generated images.

    Args:
        encoder: the model with its preprocessing.
        images: generated images of N real ones.
        features: of the real images by the same encoder, shape (N, D).
        cache_dir, workers, strict, progress: as `extract` takes them; without `strict` even all may be
            unreadable.

    Raises:
        ValueError: with `strict`, if an image cannot be read.
        OSError: if `cache_dir` cannot be written.
    """
    start, runs = time.perf_counter(), []
    options = {"workers": workers, "strict": strict, "progress": progress}
    read = reader(encoder, cache_dir=cache_dir, told=runs.append, **options)
    found, coverage = collect_features(images, features, read)
    unreadable = {path: why for run in runs for path, why in run.unreadable.items()}
    computed = sum(run.computed for run in runs)
    return GeneratedFeatures(found, coverage, unreadable, computed, time.perf_counter() - start)


def reader(
    encoder: Encoder,
    *,
    cache_dir: str | Path | None = None,
    told: Callable[[Extraction], object] = lambda extraction: None,
    **options: Any,
) -> Read:
    """A function of image files that gives the features of the readable ones, and their places in the list.

    Args:
        encoder: the model with its preprocessing.
        cache_dir: as `extract` takes it. options: workers, strict and progress, likewise.
        told: is called with each extraction.
    """
    cache = cache_of(encoder, cache_dir)  # one for all poses: the weights are looked at once

    def read(files: list[str]) -> tuple[Tensor, Tensor]:
        extraction = plan_with(encoder, files, cache).run(may_be_empty=True, **options)
        told(extraction)
        return extraction.features, extraction.kept

    return read


def plan_generated(
    encoder: Encoder, images: GeneratedImages, cache_dir: str | Path | None = None
) -> Iterator[Plan]:
    """What `generated_features` would do, a plan for each pose; nothing is computed or written."""
    poses = (images.of_pose(pose)[1] for pose in range(images.poses))
    cache = cache_of(encoder, cache_dir)
    return (plan_with(encoder, files, cache) for files in poses if files)
