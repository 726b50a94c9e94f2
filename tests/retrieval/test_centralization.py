from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests import reference
from torchreid_genext.retrieval.centralization import fuse_generated, id2, nfc
from torchreid_genext.retrieval.steps.nfc import add_rows, mutual_neighbours, mutual_pairs


@pytest.mark.parametrize(("k1", "k2"), ((1, 1), (2, 2), (5, 2), (2, 5), (7, 7)))
@pytest.mark.parametrize("self_distance", (math.inf, 3.0))
def test_nfc_equals_its_description(k1: int, k2: int, self_distance: float) -> None:
    features = torch.randn(60, 10)
    found = nfc(features, k1=k1, k2=k2, self_distance=self_distance)
    expected = reference.nfc(features.numpy(), k1, k2, self_distance)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("k1", "k2"), ((1, 1), (2, 2), (5, 2), (7, 7)))
def test_nfc_sums_by_ascending_index(k1: int, k2: int) -> None:
    features = torch.randn(80, 12)
    assert (nfc(features, k1=k1, k2=k2).numpy() == reference.nfc_in_order(features.numpy(), k1, k2)).all()


@pytest.mark.parametrize("members", (3, 4, 6))
def test_rows_of_a_clique_are_equal_bit_for_bit(members: int) -> None:
    people = torch.arange(30).repeat(members)
    features = 9 * torch.randn(30, 16)[people] + 0.1 * torch.randn(len(people), 16)
    result = nfc(features, k1=members - 1, k2=members - 1)
    assert torch.equal(result, result[:30][people])
    order = torch.randperm(len(people))
    torch.testing.assert_close(nfc(features[order], k1=members - 1, k2=members - 1), result[order])


@pytest.mark.parametrize("memory_limit", (1, 3000, None))
def test_sums_of_rows_do_not_depend_on_memory_and_may_hold_a_row_twice(memory_limit: int | None) -> None:
    features = torch.randn(50, 8)
    row, neighbour = torch.tensor([[3, 3, 3, 7, 49], [9, 0, 3, 8, 1]])
    expected = features.clone()
    expected[3] = features[0] + features[3] + features[3] + features[9]
    expected[7], expected[49] = features[7] + features[8], features[1] + features[49]
    assert torch.equal(add_rows(features, row, neighbour, memory_limit=memory_limit), expected)


@pytest.mark.parametrize("k2", (1, 2, 5))
@pytest.mark.parametrize("memory_limit", (1, None))
def test_mutual_pairs_equal_their_description(k2: int, memory_limit: int | None) -> None:
    lists = torch.stack([torch.randperm(40)[:5] for _ in range(40)])
    lists[3:6, 3:] = -1
    row, neighbour = mutual_pairs(lists, k2, memory_limit=memory_limit)
    expected = [(i, int(j)) for i in range(40) for j in lists[i] if j >= 0 and i in lists[j][:k2]]
    assert list(zip(row.tolist(), neighbour.tolist())) == expected


def test_row_without_mutual_neighbours_is_unchanged() -> None:
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.1, 0.0], [9.0, 9.0]])
    assert torch.equal(nfc(features, k1=1, k2=1)[3], features[3])


def test_two_mutual_neighbours_become_the_same_vector() -> None:
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [-5.0, 3.0], [-5.0, 3.2]])
    result = nfc(features, k1=1, k2=1)
    assert torch.equal(result[0], result[1]) and torch.equal(result[2], result[3])


def test_input_is_left_as_it_is() -> None:
    features = torch.randn(20, 4)
    before = features.clone()
    nfc(features)
    assert torch.equal(features, before)


def test_beyond_k1_k2_has_no_effect() -> None:
    features = torch.randn(50, 6)
    assert torch.equal(nfc(features, k1=3, k2=3), nfc(features, k1=3, k2=20))


def test_permuting_the_rows_permutes_the_result() -> None:
    features, order = torch.randn(50, 6), torch.randperm(50)
    torch.testing.assert_close(nfc(features)[order], nfc(features[order]))


def test_result_depends_neither_on_memory_nor_on_precision() -> None:
    features = torch.randn(300, 16)
    expected = nfc(features, k1=4, k2=4)
    assert torch.equal(nfc(features, k1=4, k2=4, memory_limit=20_000), expected)
    assert torch.equal(nfc(features, k1=4, k2=4, precision="bf16"), expected)


def test_mutual_neighbours_with_equal_k_are_symmetric() -> None:
    row, neighbour = mutual_neighbours(torch.randn(80, 5), k1=4, k2=4)
    pairs = set(zip(row.tolist(), neighbour.tolist()))
    assert pairs and pairs == {(j, i) for i, j in pairs}


@pytest.mark.parametrize("reduce", ("mean", "sum"))
@pytest.mark.parametrize("eta", (0.0, 1.0, 2.0))
def test_fusion_equals_its_formula(reduce: str, eta: float) -> None:
    features, generated = torch.randn(7, 5), torch.randn(7, 3, 5)
    expected = reference.fuse_generated(features.numpy(), generated.numpy(), eta, reduce)
    np.testing.assert_allclose(
        fuse_generated(features, generated, eta=eta, reduce=reduce), expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("generated", "arguments", "message"),
    (
        (torch.rand(7, 5), {}, r"shape \(7, P, 5\), got \(7, 5\)"),
        (torch.rand(6, 2, 5), {}, r"shape \(7, P, 5\), got \(6, 2, 5\)"),
        (torch.rand(7, 2, 5), {"reduce": "max"}, "unknown reduce 'max'; choose from mean, sum"),
        (torch.rand(7, 2, 5), {"eta": math.nan}, "finite eta, got nan"),
        (torch.full((7, 2, 5), math.nan), {}, "finite generated features"),
    ),
)
def test_bad_generated_features_are_named(generated: torch.Tensor, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fuse_generated(torch.rand(7, 5), generated, **arguments)


def test_id2_equals_its_formula() -> None:
    features, pids = torch.randn(40, 6) * 9, torch.randint(0, 7, (40,))
    np.testing.assert_allclose(
        id2(features, pids), reference.id2(features.numpy(), pids.numpy()), rtol=1e-5, atol=1e-7
    )


def test_id2_of_a_lone_image_is_zero_and_of_two_opposites_one() -> None:
    density = id2(torch.tensor([[2.0, 0.0], [1.0, 0.0], [-4.0, 0.0]]), torch.tensor([0, 5, 5]))
    torch.testing.assert_close(density, torch.tensor([0.0, 1.0, 1.0]))


@pytest.mark.parametrize("memory_limit", (1, 2000))
def test_id2_depends_neither_on_memory_nor_on_order(memory_limit: int) -> None:
    features, pids, order = torch.randn(60, 6), torch.randint(0, 9, (60,)), torch.randperm(60)
    expected = id2(features, pids)
    assert torch.equal(id2(features, pids, memory_limit=memory_limit), expected)
    assert torch.equal(id2(features[order], pids[order]), expected[order])


def test_id2_needs_a_pid_for_each_feature() -> None:
    with pytest.raises(ValueError, match="expected 4 pids"):
        id2(torch.rand(4, 2), torch.tensor([1, 2]))
