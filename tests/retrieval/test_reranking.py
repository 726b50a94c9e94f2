from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import reference
from torchreid_genext import compat
from torchreid_genext.retrieval.reranking import (
    KReciprocal,
    encode,
    expand_locally,
    k_reciprocal,
    k_reciprocal_distances,
)
from torchreid_genext.retrieval.spaces import FeatureSpace, RowSpace, greatest_distances

QUERIES, IMAGES = 15, 90


def people(seed: int = 0, width: int = 16) -> Tensor:
    """Features of a dozen people, so that reciprocal sets overlap and grow."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(12, width, generator=generator)
    some = torch.randint(0, 12, (IMAGES,), generator=generator)
    return 4 * (centres[some] + 0.5 * torch.randn(IMAGES, width, generator=generator)).relu() + 0.1


def blocks(matrix: Tensor, q: int = QUERIES) -> tuple[Tensor, Tensor, Tensor]:
    return matrix[:q, q:], matrix[:q, :q], matrix[q:, q:]


def of_features(features: Tensor, q: int = QUERIES, **options: float) -> Tensor:
    return k_reciprocal(features[:q], features[q:], **options)


NUMBERS = pytest.mark.parametrize(
    ("k1", "k2", "lambda_value"),
    ((20, 6, 0.3), (7, 1, 0.5), (5, 30, 0.0), (1, 2, 0.3), (89, 90, 0.9), (10, 3, 1.0)),
)


@NUMBERS
def test_features_give_what_the_paper_says(k1: int, k2: int, lambda_value: float) -> None:
    features = people()
    squared = reference.squared_distances(features.numpy(), features.numpy())
    expected = reference.k_reciprocal(squared, QUERIES, k1, k2, lambda_value, power=2)
    found = of_features(features, k1=k1, k2=k2, lambda_value=lambda_value)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("power", (1, 2))
@NUMBERS
def test_any_distances_give_what_the_paper_says(k1: int, k2: int, lambda_value: float, power: int) -> None:
    """Also where an image is far from itself, as by a spatio-temporal similarity."""
    distances = torch.cdist(people(1), people(1)) + 3 * torch.eye(IMAGES)
    expected = reference.k_reciprocal(distances.numpy(), QUERIES, k1, k2, lambda_value, power)
    numbers = {"k1": k1, "k2": k2, "lambda_value": lambda_value, "power": power}
    found = KReciprocal.of(RowSpace(lambda rows: distances[rows], IMAGES), QUERIES, **numbers)
    np.testing.assert_allclose(found.distances(slice(0, QUERIES)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("metric", ("euclidean", "cosine"))
@pytest.mark.parametrize("seed", range(3))
def test_features_give_what_the_engine_of_torchreid_computes(metric: str, seed: int) -> None:
    query, gallery = people(seed)[:QUERIES], people(seed)[QUERIES:]
    pairs = (query, gallery), (query, query), (gallery, gallery)
    matrices = [compat.compute_distance_matrix(x, y, metric) for x, y in pairs]
    expected = compat.re_ranking(*(matrix.numpy() for matrix in matrices))
    np.testing.assert_allclose(k_reciprocal(query, gallery, metric=metric), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(k_reciprocal_distances(*matrices), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("numbers", ({}, {"k1": 6, "k2": 2, "lambda_value": 0.1}))
def test_matrices_that_are_not_symmetric_are_read_as_torchreid_reads_them(numbers: dict) -> None:
    matrices = blocks(torch.rand(40, 40, generator=torch.Generator().manual_seed(0)), q=12)
    expected = compat.host().utils.re_ranking(*(matrix.numpy() for matrix in matrices), **numbers)
    np.testing.assert_allclose(k_reciprocal_distances(*matrices, **numbers), expected, rtol=0, atol=1e-5)


def test_result_depends_neither_on_memory_nor_on_the_block_of_queries() -> None:
    features = people()
    expected = of_features(features)
    torch.testing.assert_close(of_features(features, memory_limit=2000), expected)
    space = FeatureSpace.of(features[:QUERIES], features[QUERIES:], memory_limit=2000)
    reranked = KReciprocal.of(space, QUERIES, memory_limit=2000)
    parts = [reranked.distances(slice(start, start + 4)) for start in range(0, QUERIES, 4)]
    torch.testing.assert_close(torch.cat(parts), expected)


def test_rows_of_any_origin_do_not_depend_on_memory() -> None:
    distances = torch.cdist(people(), people())
    whole, small = (
        KReciprocal.of(RowSpace(lambda rows: distances[rows], IMAGES, memory_limit=limit), QUERIES)
        for limit in (None, 3000)
    )
    torch.testing.assert_close(small.distances(slice(2, 9)), whole.distances(slice(2, 9)))


def test_no_block_of_rows_exceeds_the_memory_limit() -> None:
    distances, longest, limit = torch.cdist(people(), people()), 0, 10 * IMAGES * 12

    def rows(block: slice) -> Tensor:
        nonlocal longest
        longest = max(longest, block.stop - block.start)
        return distances[block]

    KReciprocal.of(RowSpace(rows, IMAGES, memory_limit=limit), QUERIES, memory_limit=limit)
    assert 1 < longest <= 10


@pytest.mark.parametrize("memory_limit", (None, 2000))
def test_queries_by_index_get_the_rows_of_the_whole(memory_limit: int | None) -> None:
    features, some = people(), torch.tensor([3, 14, 0, 3])
    rows = torch.cdist(features, features)
    spaces = FeatureSpace.of(features[:QUERIES], features[QUERIES:]), RowSpace(lambda x: rows[x], IMAGES)
    for space in spaces:
        reranked = KReciprocal.of(space, QUERIES, memory_limit=memory_limit)
        torch.testing.assert_close(reranked(some), reranked(slice(0, QUERIES))[some])


def test_stages_on_shares_of_the_images_make_the_same_whole() -> None:
    features = people()
    space = FeatureSpace.of(features[:QUERIES], features[QUERIES:])
    survey, shares = space.survey(21), (slice(0, 30), slice(30, IMAGES))
    vectors = type(KReciprocal.of(space, QUERIES).query).concatenate(
        [encode(space, survey, 20, rows) for rows in shares]
    )
    expanded = [expand_locally(vectors, survey.lists, 6, rows) for rows in shares]
    whole = KReciprocal.from_vectors(
        space, survey.greatest, type(vectors).concatenate(expanded), QUERIES, lambda_value=0.3
    )
    assert torch.equal(whole.distances(slice(0, QUERIES)), of_features(features))


@pytest.mark.parametrize("metric", ("euclidean", "cosine"))
def test_permuting_the_gallery_permutes_the_result_bit_for_bit(metric: str) -> None:
    """Sums of weights are in fixed point and products of one kind: no order decides on a digit."""
    features, order = people(), torch.randperm(IMAGES - QUERIES)
    shuffled = torch.cat([features[:QUERIES], features[QUERIES:][order]])
    expected = of_features(features, metric=metric)[:, order]
    assert torch.equal(of_features(shuffled, metric=metric), expected)


def test_scale_of_features_does_not_matter_even_where_its_fourth_power_overflows() -> None:
    features = people()
    torch.testing.assert_close(of_features(1e12 * features), of_features(features), rtol=0, atol=1e-5)


def test_half_of_an_odd_k1_rounds_to_even_as_numpy_does() -> None:
    features = people(4)
    squared = reference.squared_distances(features.numpy(), features.numpy())
    for k1 in (5, 7, 9, 11):
        expected = reference.k_reciprocal(squared, QUERIES, k1, 1, 0.0, power=2)
        np.testing.assert_allclose(of_features(features, k1=k1, k2=1, lambda_value=0.0), expected, atol=1e-5)


def test_images_that_are_all_the_same_are_at_distance_zero() -> None:
    assert of_features(torch.ones(IMAGES, 4)).isfinite().all()
    torch.testing.assert_close(of_features(torch.ones(6, 4), q=2, k1=5, k2=6), torch.zeros(2, 4))


def test_equal_distances_are_ordered_by_index() -> None:
    space = RowSpace(lambda rows: torch.tensor([[1.0, 0.0, 1.0, 0.0, 1.0, 1.0]]).repeat(6, 1)[rows], 6)
    for k, expected in ((1, [1]), (3, [1, 3, 0]), (5, [1, 3, 0, 2, 4]), (6, [1, 3, 0, 2, 4, 5])):
        assert space.survey(k).lists.tolist() == [expected] * 6


@pytest.mark.parametrize("memory_limit", (None, 1500))
def test_greatest_distances_are_those_of_the_matrix(memory_limit: int | None) -> None:
    features = people()
    expected = torch.cdist(features.double(), features.double()).square().amax(1).float()
    torch.testing.assert_close(greatest_distances(features, memory_limit=memory_limit), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        ({"lambda_value": 1.5}, r"expected lambda_value in 0\.\.1, got 1.5"),
        ({"lambda_value": math.nan}, r"expected lambda_value in 0\.\.1, got nan"),
        ({"memory_limit": 0}, "expected memory_limit >= 1 byte, got 0"),
        ({"metric": "manhattan"}, "unknown metric 'manhattan'; choose from euclidean, cosine"),
        ({"g_features": torch.rand(75, 5)}, "one width, got 16 and 5"),
        ({"q_features": torch.full((15, 16), math.nan)}, "expected finite query features"),
    ),
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    features = {"q_features": people()[:QUERIES], "g_features": people()[QUERIES:]}
    with pytest.raises(ValueError, match=message):
        k_reciprocal(**(features | arguments))


def test_matrices_that_do_not_belong_together_are_named() -> None:
    message = r"\(Q, G\), \(Q, Q\) and \(G, G\), got \(3, 5\), \(3, 3\), \(4, 4\)"
    with pytest.raises(ValueError, match=message):
        k_reciprocal_distances(torch.rand(3, 5), torch.rand(3, 3), torch.rand(4, 4))


@pytest.mark.parametrize("bad", (math.nan, math.inf))
def test_distances_that_are_not_finite_are_named(bad: float) -> None:
    matrix = torch.cdist(people(), people())
    matrix[7, 3] = bad
    with pytest.raises(ValueError, match=r"finite distances, got NaN or infinity in rows 7 \(1 in all\)"):
        KReciprocal.of(RowSpace(lambda rows: matrix[rows], IMAGES), QUERIES)


@pytest.mark.parametrize("power", (0, -1, math.nan, math.inf))
def test_power_out_of_range_is_named(power: float) -> None:
    space = FeatureSpace.of(people()[:QUERIES], people()[QUERIES:])
    with pytest.raises(ValueError, match=f"expected power > 0 and finite, got {power}"):
        KReciprocal.of(space, QUERIES, power=power)
