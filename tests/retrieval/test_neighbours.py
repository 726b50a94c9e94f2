from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import reference
from torchreid_genext.retrieval import neighbours
from torchreid_genext.retrieval._bounds import Bf16Bounds, Fp32Bounds
from torchreid_genext.retrieval._search import Search
from torchreid_genext.retrieval.neighbours import nearest

PRECISIONS = ("fp32", "bf16")


def scattered(n: int, width: int, scale: float = 1.0) -> torch.Tensor:
    """Rows of very different lengths, around a common offset, some of them repeated."""
    x = (torch.randn(n, width) * torch.rand(n, 1) + 2) * scale
    x[n // 2 : n // 2 + 9] = x[3]
    return x


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("k", (1, 3, 12))
@pytest.mark.parametrize("scale", (1e-3, 1.0, 50.0))
def test_equals_the_naive_search(precision: str, k: int, scale: float) -> None:
    x = scattered(90, 24, scale)
    distances, indices = nearest(x, k=k, precision=precision)
    expected = reference.nearest(x.numpy(), None, k)
    assert (indices.numpy() == expected).all()
    full = reference.squared_distances(x.numpy(), x.numpy())
    np.testing.assert_allclose(
        distances, np.take_along_axis(full, expected, 1), rtol=1e-5, atol=1e-6 * scale**2
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_sets_find_the_own_entry_too(precision: str) -> None:
    x = scattered(70, 16)
    distances, indices = nearest(x[:20], x, k=4, precision=precision)
    assert (indices.numpy() == reference.nearest(x[:20].numpy(), x.numpy(), 4)).all()
    assert distances[:, 0].tolist() == [0.0] * 20


@pytest.mark.parametrize("precision", PRECISIONS)
def test_ties_are_ordered_by_index_even_beyond_the_candidates(precision: str) -> None:
    x = torch.ones(200, 8)
    _, indices = nearest(x, k=3, precision=precision, chunk=64)
    assert indices[0].tolist() == [1, 2, 3]
    assert indices[150].tolist() == [0, 1, 2]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_neighbours_closer_than_the_rounding_are_told_apart(precision: str) -> None:
    """Far from the origin and closer together than bfloat16 resolves: only the proof can save these rows."""
    x = 1 + 1e-3 * torch.rand(300, 32)
    _, indices = nearest(x, k=5, precision=precision)
    assert (indices.numpy() == reference.nearest(x.numpy(), None, 5)).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_result_does_not_depend_on_the_block_size(precision: str) -> None:
    x = scattered(120, 16)
    whole = nearest(x, k=6, precision=precision)
    for chunk in (1, 7, 119):
        part = nearest(x, k=6, precision=precision, chunk=chunk)
        assert torch.equal(part[0], whole[0]) and torch.equal(part[1], whole[1])


def test_memory_limit_bounds_the_block() -> None:
    search = Search(torch.rand(1000, 8), torch.rand(1000, 8), bf16=False)
    assert search.rows_within(10 * 4 * 1000, 2) < 10
    assert search.rows_within(2**40, 2) == 1000


def test_shortened_products_of_the_user_do_not_change_the_result() -> None:
    x = scattered(150, 64)
    exact = nearest(x, k=4, precision="fp32")
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        shortened = nearest(x, k=4, precision="fp32")
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(exact[0], shortened[0]) and torch.equal(exact[1], shortened[1])


@pytest.mark.parametrize("kind", [Fp32Bounds, Bf16Bounds])
def test_bounds_enclose_the_score_of_every_pair(kind: type) -> None:
    """Of whole numbers, which bfloat16 holds, so that little room is left for mistakes."""
    x, y = (torch.randint(-8, 9, (n, 16)).float() for n in (40, 60))
    y = torch.cat([y, -y])  # their mean is 0
    bounds, scores = kind(y), x @ y.t() - y.square().sum(1) / 2
    assert (bounds.upper(bounds(x).float()) >= scores).all()
    for place, distances in enumerate(torch.cdist(x.double(), y.double()).square().t()):
        assert (bounds.lower(x, distances) <= scores[:, place].double()).all()


def test_bounds_leave_room_for_what_shortened_products_lose() -> None:
    x, y = torch.randn(40, 16), torch.randn(60, 16)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        bounds = Fp32Bounds(y)
    finally:
        torch.set_float32_matmul_precision(before)
    x = x - bounds.mean
    lost = x @ y.t() - x.bfloat16().float() @ y.bfloat16().float().t()
    assert (bounds.error * x.norm(dim=1)[:, None] >= lost.abs()).all()


def test_permuting_the_rows_permutes_the_result() -> None:
    x = torch.randn(80, 12)
    order = torch.randperm(80)
    place = order.argsort()
    assert torch.equal(place[nearest(x, k=3)[1][order]], nearest(x[order], k=3)[1])


def test_half_precision_features_are_read() -> None:
    x = torch.randn(40, 8).half()
    assert torch.equal(nearest(x, k=2)[1], nearest(x.float(), k=2)[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        ({"k": 0}, r"expected k in 1\.\.9, got 0"),
        ({"k": 10}, r"expected k in 1\.\.9, got 10"),
        ({"k": True}, r"expected k in 1\.\.9, got True"),
        ({"k": 2.0}, r"expected k in 1\.\.9, got 2.0"),
        ({"k": 1, "precision": "int8"}, "unknown precision 'int8'; choose from auto, fp32, bf16"),
        ({"k": 1, "chunk": -1}, "expected chunk >= 1, got -1"),
        ({"k": 1, "memory_limit": -5}, "expected memory_limit >= 1 byte, got -5"),
        ({"k": 1, "y": torch.rand(4, 7)}, "expected x and y of one width, got 5 and 7"),
    ),
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest(torch.rand(10, 5), **arguments)


@pytest.mark.parametrize(
    ("x", "message"),
    (
        (torch.ones(3, 4, dtype=torch.int64), "floating tensor, got dtype torch.int64"),
        (torch.ones(3), r"shape \(N, D\) with N, D >= 1, got \(3,\)"),
        (torch.ones(0, 4), r"got \(0, 4\)"),
        (
            torch.tensor([[1.0, 2.0], [float("nan"), 0.0], [float("inf"), 1.0]]),
            r"NaN or infinity in rows 1, 2 \(2 in all\)",
        ),
    ),
)
def test_bad_features_are_named(x: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest(x, k=1)


def test_large_finite_values_are_not_mistaken_for_infinity() -> None:
    neighbours.check_features(torch.full((2, 64), 3e37))
