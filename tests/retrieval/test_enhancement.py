"""DMON, ARO and CA-Jaccard at their edges; their numbers are in test_oracles.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.allocations import peak_bytes
from torchreid_genext.retrieval.neighbour_enhancement import aro, dmon
from torchreid_genext.retrieval.protocol import RetrievalSet, Sightings, evaluate, transform
from torchreid_genext.retrieval.reranking import ca_jaccard


def features(rows: int, width: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def images(rows: int, cameras: int = 3) -> RetrievalSet:
    places = torch.arange(rows)
    return RetrievalSet(features(rows), places // 2, places % cameras, frames=10 * places)


WORKS = {
    "dmon": lambda limit: dmon(features(1500), memory_limit=limit),
    "aro": lambda limit: aro(features(40), features(1500), memory_limit=limit),
    "ca_jaccard": lambda limit: ca_jaccard(
        features(40), features(1500), torch.arange(40) % 3, torch.arange(1500) % 3, memory_limit=limit
    ),
}


@pytest.mark.parametrize("name", WORKS)
def test_memory_is_bounded_and_changes_nothing(name: str) -> None:
    results, work = {}, WORKS[name]
    peaks = [peak_bytes(lambda: results.update({limit: work(limit)})) for limit in (2**20, 2**25)]  # noqa: B023
    torch.testing.assert_close(results[2**20], results[2**25], rtol=0, atol=1e-6)
    assert peaks[0] < peaks[1] and peaks[0] < 1500**2 * 4


def test_images_that_are_alike_stay_alike() -> None:
    alike = features(30)
    alike[10:14] = alike[10]
    found = dmon(alike, k1=29, k2=29)
    assert (found[10:14] == found[10]).all()
    distances = aro(features(3, seed=1), alike, k1=30, k2=30)
    assert (distances[:, 10:14] == distances[:, 10:11]).all()


@pytest.mark.parametrize("scale", (1e-30, 1e-12, 1e12, 1e18))
def test_aro_does_not_see_the_scale(scale: float) -> None:
    query, gallery = features(4), features(30, seed=1)
    power = 2.0 ** torch.tensor(scale).log2().round()
    torch.testing.assert_close(aro(query * power, gallery * power), aro(query, gallery), rtol=0, atol=0)


def test_a_query_alone_is_left_where_it_is() -> None:
    query, gallery = features(1), features(8)
    found = dmon(query)
    torch.testing.assert_close(found, 0.75 * query)
    assert aro(query, gallery).shape == (1, 8)


def test_cameras_of_few_images_are_served() -> None:
    query, gallery = images(4), images(10)
    alone = RetrievalSet(gallery.features, gallery.pids, torch.arange(10), gallery.frames)
    for other in (gallery, alone):
        assert evaluate(query, other, "ca_jaccard", protocol="genid").mAP > 0


@pytest.mark.parametrize("chain", ("aro+l2", "ca_jaccard+l2", "rerank+aro"))
def test_they_are_last(chain: str) -> None:
    with pytest.raises(ValueError, match="last step"):
        transform(images(4), images(8), chain)


def test_aro_wants_features() -> None:
    query, gallery = images(4), images(12)
    train = Sightings(gallery.pids, gallery.camids, gallery.frames)
    with pytest.raises(ValueError, match="expected a distance of features before aro, got cosine and time"):
        transform(query, gallery, "st+aro", train=train)


def test_cameras_are_asked_for_before_work() -> None:
    nameless = RetrievalSet(features(6), torch.arange(6) // 2)
    with pytest.raises(ValueError, match="camids in both sets for the step ca_jaccard"):
        transform(nameless, nameless, "ca_jaccard")


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda: dmon(features(4), sigma=0), "sigma > 0"),
        (lambda: dmon(features(4), gamma=1.5), "gamma in 0..1"),
        (lambda: dmon(features(4), k1=0), "k1 >= 1"),
        (lambda: aro(features(2), features(4, 8)), "one width"),
        (lambda: aro(features(2), features(4), k2=0), "k2 >= 1"),
        (lambda: ca_jaccard(features(2), features(4), [0, 1], [0, 1]), "camera of 6 images, got 4"),
        (lambda: ca_jaccard(features(1), features(1), [0], [1], lambda_value=2), "lambda_value in 0..1"),
    ],
)
def test_bad_numbers_are_named(work, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        work()
