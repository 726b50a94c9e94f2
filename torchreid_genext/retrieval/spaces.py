"""What re-ranking asks of distances: the nearest and the greatest of each image, single pairs, and blocks.

Distances come from features, or row by row from any other origin; the matrix of all of them never exists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from torchreid_genext.retrieval._blocks import blocks_within
from torchreid_genext.retrieval._numerics import full_precision, products, scaled, unit
from torchreid_genext.retrieval._search import Search
from torchreid_genext.retrieval._surveys import (
    CameraSurvey, Lists, Survey, by_camera, camera_slices, joined, survey, survey_by_camera,
)  # fmt: skip
from torchreid_genext.retrieval.neighbours import check_features, name_rows, nearest, use_bf16

__all__ = [
    "FeatureSpace", "RowSpace", "Space", "greatest_distances",
    "nearest_and_own", "nearest_of",
]  # fmt: skip

_ROUNDING = 1e-6  # of squared lengths, in what is computed as a squared distance


class Space(Protocol):
    """N images, queries first, and how far they are apart."""

    bytes_per_pair: int  # of working memory while a block of rows is computed

    def __len__(self) -> int:
        """N."""

    def survey(self, k: int) -> Survey:
        """The k nearest and the greatest distance of each image."""

    def camera_survey(self, cameras: Tensor, intra: int, inter: int) -> CameraSurvey:
        """The same by camera of each image, (N,) on the CPU: nearest of its own camera, and of the others."""

    def pairs(self, row: Tensor, column: Tensor) -> Tensor:
        """Distances (P,) of single pairs, in ascending order of `row`."""

    def block(self, rows: slice | Tensor, columns: slice) -> Tensor:
        """Distances (B, C) of a range of images, or of queries by index, to a range of images."""


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """Squared Euclidean distances of features (Q, D) and (G, D); both as one exist only while they must."""

    query: Tensor
    gallery: Tensor
    memory_limit: int | None = None
    index: str = "exact"  # how neighbours are searched, see `neighbours.nearest`

    bytes_per_pair = 8

    @classmethod
    def of(
        cls,
        query: Tensor,
        gallery: Tensor,
        *,
        metric: str = "euclidean",
        memory_limit: int | None = None,
        index: str = "exact",
    ) -> FeatureSpace:
        """Of any features; cosine distances are half the squared ones of normalised features.

        Very long and very short features are multiplied by a power of two, which re-ranking does not see.

        Raises:
            ValueError: if the metric is unknown, or the features are bad or of two widths.
        """
        sets = check_features(query, "query features"), check_features(gallery, "gallery features")
        if query.shape[1] != gallery.shape[1]:
            widths = f"{query.shape[1]} and {gallery.shape[1]}"
            raise ValueError(f"expected query and gallery features of one width, got {widths}")
        if metric not in ("euclidean", "cosine"):
            raise ValueError(f"unknown metric {metric!r}; choose from euclidean, cosine")
        query, gallery = map(unit, sets) if metric == "cosine" else scaled(*sets)[0]
        return cls(query, gallery, memory_limit, index)

    def __len__(self) -> int:
        return len(self.query) + len(self.gallery)

    def survey(self, k: int) -> Survey:
        """As ``Space.survey``; each image is first in its own list, at distance 0."""
        features = self._of(slice(0, len(self)))
        if self.index != "exact":
            lists = nearest_and_own(features, k, memory_limit=self.memory_limit, index=self.index)
            found = Survey(*lists, greatest_distances(features, memory_limit=self.memory_limit))
        else:
            search = Search(features, features, bf16=use_bf16(features, features))
            found = survey(search, k, own_first=True, memory_limit=self.memory_limit)
        return found._replace(greatest=self._somewhere(found.greatest))

    def camera_survey(self, cameras: Tensor, intra: int, inter: int) -> CameraSurvey:
        """As ``Space.camera_survey``."""
        order = cameras.argsort(stable=True)  # a camera is a slice, and its images keep their order
        features, cameras = self._of(slice(0, len(self))), cameras[order]
        order = order.to(features.device)
        if self.index != "exact":
            return self._through_index(features[order], cameras, order, intra, inter)
        search = Search(features, features, bf16=use_bf16(features, features), order=order)
        found = survey_by_camera(search, cameras, intra, inter, memory_limit=self.memory_limit)
        return found._replace(greatest=self._somewhere(found.greatest))

    def _through_index(
        self, features: Tensor, cameras: Tensor, order: Tensor, intra: int, inter: int
    ) -> CameraSurvey:
        """The same of features in the order of cameras, neighbours by faiss."""
        greatest = torch.empty_like(features[:, 0])
        greatest[order] = greatest_distances(features, memory_limit=self.memory_limit)
        parts = [
            by_camera(*self._around(features, own, order, max(intra, inter)), intra, inter)
            for own in camera_slices(cameras)
        ]
        return CameraSurvey.of(parts, order, self._somewhere(greatest))

    def _around(self, features: Tensor, own: slice, order: Tensor, k: int) -> tuple[Lists, Lists]:
        """The k nearest of the images of a camera within it, themselves first, and outside of it."""
        images = features[own]
        near = torch.zeros_like(images[:, :1]), order[own, None]
        near = joined(near, self._nearest(images, None, order[own], min(k, len(images)) - 1))
        before, after = slice(0, own.start), slice(own.stop, len(features))
        outside = [self._nearest(images, features[part], order[part], k) for part in (before, after)]
        return near, nearest_of(*outside, k)

    def _nearest(self, images: Tensor, others: Tensor | None, names: Tensor, k: int) -> Lists:
        """The k nearest, as far as there are so many, by name."""
        k = k if others is None else min(k, len(others))
        if not k:
            return images[:, :0], names.new_empty(len(images), 0)
        distances, places = nearest(images, others, k=k, memory_limit=self.memory_limit, index=self.index)
        return distances, names[places]

    def _somewhere(self, greatest: Tensor) -> Tensor:
        """Where all images lie in one place, what is left is rounding, of which no share must be taken."""
        return greatest.masked_fill(greatest <= _ROUNDING * self._squares, math.inf)

    def pairs(self, row: Tensor, column: Tensor) -> Tensor:
        """As ``Space.pairs``, from the differences of features: near pairs keep their digits."""
        features = self._of(slice(0, len(self)))
        size = max(1, 2**20 // (4 * features.shape[1]))  # pairs whose features stay in the cache
        parts = zip(row.split(size), column.split(size))
        return torch.cat([(features[i] - features[j]).square_().sum(1) for i, j in parts])

    def block(self, rows: slice | Tensor, columns: slice) -> Tensor:
        """As ``Space.block``, from products; never below 0."""
        some = self.query[rows] if isinstance(rows, Tensor) else self._of(rows)
        squares = self._squares[rows], self._squares[columns]
        return products(some, self._of(columns), times=-2, plus=squares).clamp_(min=0)

    def _of(self, images: slice) -> Tensor:
        """Features of a range of images: a copy only if it lies in both sets."""
        first = len(self.query)
        if images.stop <= first:
            return self.query[images]
        if images.start >= first:
            return self.gallery[images.start - first : images.stop - first]
        return torch.cat([self.query[images.start :], self.gallery[: images.stop - first]])

    @cached_property
    def _squares(self) -> Tensor:
        return torch.cat([_squares(self.query), _squares(self.gallery)])


def nearest_and_own(
    features: Tensor, k: int, *, memory_limit: int | None = None, index: str = "exact"
) -> Lists:
    """The k nearest of each image, itself first at distance 0; options as of ``neighbours.nearest``."""
    images = torch.arange(len(features), device=features.device)[:, None]
    own = torch.zeros_like(images, dtype=torch.float32), images
    if k == 1:
        return own
    return joined(own, nearest(features, k=k - 1, memory_limit=memory_limit, index=index))


@full_precision()
def greatest_distances(features: Tensor, *, memory_limit: int | None = None) -> Tensor:
    """Squared distance (N,) of each row to the one farthest from it; each pair is looked at once."""
    squares = _squares(features)
    greatest = torch.zeros_like(squares)
    for rows in blocks_within(len(features), 4 * len(features), memory_limit):
        rest = slice(rows.start, None)
        plus = squares[rows], squares[rest]
        block = products(features[rows], features[rest], times=-2, plus=plus)
        torch.maximum(greatest[rows], block.amax(1), out=greatest[rows])
        torch.maximum(greatest[rest], block.amax(0), out=greatest[rest])
    return greatest


def _squares(features: Tensor) -> Tensor:
    return torch.cat([part.square().sum(1) for part in features.split(4096)])


@dataclass(frozen=True, eq=False)
class RowSpace:
    """Distances of any origin, given as a function of a range of rows.

    Attributes:
        rows: a range of images, or some by index -> their distances (B, N) to all, float32, >= 0 and finite;
            called two to three times for each image.
        size: N.
        bytes_per_pair: of working memory that `rows` takes, its result included.
        memory_limit: bytes, 96 MiB unless told.
    """

    rows: Callable[[slice | Tensor], Tensor]
    size: int
    bytes_per_pair: int = 4
    memory_limit: int | None = None

    def __len__(self) -> int:
        return self.size

    def survey(self, k: int) -> Survey:
        """As ``Space.survey``.

        Raises:
            ValueError: if a distance is NaN or infinite; names the images.
        """
        parts = []
        for rows, block in self._blocks(slice(0, self.size)):
            greatest = _finite(block.amax(1), rows.start)
            parts.append(Survey(*smallest(block, k), greatest))
        return Survey(*(torch.cat(values) for values in zip(*parts)))

    def camera_survey(self, cameras: Tensor, intra: int, inter: int) -> CameraSurvey:
        """As ``Space.camera_survey``.

        Raises:
            ValueError: as `survey`.
        """
        images, parts, greatest = [], [], []
        for camera in cameras.unique():
            own = (cameras == camera).nonzero()[:, 0]
            for some in blocks_within(len(own), self.size * (self.bytes_per_pair + 12), self.memory_limit):
                block = self.rows(own[some])
                rows, columns = own[some].to(block.device), own.to(block.device)
                images.append(rows)
                greatest.append(_finite(block.amax(1), rows))
                parts.append(by_camera(*_around(block, rows, columns, max(intra, inter)), intra, inter))
        images = torch.cat(images)
        return CameraSurvey.of(parts, images, torch.cat(greatest)[images.argsort()])

    def pairs(self, row: Tensor, column: Tensor) -> Tensor:
        """As ``Space.pairs``; each row from the first to the last is asked for once."""
        result = torch.empty(len(row), dtype=torch.float32, device=row.device)
        for rows, block in self._blocks(slice(int(row[0]), int(row[-1]) + 1)):
            first, end = torch.searchsorted(row, torch.tensor([rows.start, rows.stop], device=row.device))
            result[first:end] = block[row[first:end] - rows.start, column[first:end]]
        return result

    def block(self, rows: slice | Tensor, columns: slice) -> Tensor:
        """As ``Space.block``; whole rows are asked for."""
        return self.rows(rows)[:, columns]

    def _blocks(self, rows: slice) -> Iterator[tuple[slice, Tensor]]:
        for part in blocks_within(rows, self.size * (self.bytes_per_pair + 8), self.memory_limit):
            yield part, self.rows(part)


def _around(block: Tensor, rows: Tensor, own: Tensor, k: int) -> tuple[Lists, Lists]:
    """From distances (B, N) of images of a camera: the k nearest within it, themselves first, and outside."""
    place = torch.arange(len(rows), device=rows.device)
    to_itself, block[place, rows] = block[place, rows], -1
    distances, places = smallest(block[:, own], min(k, len(own)))
    distances[:, 0] = to_itself
    near, outside = (distances, own[places]), min(k, block.shape[1] - len(own))
    if not outside:
        return near, (distances[:, :0], places[:, :0])
    return near, smallest(block.index_fill_(1, own, math.inf), outside)


def nearest_of(first: Lists, second: Lists, k: int) -> Lists:
    """The k nearest in two lists; equal distances by index."""
    distances, images = joined(first, second)
    images, order = images.sort(dim=1)
    distances, nearest_first = distances.gather(1, order).sort(dim=1, stable=True)
    return distances[:, :k], images.gather(1, nearest_first)[:, :k]


def _finite(greatest: Tensor, rows: int | Tensor) -> Tensor:
    bad = (~greatest.isfinite()).nonzero()[:, 0]
    if len(bad):
        images = rows[bad] if isinstance(rows, Tensor) else rows + bad
        raise ValueError(f"expected finite distances, got NaN or infinity in {name_rows(images)}")
    return greatest


def smallest(distances: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest entries of each row and their columns; equal ones in order of columns."""
    values, columns = distances.topk(min(k + 1, distances.shape[1]), dim=1, largest=False)
    last, longer = values[:, -1], values.shape[1] > k
    cut = ((values[:, k - 1] == last) & last.isfinite()).nonzero()[:, 0] if longer else []
    columns = columns[:, :k].sort(dim=1).values
    for row in cut:  # equal distances on both sides of the cut; infinite ones are all one
        columns[row] = _first(distances[row], k, values[row, k - 1])
    values, order = distances.gather(1, columns).sort(dim=1, stable=True)
    return values, columns.gather(1, order)


def _first(distances: Tensor, k: int, kth: Tensor) -> Tensor:
    """Columns of the k smallest entries, ascending; of those that equal the k-th the ones that come first."""
    nearer = (distances < kth).nonzero()[:, 0]
    tied = (distances == kth).nonzero()[: k - len(nearer), 0]
    return torch.cat([nearer, tied]).sort().values
