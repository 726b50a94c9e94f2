from __future__ import annotations

import builtins
import logging

import pytest
import torch

from torchreid_genext.retrieval import approximate
from torchreid_genext.retrieval.approximate import Flat, Graph, InvertedLists, recall
from torchreid_genext.retrieval.neighbours import INDEXES, nearest

pytest.importorskip("faiss", reason="needs the extra faiss")

APPROXIMATE = INDEXES[1:]


def crowd(n: int = 2000, width: int = 16) -> torch.Tensor:
    """Rows around common centres, some of them repeated."""
    x = torch.randn(n // 8, width).repeat(8, 1) + 0.3 * torch.randn(n, width)
    x[n // 2 : n // 2 + 9] = x[3]
    return x


@pytest.mark.parametrize("index", ("flat", InvertedLists(nlist=10, nprobe=10)))
@pytest.mark.parametrize("k", (1, 5))
def test_a_complete_index_equals_the_exact_search(index: str | InvertedLists, k: int) -> None:
    x = crowd()
    for found, expected in zip(nearest(x, k=k, index=index), nearest(x, k=k)):
        assert torch.equal(found, expected)
    for found, expected in zip(nearest(x[:50], x, k=k, index=index), nearest(x[:50], x, k=k)):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("index", APPROXIMATE)
def test_distances_of_what_is_found_are_exact_and_in_order(index: str) -> None:
    x = crowd()
    distances, indices = nearest(x, k=4, index=index)
    assert torch.equal(distances, torch.linalg.vector_norm(x[:, None] - x[indices], dim=-1).square())
    assert (distances.diff(dim=1) >= 0).all()
    assert not (indices == torch.arange(len(x))[:, None]).any()


@pytest.mark.parametrize("index", APPROXIMATE)
def test_most_neighbours_are_found(index: str) -> None:
    x = crowd()
    assert recall(nearest(x, k=5, index=index)[1], nearest(x, k=5)[1]) > 0.9


def test_more_effort_finds_more() -> None:
    x = torch.randn(3000, 32)
    expected = nearest(x, k=5)[1]

    def found(index: approximate.Index) -> float:
        return recall(nearest(x, k=5, index=index)[1], expected)

    assert found(InvertedLists(nlist=50, nprobe=1)) < found(InvertedLists(nlist=50, nprobe=20)) < 1
    assert found(Graph(links=4, ef_construction=8, ef_search=1)) < found(Graph(ef_search=256))


def test_rows_whose_lists_hold_too_few_are_searched_exactly() -> None:
    x = torch.cat([torch.randn(60, 4), 100 + torch.randn(2, 4)])
    found = nearest(x, k=5, index=InvertedLists(nlist=12, nprobe=1))
    expected = nearest(x, k=5)
    assert torch.equal(found[1][60:], expected[1][60:]) and torch.equal(found[0][60:], expected[0][60:])


@pytest.mark.parametrize("index", APPROXIMATE)
def test_equal_rows_are_ordered_by_index_and_never_find_themselves(index: str) -> None:
    _, indices = nearest(torch.ones(9, 8), k=8, index=index)
    assert indices.tolist() == [[other for other in range(9) if other != row] for row in range(9)]


def test_result_does_not_depend_on_the_block_size() -> None:
    x = crowd(600)
    whole = nearest(x, k=3, index="hnsw")
    for limits in ({"chunk": 7}, {"memory_limit": 1}):
        assert torch.equal(nearest(x, k=3, index="hnsw", **limits)[1], whole[1])


def test_recall_is_measured_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="torchreid_genext"):
        nearest(crowd(600), k=3, index=Flat())
    assert "Flat() found 100.00 % of the 3 nearest, measured on 256 of 600 rows" in caplog.text


def test_recall_counts_each_true_neighbour_once() -> None:
    assert recall(torch.tensor([[1, 2], [3, 4]]), torch.tensor([[2, 1], [4, 5]])) == 0.75
    with pytest.raises(ValueError, match=r"one shape \(N, k\), got \(2, 3\) and \(2, 2\)"):
        recall(torch.ones(2, 3), torch.ones(2, 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        ({"k": 1, "index": "pq"}, "unknown index 'pq'; choose from exact, flat, ivf, hnsw"),
        ({"k": 10, "index": "flat"}, r"expected k in 1\.\.9, got 10"),
        ({"k": 1, "index": "ivf", "memory_limit": -1}, "expected memory_limit >= 1 byte, got -1"),
        ({"k": 1, "index": "ivf", "chunk": -1}, "expected chunk >= 1, got -1"),
    ),
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest(torch.rand(10, 5), **arguments)


def test_bad_settings_are_named() -> None:
    for build in (lambda: InvertedLists(nlist=0), lambda: InvertedLists(nprobe=0), lambda: Graph(links=0)):
        with pytest.raises(ValueError, match="expected (nlist|nprobe|links) >= 1, got 0"):
            build()


def test_missing_faiss_is_said_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without_faiss(name: str, *rest: object) -> object:
        if name == "faiss":
            raise ImportError(name)
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_faiss)
    with pytest.raises(ImportError, match="got none; pip install faiss-cpu"):
        nearest(torch.rand(10, 5), k=1, index="flat")
