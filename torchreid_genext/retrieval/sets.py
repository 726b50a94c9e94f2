"""A query or gallery set: features with their labels, checked once at the door."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from torchreid_genext.retrieval.metrics import PROTOCOLS, Protocol
from torchreid_genext.retrieval.neighbours import check_rows, name_rows

__all__ = ["RetrievalSet", "Sightings", "Training", "Unmatched", "repeated_queries", "unmatched_queries"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class RetrievalSet:
    """Features of any extractor with what is known of their images.

    Attributes:
        features: floating tensor or array, shape (N, D), kept as float32; no NaN, no infinity. A row of zeros
            says nothing of its image: it is named in a warning, and ranks last in a gallery.
        pids: identity of each image, integers (N,); in a gallery, Market-1501's 0 marks distractors, and its
            -1 junk.
        camids: camera of each image, integers (N,); None where nothing is known of cameras.
        frames: time of each image in frames of one clock, integers (N,), where a step needs it.
        generated: features of P generated images of each, shape (N, P, D), where a step needs them.
        paths: image of each row, where pictures are wanted.

        blank: whether the features of each image were zeros, (N,) on their device; found by itself.
        earlier: features (N, E) as they were at a `blend` step, where a chain has come by one.

    It may have no rows, as a shard of ``sharded.evaluate``; elsewhere that is refused.

    Raises:
        ValueError: if lengths differ, labels are no whole numbers, or features have no width or are not
            finite.
    """

    features: Tensor
    pids: Tensor
    camids: Tensor | None = None
    frames: Tensor | None = None
    generated: Tensor | None = None
    paths: Sequence[str] | None = None
    blank: Tensor = field(init=False, repr=False)
    earlier: Tensor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", check_rows(_tensor(self.features)))
        object.__setattr__(self, "blank", _blank_rows(self.features, self.paths))
        if self.generated is not None:
            object.__setattr__(self, "generated", _tensor(self.generated))
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

    @classmethod
    def load(cls, file: str | Path) -> RetrievalSet:
        """Read features and labels of an npz, a npy with a CSV beside it, a mat or a parquet; see ``files``.

        Names of people are numbered, but of this file alone; ``files.load_sets`` reads several.

        Raises:
            ValueError: naming the file, what is expected, and what is there.
            OSError: if a file is not there.
        """
        from torchreid_genext.retrieval.files import load_sets

        return load_sets(file)[0]

    def save(self, file: str | Path) -> Path:
        """Write the set as npz, whole or not at all, for `load`; raises as ``files.save_set``."""
        from torchreid_genext.retrieval.files import save_set

        return save_set(self, file)

    def with_features(self, features: Tensor) -> RetrievalSet:
        """The same images with other features (N, D).

        Raises:
            ValueError: if there is not one for each image, or one is not finite.
        """
        if len(features) != len(self):
            raise ValueError(f"expected {len(self)} features, one for each image, got {len(features)}")
        columns = {name: getattr(self, name) for name in _COLUMNS}
        return _unchecked(**columns | {"features": check_rows(features)})

    def remembered(self) -> RetrievalSet:
        """The same images, which know their features as they are now, whatever becomes of these."""
        columns = {name: getattr(self, name) for name in _COLUMNS}
        return _unchecked(**columns | {"earlier": self.features})

    def as_earlier(self) -> RetrievalSet:
        """The same images with the features that they know."""
        columns = {name: getattr(self, name) for name in _COLUMNS}
        return _unchecked(**columns | {"features": self.earlier})

    @property
    def has(self) -> set[str]:
        """Which of ``cameras``, ``frames`` and ``generated`` it has."""
        names = {"cameras": self.camids, "frames": self.frames, "generated": self.generated}
        return {name for name, values in names.items() if values is not None}

    def select(self, rows: slice | Tensor) -> RetrievalSet:
        """Some of the images, by slice, index or mask (N,)."""
        columns = {name: _rows_of(getattr(self, name), rows) for name in _COLUMNS}
        return _unchecked(**columns)

    def join(self, other: RetrievalSet) -> RetrievalSet:
        """Both sets as one, for steps that look at all images together; times and paths if both have them."""
        columns = {name: _joined(getattr(self, name), getattr(other, name)) for name in _COLUMNS}
        return _unchecked(**columns | {"generated": None})


_COLUMNS = ("features", "pids", "camids", "frames", "generated", "paths", "blank", "earlier")


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


Training = Sightings | RetrievalSet  # what a step may learn from; features are known of the latter


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


def unmatched_queries(
    query: RetrievalSet, gallery: RetrievalSet, protocol: Protocol = PROTOCOLS["market1501"]
) -> Unmatched:
    """Which queries have no match in the gallery under a protocol, and why; empty if all have one."""
    labels = protocol.gallery(
        gallery.pids.numpy(), None if gallery.camids is None else gallery.camids.numpy()
    )
    pids = query.pids.numpy()
    camids = np.zeros(len(pids), dtype=np.int64) if query.camids is None else query.camids.numpy()
    matched = np.isin(np.arange(len(pids)), labels.matches(pids, camids)[0])
    lost = list(zip(pids[~matched].tolist(), camids[~matched].tolist()))
    absent = [q for q in lost if q[0] == protocol.junk_pid or labels.code(q[0]) < 0]
    unseen = set(absent)
    return Unmatched(
        absent=tuple(absent),
        same_camera=tuple(q for q in lost if q not in unseen),
        num_query=len(pids),
    )


def repeated_queries(
    query: RetrievalSet, gallery: RetrievalSet, protocol: Protocol = PROTOCOLS["market1501"]
) -> list[int]:
    """Rows of queries whose very features stand in the gallery, too, where a protocol counts them as found.

    They are most likely the same image, which finds itself. Features of zeros say nothing, and do not count.
    """
    asked = torch.isin(gallery.pids, query.pids) & ~gallery.blank.cpu()
    places: dict[tuple[int, int], set[int]] = {}
    for key, camid in zip(_contents(part := gallery.select(asked)), _cameras(part)):
        places.setdefault(key, set()).add(camid)
    own = zip(_contents(query), _cameras(query))
    counted = (places.get(key, set()) - (set() if protocol.own_camera else {camid}) for key, camid in own)
    return [row for row, found in enumerate(counted) if found]


def _contents(images: RetrievalSet) -> Iterator[tuple[int, int]]:
    """Identity and a hash of the features of each image."""
    rows = images.features.cpu().numpy()
    return ((pid, hash(row.tobytes())) for pid, row in zip(images.pids.tolist(), rows))


def _cameras(images: RetrievalSet) -> list[int]:
    return [0] * len(images) if images.camids is None else images.camids.tolist()


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


def _tensor(values: object) -> Tensor:
    """Floating arrays of NumPy, or anything it makes arrays of, as tensors; tensors as they are."""
    if isinstance(values, Tensor):
        return values
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of several lengths
        raise ValueError(f"expected features of shape (N, D), got {error}") from error
    if array.dtype.kind not in "fiu":
        raise ValueError(f"expected features to be floating numbers, got {array.dtype}")
    native = array.astype(np.float32 if array.dtype.kind in "iu" else array.dtype.newbyteorder("="), copy=False)
    return torch.as_tensor(np.require(native, requirements=("C", "W")))  # torch takes no other layout


def _blank_rows(features: Tensor, paths: Sequence[str] | None) -> Tensor:
    blank = (features.amax(1) == 0) & (features.amin(1) == 0)
    if blank.any():
        rows = blank.nonzero()[:, 0]
        named = ", ".join(paths[row] for row in rows[:3].tolist()) if paths is not None else name_rows(rows)
        logger.warning("%d features are zeros, which rank last in a gallery: %s", len(rows), named)
    return blank


def _labels(name: str, values: object) -> Tensor:
    labels = _whole_numbers(name, values)
    if name == "frames" and len(labels) and labels.min() < 0:
        raise ValueError(f"expected frames >= 0, got {name_rows((labels < 0).nonzero()[:, 0])} below")
    return labels


def _whole_numbers(name: str, values: object) -> Tensor:
    """Labels (N,) int64 on the CPU, of integers or floats with whole values; (1, N) and (N, 1) are taken, too."""
    rule = f"expected {name} to be whole numbers of shape (N,)"
    try:
        array = _array(values)
    except ValueError as error:
        raise ValueError(f"{rule}, got {error}") from error
    if array.dtype.kind in "USO":
        cure = "number them by numpy.unique(..., return_inverse=True) over query and gallery together"
        raise ValueError(f"{rule}, got {type(array.flat[0]).__name__ if array.size else 'nothing'}; {cure}")
    array = array.ravel() if array.ndim == 2 and 1 in array.shape else array
    if array.ndim != 1 or array.dtype.kind not in "iuf" or not (array == np.floor(array)).all():
        raise ValueError(f"{rule}, got {array.dtype} {tuple(array.shape)}")
    if len(array) and not (array.min().item() >= -(2**63) and array.max().item() < 2**63):
        raise ValueError(f"{rule} below 2**63, got {array.min()} .. {array.max()}")
    return torch.from_numpy(array.astype(np.int64))


def _array(values: object) -> np.ndarray:
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
