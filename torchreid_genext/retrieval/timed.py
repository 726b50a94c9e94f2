"""Distances of appearance and time as a space of images: ``TimedMeasure``, where time is added.

For unit features ``1 - cos`` is half the squared distance, so that what the search of ``neighbours`` finds
and proves it finds here, too, with twice the time added to squared distances. Two blended distances that
share their time are one of longer features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from torchreid_genext.retrieval._lags import Moments, Table
from torchreid_genext.retrieval._numerics import unit
from torchreid_genext.retrieval._search import Search
from torchreid_genext.retrieval._surveys import CameraSurvey, Survey, nearest_others, survey, survey_by_camera
from torchreid_genext.retrieval.comparison import Blended, Measure
from torchreid_genext.retrieval.neighbours import use_bf16
from torchreid_genext.retrieval.sets import RetrievalSet
from torchreid_genext.retrieval.spatiotemporal import TimedMeasure

__all__ = ["TimedSpace", "is_additive", "search_between"]


def is_additive(measure: Measure) -> bool:
    """Whether a measure adds time to appearance, also to a blended one."""
    timed = measure.measure if isinstance(measure, Blended) else measure
    return isinstance(timed, TimedMeasure) and timed.additive


def search_between(measure: Measure, x: RetrievalSet, y: RetrievalSet, order: Tensor) -> Search:
    """A search of x among y, its columns in an order, by twice the distances of an additive measure."""
    since = min(int(x.frames.min()), int(y.frames.min()))
    asking, searched = (TimedSpace.of(images, measure, since=since) for images in (x, y))
    order = order.to(asking.features.device)
    addend = _Time(asking.measure, asking.moments, searched.moments, order)
    features = asking.features, searched.features
    return Search(*features, bf16=use_bf16(*features), order=order, addend=addend)


@dataclass(frozen=True, eq=False)
class TimedSpace:
    """N images, and how far they are apart in appearance and time, as ``spaces.Space``.

    Attributes:
        features: of length one, (N, D).
        measure: whose time is added.
        moments: where and when the images were seen.
        memory_limit: bytes of working memory, 96 MiB unless told.
    """

    features: Tensor
    measure: TimedMeasure
    moments: Moments
    memory_limit: int | None = None

    bytes_per_pair = TimedMeasure.bytes_per_pair

    @classmethod
    def of(
        cls, images: RetrievalSet, measure: Measure, *, since: int | None = None,
        memory_limit: int | None = None,
    ) -> TimedSpace:  # fmt: skip
        """Of images and a measure that `is_additive`; times count from the first of them, or another frame."""
        features = unit(images.features)
        if isinstance(measure, Blended):
            before, weight = unit(images.as_earlier().features), measure.weight
            features = torch.cat([features * (1 - weight) ** 0.5, before * weight**0.5], dim=1)
            measure = measure.measure
        return cls(features, measure, measure.moments(images, since), memory_limit)

    def __len__(self) -> int:
        return len(self.features)

    def survey(self, k: int) -> Survey:
        """As ``Space.survey``; each image stands where its distance puts it."""
        found = survey(self._search(), k, own_first=False, memory_limit=self.memory_limit)
        return Survey(found.distances / 2, found.lists, found.greatest / 2)

    def camera_survey(self, cameras: Tensor, intra: int, inter: int) -> CameraSurvey:
        """As ``Space.camera_survey``."""
        order = cameras.argsort(stable=True)
        search, options = self._search(order), {"memory_limit": self.memory_limit}
        *both, greatest = survey_by_camera(search, cameras[order], intra, inter, **options)
        return CameraSurvey(*((distances / 2, lists) for distances, lists in both), greatest / 2)

    def nearest_others(self, k: int, cameras: Tensor | None = None) -> Tensor:
        """The k nearest others (N, k), -1 where there are fewer; of other cameras, if these are given."""
        order = None if cameras is None else cameras.argsort(stable=True)
        within = None if cameras is None else cameras[order]
        return nearest_others(self._search(order), within, k, memory_limit=self.memory_limit)

    def pairs(self, row: Tensor, column: Tensor) -> Tensor:
        """As ``Space.pairs``."""
        size = max(1, 2**20 // (4 * self.features.shape[1]))
        parts = zip(row.split(size), column.split(size))
        squares = [(self.features[i] - self.features[j]).square_().sum(1) for i, j in parts]
        return (torch.cat(squares) + self._addend().pairs(row, column)) / 2

    def block(self, rows: slice | Tensor, columns: slice) -> Tensor:
        """As ``Space.block``, from products."""
        distances = self.features[rows] @ self.features[columns].t()
        moments = _some(self.moments, rows), _some(self.moments, columns)
        for part, timed in self.measure.model.read(self.measure.table(distances.device), *moments):
            torch.sub(timed, distances[part], out=distances[part])
        return distances

    def _search(self, order: Tensor | None = None) -> Search:
        order = None if order is None else order.to(self.features.device)
        options = {"order": order, "addend": self._addend(order)}
        return Search(self.features, self.features, bf16=use_bf16(self.features, self.features), **options)

    def _addend(self, order: Tensor | None = None) -> _Time:
        return _Time(self.measure, self.moments, self.moments, order)


@dataclass(frozen=True, eq=False)
class _Time:
    """Twice what time adds to ``1 - cos``, as an ``Addend``.

    Attributes:
        measure: that knows it. x: images that ask. y: that are searched. order: of the columns.
    """

    measure: TimedMeasure
    x: Moments
    y: Moments
    order: Tensor | None

    def halves(self, rows: slice | Tensor) -> Iterator[tuple[slice, Tensor]]:
        """As ``Addend.halves``."""
        return self.measure.model.read(self._table, _some(self.x, rows), self._columns)

    def pairs(self, row: Tensor, column: Tensor) -> Tensor:
        """As ``Addend.pairs``."""
        return 2 * self.measure.model.read_pairs(self._table, _some(self.x, row), _some(self.y, column))

    @cached_property
    def _columns(self) -> Moments:
        return self.y if self.order is None else _some(self.y, self.order)

    @cached_property
    def _table(self) -> Table:
        table = self.measure.table(self.x.frames.device)
        return replace(table, values=table.values - 1)  # the 1 of 1 - cos, which half the square holds


def _some(moments: Moments, images: slice | Tensor) -> Moments:
    return replace(moments, cameras=moments.cameras[images], frames=moments.frames[images])
