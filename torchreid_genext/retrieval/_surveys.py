"""What re-ranking and neighbourhoods have to know of all images at once, seen in one pass over all pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torchreid_genext.retrieval._blocks import blocks, check_limit
from torchreid_genext.retrieval._numerics import full_precision
from torchreid_genext.retrieval._search import Search

__all__ = [
    "CameraSurvey", "Lists", "Survey", "by_camera", "camera_slices", "found", "joined", "nearest_others", "survey",
    "survey_by_camera",
]  # fmt: skip

Lists = tuple[Tensor, Tensor]  # distances (N, W) to images in ascending order, and who these are


class Survey(NamedTuple):
    """What re-ranking has to know of all images at once.

    Attributes:
        distances: to the nearest of each image, (N, W) float32.
        lists: the nearest, in order and the image itself included, (N, W) int64.
        greatest: distance of each image, (N,) float32.
    """

    distances: Tensor
    lists: Tensor
    greatest: Tensor


class CameraSurvey(NamedTuple):
    """The same for re-ranking that knows cameras; each list is a pair of distances and images, in order.

    Attributes:
        intra: the nearest of each image's own camera, the image itself first, (N, I); where a camera has
            fewer, the nearest of other cameras come behind.
        inter: the nearest of other cameras (N, J); where these have fewer, those of the own one come behind.
        greatest: distance of each image, (N,) float32.
    """

    intra: Lists
    inter: Lists
    greatest: Tensor

    @classmethod
    def of(cls, parts: Sequence[tuple[Lists, Lists]], images: Tensor, greatest: Tensor) -> CameraSurvey:
        """From the lists of some images after the others."""
        order = images.argsort()
        intra, inter = ([torch.cat(each)[order] for each in zip(*lists)] for lists in zip(*parts))
        return cls(tuple(intra), tuple(inter), greatest)


@full_precision()
def survey(search: Search, k: int, *, own_first: bool, memory_limit: int | None = None) -> Survey:
    """The k nearest and the greatest distance of each image.

    Args:
        search: of images among themselves.
        k: how many, the image itself included.
        own_first: whether each image comes first, at distance 0, or where its distance puts it.
        memory_limit: bytes of working memory, 96 MiB unless told.
    """
    total, parts = len(search.x), []
    for rows in blocks(total, search.rows_within(check_limit(memory_limit), k)):
        bounds = search.block(rows)
        greatest = search.farthest(rows, bounds)
        if own_first:
            numbers = torch.arange(rows.start, rows.stop, device=bounds.device)
            lists = _own_first(search, numbers, bounds, rows.start, k)
        else:
            lists = search.nearest(rows, bounds, k, most=total)
        parts.append(Survey(*lists, greatest))
    return Survey(*(torch.cat(values) for values in zip(*parts)))


@full_precision()
def survey_by_camera(
    search: Search, cameras: Tensor, intra: int, inter: int, *, memory_limit: int | None = None
) -> CameraSurvey:
    """The same by camera.

    Args:
        search: of images among themselves, whose columns are in the order of cameras.
        cameras: of the columns (N,), on the CPU.
        intra: nearest of the own camera. inter: nearest of others.
        memory_limit: bytes of working memory, 96 MiB unless told.
    """
    parts, greatest, total = [], [], len(search.x)
    for own in camera_slices(cameras):
        size = own.stop - own.start
        within, outside = max(intra, inter - (total - size)), max(inter, intra - size)
        for some in blocks(own, search.rows_within(check_limit(memory_limit), max(intra, inter))):
            rows = search.order[some]
            bounds = search.block(rows)
            greatest.append(search.farthest(rows, bounds))
            near = _own_first(search, rows, bounds[:, own], some.start - own.start, within, own.start)
            parts.append(by_camera(near, _outside(search, rows, bounds, own, outside), intra, inter))
    place = search.order.argsort()
    return CameraSurvey.of(parts, search.order, torch.cat(greatest)[place])


@full_precision()
def nearest_others(
    search: Search, cameras: Tensor | None, k: int, *, memory_limit: int | None = None
) -> Tensor:
    """Places (N, k) of the nearest other images, nearest first; -1 where there are fewer.

    Args:
        search: of images among themselves.
        cameras: of the columns (N,) as in `survey_by_camera`, whose images are left out; None leaves out none.
        k: how many.
        memory_limit: bytes of working memory, 96 MiB unless told.
    """
    total, device = len(search.x), search.x.device
    order = torch.arange(total, device=device) if search.order is None else search.order
    lists = torch.full((total, k), -1, dtype=torch.int64, device=device)
    for own in [slice(0, total)] if cameras is None else camera_slices(cameras):
        for some in blocks(own, search.rows_within(check_limit(memory_limit), k)):
            rows = order[some]
            bounds = search.block(rows)
            if cameras is None:
                bounds.diagonal(some.start).fill_(-math.inf)
                near = found(search, rows, bounds, k, total - 1)[1]
            else:
                near = _outside(search, rows, bounds, own, k)[1]
            lists[rows, : near.shape[1]] = near
    return lists


def camera_slices(cameras: Tensor) -> Iterator[slice]:
    """Where the images of each camera stand, of cameras (N,) in order."""
    stops = cameras.unique_consecutive(return_counts=True)[1].cumsum(0).tolist()
    return map(slice, [0, *stops], stops)


def by_camera(near: Lists, far: Lists, intra: int, inter: int) -> tuple[Lists, Lists]:
    """Lists of the own camera and of others, each continued by the other one where it is too short."""
    lists = (intra, joined(near, far)), (inter, joined(far, near))
    return tuple((distances[:, :k], images[:, :k]) for k, (distances, images) in lists)


def joined(first: Lists, second: Lists) -> Lists:
    """One list behind the other."""
    return tuple(torch.cat(pair, 1) for pair in zip(first, second))


def _own_first(
    search: Search, rows: Tensor, bounds: Tensor, place: int, k: int, first: int = 0
) -> Lists:
    """Each image, and its k - 1 nearest of some columns, among which it stands from the `place` on."""
    distances = torch.zeros_like(rows, dtype=torch.float32)
    if search.addend is not None:
        distances += search.addend.pairs(rows, rows)
    bounds.diagonal(place).fill_(-math.inf)
    others = found(search, rows, bounds, k - 1, bounds.shape[1] - 1, first)
    return joined((distances[:, None], rows[:, None]), others)


def _outside(search: Search, rows: Tensor, bounds: Tensor, own: slice, k: int) -> Lists:
    """The k nearest of other cameras, whose columns lie around the own ones."""
    bounds[:, own] = -math.inf
    return found(search, rows, bounds, k, bounds.shape[1] - (own.stop - own.start))


def found(
    search: Search, rows: Tensor, bounds: Tensor, k: int, most: int, first: int = 0
) -> Lists:
    """The nearest, as far as there are so many."""
    if min(k, most) < 1:
        return search.x.new_empty(len(rows), 0), rows.new_empty(len(rows), 0)
    return search.nearest(rows, bounds, min(k, most), most=most, first=first)
