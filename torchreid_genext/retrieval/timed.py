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
from torchreid_genext.retrieval.neighbours import use_bf16
from torchreid_genext.retrieval.sets import RetrievalSet
from torchreid_genext.retrieval.spatiotemporal import TimedMeasure

__all__ = ["TimedSpace"]


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
        cls, images: RetrievalSet, measure: TimedMeasure, *, earlier: float = 0.0,
        memory_limit: int | None = None,
    ) -> TimedSpace:  # fmt: skip
        """Of images, whose `earlier` features have a share in appearance."""
        features = unit(images.features)
        if earlier:
            before = unit(images.as_earlier().features)
            features = torch.cat([features * (1 - earlier) ** 0.5, before * earlier**0.5], dim=1)
        return cls(features, measure, measure.moments(images), memory_limit)

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
        features = self.features
        order = None if order is None else order.to(features.device)
        addend = self._addend(slice(None) if order is None else order)
        return Search(features, features, bf16=use_bf16(features, features), order=order, addend=addend)

    def _addend(self, columns: slice | Tensor = slice(None)) -> _Time:
        return _Time(self.measure, self.moments, _some(self.moments, columns))


@dataclass(frozen=True, eq=False)
class _Time:
    """Twice what time adds to ``1 - cos``, as an ``Addend``.

    Attributes:
        measure: that knows it. images: that ask, and whose pairs are looked up. columns: in their order.
    """

    measure: TimedMeasure
    images: Moments
    columns: Moments

    def halves(self, rows: slice | Tensor) -> Iterator[tuple[slice, Tensor]]:
        """As ``Addend.halves``."""
        return self.measure.model.read(self._table, _some(self.images, rows), self.columns)

    def pairs(self, row: Tensor, column: Tensor) -> Tensor:
        """As ``Addend.pairs``."""
        moments = _some(self.images, row), _some(self.images, column)
        return 2 * self.measure.model.read_pairs(self._table, *moments)

    @cached_property
    def _table(self) -> Table:
        table = self.measure.table(self.images.frames.device)
        return replace(table, values=table.values - 1)  # the 1 of 1 - cos, which half the square holds


def _some(moments: Moments, images: slice | Tensor) -> Moments:
    return replace(moments, cameras=moments.cameras[images], frames=moments.frames[images])
