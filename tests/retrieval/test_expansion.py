from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests import reference
from torchreid_genext.retrieval._numerics import unit
from torchreid_genext.retrieval.steps.expansion import (
    alpha_query_expansion,
    average_query_expansion,
    database_augmentation,
)


def sets(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    query, gallery = torch.randn(12, 6, generator=generator), torch.randn(40, 6, generator=generator)
    return 3 * query, gallery


@pytest.mark.parametrize("k", (1, 5, 40))
@pytest.mark.parametrize("alpha", (0.5, 1.0, 3.0))
def test_alpha_query_expansion_equals_its_formula(k: int, alpha: float) -> None:
    query, gallery = sets()
    expected = reference.expanded(query.numpy(), gallery.numpy(), k, alpha)
    np.testing.assert_allclose(alpha_query_expansion(query, gallery, k=k, alpha=alpha), expected, atol=1e-5)


@pytest.mark.parametrize("k", (1, 4, 39))
@pytest.mark.parametrize("alpha", (0.0, 2.0))
def test_database_augmentation_equals_its_formula(k: int, alpha: float) -> None:
    gallery = sets()[1]
    expected = reference.expanded(gallery.numpy(), None, k, alpha)
    np.testing.assert_allclose(database_augmentation(gallery, k=k, alpha=alpha), expected, atol=1e-5)


@pytest.mark.parametrize("members", (3, 5))
def test_means_of_a_clique_are_equal_bit_for_bit(members: int) -> None:
    people = torch.arange(20).repeat(members)
    gallery = 9 * torch.randn(20, 16)[people] + 0.1 * torch.randn(len(people), 16)
    augmented = database_augmentation(gallery, k=members - 1, alpha=0)
    assert torch.equal(augmented, augmented[:20][people])


def test_sums_run_by_ascending_index() -> None:
    gallery = torch.randn(6, 64)
    total = torch.zeros(64)
    for row in unit(gallery):
        total += row
    assert torch.equal(database_augmentation(gallery, k=5, alpha=0)[3], unit(total))


def test_average_query_expansion_is_the_direction_of_the_mean() -> None:
    query, gallery = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0], [-1.0, 0.0], [0.0, -3.0]])
    found = average_query_expansion(query, gallery, k=1)
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5]]) * math.sqrt(2))


def test_find_of_negative_cosine_has_no_weight() -> None:
    query, gallery = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.2]])
    torch.testing.assert_close(alpha_query_expansion(query, gallery, k=1, alpha=0.5), query)


def test_result_does_not_depend_on_scale_or_memory() -> None:
    query, gallery = sets()
    expected = alpha_query_expansion(query, gallery, k=7)
    torch.testing.assert_close(alpha_query_expansion(0.01 * query, 90 * gallery, k=7), expected)
    torch.testing.assert_close(alpha_query_expansion(query, gallery, k=7, memory_limit=2000), expected)


def test_permuting_the_gallery_permutes_its_augmentation() -> None:
    gallery, order = sets()[1], torch.randperm(40)
    torch.testing.assert_close(database_augmentation(gallery)[order], database_augmentation(gallery[order]))


def test_input_is_left_as_it_is() -> None:
    query, gallery = sets()
    before = query.clone(), gallery.clone()
    average_query_expansion(query, gallery), database_augmentation(gallery)
    assert torch.equal(query, before[0]) and torch.equal(gallery, before[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        ({"alpha": -1.0}, "expected alpha >= 0 and finite, got -1.0"),
        ({"alpha": math.nan}, "expected alpha >= 0 and finite, got nan"),
        ({"alpha": math.inf}, "expected alpha >= 0 and finite, got inf"),
        ({"gallery": torch.rand(40, 5)}, "one width, got 6 and 5"),
        ({"query": torch.full((2, 6), math.nan)}, "expected finite query"),
    ),
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    query, gallery = sets()
    with pytest.raises(ValueError, match=message):
        alpha_query_expansion(**({"query": query, "gallery": gallery} | arguments))
