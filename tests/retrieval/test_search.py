"""The search by proof: nearest, farthest, by camera, and with time added; and spaces that are made of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from torchreid_genext.retrieval._search import Search
from torchreid_genext.retrieval.comparison import Blended
from torchreid_genext.retrieval.neighbourhoods import nearest_by
from torchreid_genext.retrieval.sets import RetrievalSet
from torchreid_genext.retrieval.spaces import RowSpace
from torchreid_genext.retrieval.spatiotemporal import TimedMeasure
from torchreid_genext.retrieval.timed import TimedSpace

BF16 = pytest.mark.parametrize("bf16", (False, True))


class Table:
    """Addends that are known for all pairs."""

    def __init__(self, values: Tensor, order: Tensor) -> None:
        self.values, self.order = values, order

    def halves(self, rows: slice | Tensor):
        half = self.values[rows][:, self.order] / 2
        for start in range(0, len(half), 7):
            yield slice(start, min(start + 7, len(half))), half[start : start + 7]

    def pairs(self, row: Tensor, column: Tensor) -> Tensor:
        return self.values[row, column]


def scattered(images: int = 300) -> Tensor:
    x = torch.randn(images, 16) * torch.rand(images, 1) + 1
    x[20:40] = x[5]
    return x


def exact(x: Tensor) -> Tensor:
    return (x[:, None].double() - x.double()).square().sum(2)


@BF16
@pytest.mark.parametrize("timed", (False, True))
def test_nearest_and_farthest_are_those_of_all_pairs(bf16: bool, timed: bool) -> None:
    x, order = scattered(), torch.randperm(300)
    addend = Table(torch.randint(0, 4, (300, 300)).float(), order) if timed else None
    expected = exact(x) + (addend.values.double() if timed else 0)
    search, rows = Search(x, x, bf16=bf16, order=order, addend=addend), order[50:130]
    bounds = search.block(rows)
    torch.testing.assert_close(search.farthest(rows, bounds).double(), expected[rows].amax(1), rtol=1e-5, atol=0)
    distances, places = search.nearest(rows, bounds[:, 100:], 6, most=200, first=100)
    some = torch.full_like(expected, torch.inf)
    some[:, order[100:]] = expected[:, order[100:]]
    assert torch.equal(places, some[rows].argsort(dim=1, stable=True)[:, :6])
    torch.testing.assert_close(distances.double(), some[rows].gather(1, places), rtol=1e-5, atol=1e-6)


@BF16
def test_farthest_where_half_of_all_images_are_as_far_away(bf16: bool) -> None:
    x = torch.zeros(6000, 4)
    x[::2, 0], x[1::2, 1] = 3, 4
    search = Search(x, x, bf16=bf16)
    rows = slice(0, 500)
    torch.testing.assert_close(search.farthest(rows, search.block(rows)), torch.full((500,), 25.0))


@BF16
def test_bounds_are_loose_by_no_more_than_the_slack(bf16: bool) -> None:
    x = scattered()
    search = Search(x, x, bf16=bf16)
    bounds, mean = search.block(slice(0, 300)).double(), search.bounds.mean.double()
    scores = (x - mean) @ (x - mean).t() - (x - mean).square().sum(1) / 2
    assert (bounds <= scores + search.bounds.slack(x).double()[:, None]).all()


@pytest.fixture
def images() -> RetrievalSet:
    """150 images of 20 people under 4 cameras, with times, some alike, and features of before."""
    pids, camids = torch.randint(1, 21, (150,)), torch.randint(0, 4, (150,))
    frames = 300 * pids + 100 * camids + torch.randint(0, 30, (150,))
    before = RetrievalSet(torch.randn(150, 8), pids, camids, frames=frames).remembered()
    features = torch.randn(21, 10)[pids] + 0.6 * torch.randn(150, 10)
    return before.with_features(features)


def pair_of_spaces(images: RetrievalSet, form: str, weight: float) -> tuple[TimedSpace, RowSpace]:
    measure = TimedMeasure.fit(images, form=form)
    whole = Blended(measure, weight) if weight else measure
    return (
        TimedSpace.of(images, whole, memory_limit=20_000),
        RowSpace(lambda rows: whole(images.select(rows), images), len(images)),
    )


@pytest.mark.parametrize("form", ("ratio", "loglikelihood"))
@pytest.mark.parametrize("weight", (0.0, 0.3))
def test_space_of_time_is_that_of_its_rows(images: RetrievalSet, form: str, weight: float) -> None:
    timed, rows = pair_of_spaces(images, form, weight)
    close = {"rtol": 0, "atol": 2e-6}
    torch.testing.assert_close(timed.block(slice(3, 9), slice(60, 150)), rows.block(slice(3, 9), slice(60, 150)), **close)
    row, column = torch.arange(150).repeat_interleave(2), torch.randint(0, 150, (300,))
    torch.testing.assert_close(timed.pairs(row, column), rows.pairs(row, column), **close)
    for found, expected in zip(timed.survey(9), rows.survey(9)):
        torch.testing.assert_close(found, expected, **close)
    found, expected = (space.camera_survey(images.camids, 5, 12) for space in (timed, rows))
    for pair in zip((*found.intra, *found.inter, found.greatest), (*expected.intra, *expected.inter, expected.greatest)):
        torch.testing.assert_close(*pair, **close)


@pytest.mark.parametrize("cross_camera", (True, False))
def test_nearest_in_time_tie_by_index(images: RetrievalSet, cross_camera: bool) -> None:
    alike = images.with_features(images.features[images.pids % 5])  # four people share each look
    alike = RetrievalSet(alike.features, alike.pids, alike.camids, frames=alike.camids * 100)
    measure = TimedMeasure.fit(images)
    lists = nearest_by(measure, alike, k=6, cross_camera=cross_camera, memory_limit=9000)
    space = TimedSpace.of(alike, measure)
    row, column = torch.cartesian_prod(torch.arange(150), torch.arange(150)).t()
    distances = space.pairs(row, column).view(150, 150).fill_diagonal_(torch.inf)
    if cross_camera:
        distances[alike.camids[:, None] == alike.camids] = torch.inf
    assert torch.equal(lists, distances.argsort(dim=1, stable=True)[:, :6])
