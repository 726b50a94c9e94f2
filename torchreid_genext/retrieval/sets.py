"""A query or gallery set: features with their labels, checked once at the door."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchreid_genext.retrieval.neighbours import check_features, name_rows

__all__ = ["RetrievalSet", "Sightings", "Unmatched", "unmatched_queries"]


@dataclass(frozen=True, eq=False)
class RetrievalSet:
    """Features of any extractor with what is known of their images.

    Attributes:
        features: floating, shape (N, D), kept as float32; no NaN, no infinity, no zero row.
        pids: identity of each image, integers (N,); in a gallery, Market-1501's 0 marks distractors.
        camids: camera of each image, integers (N,).
        frames: time of each image in frames of one clock, integers (N,), where a step needs it.
        generated: features of P generated images of each, shape (N, P, D), where a step needs them.
        paths: image of each row, where pictures are wanted.

    Raises:
        ValueError: if lengths differ, labels are not integers, or features are empty, not finite or zero.
    """

    features: Tensor
    pids: Tensor
    camids: Tensor
    frames: Tensor | None = None
    generated: Tensor | None = None
    paths: Sequence[str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", _without_zero_rows(check_features(self.features)))
        for name in ("pids", "camids", "frames"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _labels(name, getattr(self, name)))
        for name in ("pids", "camids", "frames", "generated", "paths"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.features):
                raise ValueError(
                    f"expected {len(self.features)} {name}, one for each feature, got {len(value)}"
                )

    def __len__(self) -> int:
        return len(self.features)

    def with_features(self, features: Tensor) -> RetrievalSet:
        """The same images with other features."""
        return replace(self, features=features)

    def select(self, rows: slice | Tensor) -> RetrievalSet:
        """Some of the images, by slice, index or mask (N,)."""
        columns = {name: _rows_of(getattr(self, name), rows) for name in _COLUMNS}
        return _unchecked(**columns)

    def join(self, other: RetrievalSet) -> RetrievalSet:
        """Both sets as one, for steps that look at all images together; times and paths if both have them."""
        columns = {name: _joined(getattr(self, name), getattr(other, name)) for name in _COLUMNS}
        return _unchecked(**columns | {"generated": None})


_COLUMNS = ("features", "pids", "camids", "frames", "generated", "paths")


@dataclass(frozen=True, eq=False)
class Sightings:
    """Who was where when: what a step may learn from the training split.

    Attributes:
        pids: identity, integers (N,).
        camids: camera, integers (N,).
        frames: time in frames of one clock, integers (N,).

    Raises:
        ValueError: if lengths differ, labels are not integers, or a frame is negative.
    """

    pids: Tensor
    camids: Tensor
    frames: Tensor

    def __post_init__(self) -> None:
        for name in ("pids", "camids", "frames"):
            object.__setattr__(self, name, _labels(name, getattr(self, name)))
            if len(getattr(self, name)) != len(self.pids):
                raise ValueError(f"expected {len(self.pids)} {name}, got {len(getattr(self, name))}")

    def __len__(self) -> int:
        return len(self.pids)


@dataclass(frozen=True)
class Unmatched:
    """Queries without a gallery image of their identity under another camera, as (pid, camid), by reason.

    Attributes:
        absent: the identity is not in the gallery at all.
        same_camera: it is, but only under the query's own camera.
        num_query: all queries.
    """

    absent: tuple[tuple[int, int], ...]
    same_camera: tuple[tuple[int, int], ...]
    num_query: int

    def __len__(self) -> int:
        return len(self.absent) + len(self.same_camera)

    def __str__(self) -> str:
        reasons = (
            _list_queries(self.absent, "identity absent from the gallery"),
            _list_queries(self.same_camera, "identity in the gallery only under the query's own camera"),
        )
        reason = "; ".join(filter(None, reasons))
        return f"{len(self)} of {self.num_query} queries have no match in the gallery: {reason}"


def unmatched_queries(query: RetrievalSet, gallery: RetrievalSet) -> Unmatched:
    """Which queries have no match in the gallery, and why; empty if all have one."""
    cameras: dict[int, set[int]] = {}
    for pid, camid in zip(gallery.pids.tolist(), gallery.camids.tolist()):
        cameras.setdefault(pid, set()).add(camid)
    queries = list(zip(query.pids.tolist(), query.camids.tolist()))
    return Unmatched(
        absent=tuple(q for q in queries if q[0] not in cameras),
        same_camera=tuple(q for q in queries if cameras.get(q[0]) == {q[1]}),
        num_query=len(queries),
    )


def _unchecked(**columns: object) -> RetrievalSet:
    """A set made of the parts of others, which were checked when they were made."""
    images = object.__new__(RetrievalSet)
    for name, values in columns.items():
        object.__setattr__(images, name, values)
    return images


def _rows_of(values: Tensor | Sequence[str] | None, rows: slice | Tensor) -> Tensor | Sequence[str] | None:
    if values is None or isinstance(values, Tensor) or isinstance(rows, slice):
        return None if values is None else values[rows]
    return [values[row] for row in torch.arange(len(values))[rows].tolist()]


def _joined(
    some: Tensor | Sequence[str] | None, others: Tensor | Sequence[str] | None
) -> Tensor | list[str] | None:
    if some is None or others is None:
        return None
    return torch.cat([some, others]) if isinstance(some, Tensor) else [*some, *others]


def _list_queries(queries: Sequence[tuple[int, int]], why: str, shown: int = 8) -> str:
    if not queries:
        return ""
    pids = sorted({pid for pid, _ in queries})
    cameras = sorted({camid for _, camid in queries})
    listed = ", ".join(map(str, pids[:shown])) + (", ..." if len(pids) > shown else "")
    return f"{len(queries)} because of {why} (pids {listed}; camids {', '.join(map(str, cameras))})"


def _without_zero_rows(features: Tensor) -> Tensor:
    zero = (features.amax(1) == 0) & (features.amin(1) == 0)
    if zero.any():
        raise ValueError(f"expected features other than zero vectors, got {name_rows(zero.nonzero()[:, 0])}")
    return features


def _labels(name: str, values: object) -> Tensor:
    labels = torch.as_tensor(values)
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(
            f"expected {name} to be integers of shape (N,), got {labels.dtype} {tuple(labels.shape)}"
        )
    if name == "frames" and len(labels) and labels.min() < 0:
        raise ValueError(f"expected frames >= 0, got {name_rows((labels < 0).nonzero()[:, 0])} below")
    return labels.to("cpu", torch.int64)
