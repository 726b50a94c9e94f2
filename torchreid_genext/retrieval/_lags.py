"""When people were seen by whom, and values by cameras and lag, read for all pairs of images at once."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from torchreid_genext import checkpoints
from torchreid_genext.retrieval._blocks import blocks

__all__ = ["IN_CACHE", "Moments", "Sums", "Table"]

IN_CACHE = 2**18  # pairs at a time
_LAUNCHED = 2**21  # on an accelerator, where few large pieces are faster; each pair takes about 24 bytes
_EXACT = 2**22  # float32 tells all bins of lags below apart

_TENSORS = ("cameras", "frames", "images")
_NUMBERS = ("interval", "bins", "sigma")

_log = logging.getLogger(__name__)
_Model = TypeVar("_Model", bound="Sums")


@dataclass(frozen=True, eq=False)
class Moments:
    """Where and when the images of one set were seen.

    Attributes:
        cameras: places in the model's cameras, their number for one it does not know, int64 (N,).
        frames: since some moment, int64 (N,).
        latest: the greatest distance of a frame from that moment.
    """

    cameras: Tensor
    frames: Tensor
    latest: int

    def to(self, device: torch.device) -> Moments:
        """The same on a device."""
        return Moments(self.cameras.to(device), self.frames.to(device), self.latest)


@dataclass(frozen=True, eq=False)
class Table:
    """Values by cameras and lag; see ``Sums.table``.

    Attributes:
        values: all rows one after the other; the last is for pairs of cameras without one.
        start: where the row of two cameras begins, (C + 1, C + 1).
    """

    values: Tensor
    start: Tensor


@dataclass(frozen=True, eq=False)
class Sums(ABC):
    """What both models are made of: when each camera saw each identity, and how lags are put into bins.

    Attributes:
        cameras: camera ids seen in `fit`, ascending, shape (C,).
        frames: (I, C) int64, sum of the times of an identity's images under a camera.
        images: (I, C) int64, how many images these are.
        interval: frames per bin.
        bins: how many bins to each side; lags beyond them count in the last.
        sigma: of the smoothing, in bins.
    """

    cameras: Tensor
    frames: Tensor
    images: Tensor
    interval: int
    bins: int
    sigma: float
    _warned: set[int] = field(default_factory=set, repr=False)  # cameras that `fit` never saw

    @classmethod
    def fit(
        cls: type[_Model],
        pids: ArrayLike,
        camids: ArrayLike,
        frames: ArrayLike,
        *,
        interval: int = 100,
        bins: int = 5000,
        sigma: float = 50,
    ) -> _Model:
        """Count the lags of training identities.

        Each identity has one vote for each pair of cameras that saw it: the difference of its mean frames.

        Args:
            pids: identity of each training image, integers (N,).
            camids: camera of each, integers (N,).
            frames: time of each, in frames of one clock, integers (N,), >= 0.
            interval: frames per bin, >= 1.
            bins: how many bins, >= 1; lags beyond them count in the last.
            sigma: of the smoothing, in bins; 0 for none.

        Raises:
            ValueError: if lengths differ, the set is empty, a value is out of range, or no identity was seen
                by two cameras.
        """
        pids, camids, frames = _labels(pids=pids, camids=camids, frames=frames)
        _check_settings(interval, bins, sigma)
        cameras, camera = camids.unique(return_inverse=True)
        sums, images = _sums_by_camera(pids, camera, frames, len(cameras))
        _check_walks(images, cameras)
        return cls(cameras, sums, images, interval, bins, sigma)

    @property
    def identities(self) -> int:
        """How many were seen in `fit`."""
        return len(self.images)

    def fitted(self) -> dict[str, Any]:
        """What `fit` found, by name; it makes either model."""
        return {name: getattr(self, name) for name in (*_TENSORS, *_NUMBERS)}

    def save(self, path: str | Path) -> Path:
        """Write the model as one safetensors file, whole or not at all."""
        fitted = self.fitted()
        tensors, numbers = ({name: fitted[name] for name in names} for names in (_TENSORS, _NUMBERS))
        return checkpoints.save(path, tensors, numbers)

    @classmethod
    def load(cls: type[_Model], path: str | Path) -> _Model:
        """Read what `save` of either model wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it holds no such model; names it.
        """
        tensors, numbers = checkpoints.safe_load(path), checkpoints.read_metadata(path)
        missing = [name for name in (*_TENSORS, *_NUMBERS) if name not in {**tensors, **numbers}]
        if missing:
            raise ValueError(
                f"expected a spatio-temporal model in {path}, got none of {', '.join(missing)}; "
                "fit and save it again if an earlier version wrote it"
            )
        found = tensors | numbers
        return cls(**{name: found[name] for name in (*_TENSORS, *_NUMBERS)})

    def moments(self, camids: Tensor, frames: Tensor) -> Moments:
        """Number the cameras of one set; those that `fit` never saw are logged once."""
        return Moments(self._index(camids), frames, int(frames.abs().max()))

    def table(self, rows: Tensor, otherwise: float, device: torch.device | None = None) -> Table:
        """Make any (P, bins) rows ready to be read.

        Args:
            rows: a row for each of `pairs`.
            otherwise: for cameras without one.
            device: where they are read; None is the rows' own.
        """
        values = torch.cat([rows, rows.new_full((1, rows.shape[1]), otherwise)]).flatten()
        start = self._rows() * rows.shape[1]
        start = start.int() if len(values) < 2**31 else start
        return Table(values.to(device or rows.device), start.to(device or rows.device))

    def read(self, table: Table, x: Moments, y: Moments) -> Iterator[tuple[slice, Tensor]]:
        """Values (b, G) of a table at the lags of all pairs of images, for some rows of x at a time."""
        x_frames, y_frames = _exactly(x, y)
        cameras = torch.arange(len(table.start), device=table.start.device)
        columns = self._sides(table.start, cameras[:, None], y.cameras[None])  # x has many rows a camera
        pairs = IN_CACHE if x.frames.device.type == "cpu" else _LAUNCHED
        for rows in blocks(len(x.frames), max(1, pairs // len(y.frames))):
            sides = tuple(each.index_select(0, x.cameras[rows]) for each in columns)
            places = self._places(sides, x_frames[rows, None] - y_frames)
            yield rows, table.values.index_select(0, places.flatten()).view(places.shape)

    def read_pairs(self, table: Table, x: Moments, y: Moments) -> Tensor:
        """Values of a table at the lags of single pairs of images, of any shape."""
        x_frames, y_frames = _exactly(x, y)
        return table.values[self._places(self._sides(table.start, x.cameras, y.cameras), x_frames - y_frames)]

    def lookup(
        self,
        rows: Tensor,
        otherwise: float,
        q_cam: ArrayLike,
        q_frame: ArrayLike,
        g_cam: ArrayLike,
        g_frame: ArrayLike,
    ) -> Tensor:
        """Any (P, bins) rows at the lags of all pairs of images; arguments as `likelihood` and `table`."""
        x = self.moments(*_labels(q_cam=q_cam, q_frame=q_frame))
        y = self.moments(*_labels(g_cam=g_cam, g_frame=g_frame))
        result = rows.new_empty(len(x.frames), len(y.frames))
        for part, values in self.read(self.table(rows, otherwise), x, y):
            result[part] = values
        return result

    @abstractmethod
    def _rows(self) -> Tensor:
        """(C + 1, C + 1): which row is that of a query's and a gallery image's camera; the last for none."""

    @abstractmethod
    def _sides(self, start: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """What `_places` reads of the cameras of two images, of any shapes that go together."""

    @abstractmethod
    def _places(self, sides: tuple[Tensor, ...], lag: Tensor) -> Tensor:
        """Where the table holds what it says of lags, the time of x less that of y; changes both."""

    def _index(self, camids: Tensor) -> Tensor:
        """Places in `cameras`, C for a camera that is not among them."""
        index = torch.searchsorted(self.cameras, camids).clamp_(max=len(self.cameras) - 1)
        known = self.cameras[index] == camids
        new = set(camids[~known].tolist()) - self._warned
        if new:
            self._warned.update(new)
            _log.warning("cameras %s were never seen in fit: likelihood 0", ", ".join(map(str, sorted(new))))
        return index.masked_fill_(~known, len(self.cameras))


def _exactly(x: Moments, y: Moments) -> tuple[Tensor, Tensor]:
    """Frames as floats, which are several times as fast as integers; exact as long as they hold each lag."""
    exact = torch.float32 if x.latest + y.latest < _EXACT else torch.float64
    return x.frames.to(exact), y.frames.to(exact)


def _labels(**columns: ArrayLike) -> list[Tensor]:
    """Integer columns of one length, frames not negative."""
    labels = {name: torch.as_tensor(values) for name, values in columns.items()}
    for name, values in labels.items():
        if values.ndim != 1 or not len(values) or values.is_floating_point():
            raise ValueError(f"expected {name} to be integers of shape (N,), got {tuple(values.shape)}")
        if "frame" in name and values.min() < 0:
            raise ValueError(f"expected {name} >= 0, got {int(values.min())}")
    if len({len(values) for values in labels.values()}) > 1:
        lengths = ", ".join(f"{len(values)} {name}" for name, values in labels.items())
        raise ValueError(f"expected columns of one length, got {lengths}")
    return [values.to("cpu", torch.int64) for values in labels.values()]


def _check_settings(interval: int, bins: int, sigma: float) -> None:
    for name, value, least in (("interval", interval, 1), ("bins", bins, 1), ("sigma", sigma, 0)):
        if not least <= value < math.inf:
            raise ValueError(f"expected {name} >= {least}, got {value}")


def _check_walks(images: Tensor, cameras: Tensor) -> None:
    if (images > 0).sum(1).max() < 2:
        raise ValueError(
            "nobody walked between cameras: st has nothing to learn; expected an identity of the training "
            f"split under two cameras, got {len(images)} under one each, of {len(cameras)} in all"
        )


def _sums_by_camera(pids: Tensor, camera: Tensor, frames: Tensor, cameras: int) -> tuple[Tensor, Tensor]:
    """Sum of the frames of each identity under each camera, and how many they are, (I, C) each."""
    identities, identity = pids.unique(return_inverse=True)
    place = identity * cameras + camera
    sums = torch.zeros(len(identities) * cameras, dtype=torch.int64).index_add_(0, place, frames)
    images = place.bincount(minlength=len(sums))
    return sums.view(-1, cameras), images.view(-1, cameras)
