"""Strangers counted for all rows of a tensor at once are those that are counted row by row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from torchreid_genext.retrieval import _counting
from torchreid_genext.retrieval._counting import Block, Gallery, Tally

LEVELS = (2, 4, 1000)  # of distances: many ties, some, hardly any


def tallied(gallery: Gallery, labels: tuple[NDArray, NDArray], parts: list[Block]) -> Tally:
    tally = Tally(gallery, *labels)
    starts = gallery.first + np.cumsum([0, *(part.shape[1] for part in parts)])
    for part, start in zip(parts, starts):
        tally.collect(part, int(start))
    tally.sort()
    for part, start in zip(parts, starts):
        tally.count(part, int(start))
    return tally


@pytest.mark.parametrize("tile", (1, 70, 2**23))
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("junk", (-1, None))
def test_tensors_are_counted_as_arrays_are(
    junk: int | None, levels: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_counting, "_TILE", tile)
    random = np.random.default_rng(levels)
    for turn in range(20):
        queries, images, first = random.integers(1, 9), random.choice([9, 60, 900]), random.integers(0, 5)
        people = 3 + images // 9
        gallery, query = (
            (random.integers(-1, people, count), random.integers(0, 3, count)) for count in (images, queries)
        )
        distances = random.integers(0, levels, (queries, images)).astype(np.float32)
        distances[random.random(distances.shape) < 0.1] = np.inf
        labels = Gallery(*gallery, junk_pid=junk, own_camera=bool(turn % 2), first=int(first))
        parts = np.split(distances, [random.integers(1, images)], axis=1)
        wanted = tallied(labels, query, parts)
        found = tallied(labels, query, [torch.tensor(part) for part in parts])
        assert np.array_equal(found.strangers, wanted.strangers)
        assert np.array_equal(found.index, wanted.index)


def test_matches_are_those_of_each_query_alone() -> None:
    gallery = Gallery(np.array([3, 1, 3, -1, 3, 1]), np.array([0, 0, 1, 1, 2, 1]), junk_pid=-1, first=10)
    query, index = gallery.matches(np.array([1, 7, 3, -1, 3]), np.array([0, 0, 1, 5, 9]))
    assert query.tolist() == [0, 2, 2, 4, 4, 4]
    assert index.tolist() == [15, 10, 14, 10, 12, 14]
    assert gallery.members(3).tolist() == [10, 12, 14] and gallery.junk.tolist() == [13]
