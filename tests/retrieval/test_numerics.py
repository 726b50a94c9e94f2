"""The same numbers in every setting of torch, in every block, in any order and at any scale."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tests.allocations import peak_bytes
from torchreid_genext.retrieval._blocks import blocks, blocks_within, check_limit
from torchreid_genext.retrieval._numerics import from_fixed, products, to_fixed, unit
from torchreid_genext.retrieval.centralization import fuse_generated, id2, nfc
from torchreid_genext.retrieval.neighbours import at_most, nearest
from torchreid_genext.retrieval.protocol import Report, RetrievalSet, compare, evaluate
from torchreid_genext.retrieval.reranking import KReciprocal, k_reciprocal, k_reciprocal_distances
from torchreid_genext.retrieval.spaces import FeatureSpace, RowSpace, greatest_distances
from torchreid_genext.retrieval.steps.expansion import alpha_query_expansion, database_augmentation
from torchreid_genext.retrieval.steps.nfc import mutual_neighbours, mutual_pairs

ROWS, QUERIES = 90, 20


def crowd(width: int = 24) -> Tensor:
    """Rows around common centres, some of them repeated."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(15, width, generator=generator).repeat(6, 1)
    x += 0.4 * torch.randn(ROWS, width, generator=generator)
    x[50:55] = x[2]
    return x


def reranked(x: Tensor) -> Tensor:
    space = RowSpace(lambda rows: (x[rows, None] - x).square().sum(2), len(x))
    return KReciprocal.of(space, QUERIES, k1=8, k2=3)(torch.arange(QUERIES))


def of_matrices(x: Tensor) -> Tensor:
    d = (x[:, None] - x).square().sum(2)
    return k_reciprocal_distances(d[:QUERIES, QUERIES:], d[:QUERIES, :QUERIES], d[QUERIES:, QUERIES:])


WORK: dict[str, Callable[[Tensor], Tensor | tuple[Tensor, ...]]] = {
    "nearest": lambda x: nearest(x, k=5),
    "nearest in bf16": lambda x: nearest(x, k=5, precision="bf16"),
    "nfc": lambda x: nfc(x, k1=4, k2=4),
    "mutual_neighbours": lambda x: mutual_neighbours(x, k1=4, k2=4),
    "id2": lambda x: id2(x, torch.arange(len(x)) % 7),
    "fuse": lambda x: fuse_generated(x[:30], x[30:].view(30, 2, -1), normalize_before=True),
    "alpha_qe": lambda x: alpha_query_expansion(x[:QUERIES], x[QUERIES:]),
    "dba": database_augmentation,
    "k_reciprocal": lambda x: k_reciprocal(x[:QUERIES], x[QUERIES:], k1=8, k2=3),
    "k_reciprocal cosine": lambda x: k_reciprocal(x[:QUERIES], x[QUERIES:], metric="cosine"),
    "rows": reranked,
    "matrices": of_matrices,
    "greatest": greatest_distances,
}


def same(found: Tensor | tuple[Tensor, ...], expected: Tensor | tuple[Tensor, ...]) -> bool:
    pairs = zip(found, expected) if isinstance(found, tuple) else [(found, expected)]
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def newer_tf32_switch() -> Iterator[None]:
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


SETTINGS = {
    "autocast bf16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast fp16": lambda: torch.autocast("cpu", torch.float16),
    "default dtype float64": default_dtype,
    "deterministic algorithms": deterministic,
    "inference mode": torch.inference_mode,
} | ({"newer TF32 switch": newer_tf32_switch} if hasattr(torch.backends.cuda.matmul, "fp32_precision") else {})


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("work", WORK)
def test_settings_of_torch_change_no_bit(work: str, setting: str) -> None:
    features = crowd()
    expected = WORK[work](features)
    with SETTINGS[setting]():
        found = WORK[work](features)
    assert same(found, expected)


@pytest.mark.parametrize("work", WORK)
def test_inference_tensors_are_read_outside_of_inference_mode(work: str) -> None:
    with torch.inference_mode():
        features = crowd() * 1
    assert features.is_inference()
    assert same(WORK[work](features), WORK[work](crowd()))


def test_autocast_goes_on_behind_the_call() -> None:
    x = crowd()
    with torch.autocast("cpu", torch.bfloat16):
        nearest(x, k=2)
        assert torch.is_autocast_enabled("cpu") and (x @ x.t()).dtype == torch.bfloat16


def test_autocast_of_another_thread_is_its_own() -> None:
    x, found = crowd(), {}
    expected = {name: work(x) for name, work in WORK.items()}

    def run(name: str) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            found[name] = WORK[name](x)

    threads = [threading.Thread(target=run, args=(name,)) for name in WORK]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(found[name], expected[name]) for name in WORK)


@pytest.mark.parametrize(
    "work", ("mutual_neighbours", "id2", "fuse", "alpha_qe", "dba", "k_reciprocal", "k_reciprocal cosine")
)
@pytest.mark.parametrize("scale", (2.0**-110, 2.0**-70, 2.0**66, 2.0**100))
def test_scale_of_features_changes_no_ranking(work: str, scale: float) -> None:
    """Squares of these leave float32's range."""
    assert same(WORK[work](crowd() * scale), WORK[work](crowd()))


@pytest.mark.parametrize("scale", (2.0**-100, 2.0**-60, 2.0**61, 2.0**100))
@pytest.mark.parametrize("precision", ("fp32", "bf16"))
def test_neighbours_are_found_at_any_scale(scale: float, precision: str) -> None:
    x = crowd()
    distances, indices = nearest(x, k=5, precision=precision)
    found = nearest(x * scale, k=5, precision=precision)
    assert torch.equal(found[1], indices)
    assert torch.equal(found[0], (distances * scale) * scale)  # infinite, or zero, where float32 ends
    assert torch.equal(nfc(x * scale), nfc(x) * scale)


def test_two_sets_have_one_scale() -> None:
    x, y = 2.0**70 * crowd()[:9], crowd()
    assert torch.equal(nearest(x, y, k=3)[1], nearest(2.0**-8 * x, 2.0**-8 * y, k=3)[1])


# -- unit ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ((40, 13), (5, 4, 13)))
def test_unit_is_normalize_bit_for_bit(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape) * 10.0 ** torch.randint(-8, 9, shape[:-1])[..., None]
    assert torch.equal(unit(x), normalize(x, dim=-1))


@pytest.mark.parametrize("scale", (2.0**-148, 2.0**-70, 2.0**60, 2.0**126))
def test_rows_of_any_length_become_of_length_one(scale: float) -> None:
    x = torch.randn(30, 7).sign() * torch.tensor([1.0, 0.5, 1.5, 1.0, 1.0, 0.5, 1.0])
    mixed = torch.cat([x[:10], x[10:20] * scale, torch.zeros(1, 7)])
    found = unit(mixed)
    if scale > 2.0**-140:  # below, digits are lost in the features themselves
        assert torch.equal(found[:20], unit(x[:20]))
    torch.testing.assert_close(torch.linalg.vector_norm(found[:20], dim=1), torch.ones(20))
    assert torch.equal(found[20], torch.zeros(7))


# -- products -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", (1, 7, 33, 512))
@pytest.mark.parametrize("rows", (1, 2, 3, 5, 16, 33))
def test_a_pair_has_the_same_bits_in_any_block(rows: int, width: int) -> None:
    x, y = torch.randn(40, width), torch.randn(131, width)
    whole = products(x, y)
    for columns in (slice(0, 131), slice(3, 4), slice(5, 12), slice(16, 49), slice(0, 129)):
        assert torch.equal(products(x[:rows], y[columns]), whole[:rows, columns])


@pytest.mark.parametrize("columns", (1, 15, 33, 101, 1001))
def test_equal_rows_have_equal_distances_in_blocks_of_odd_size(columns: int) -> None:
    for rows in (1, 3, 17):
        x, base = torch.randn(rows, 48), torch.randn(7, 48)
        y = base[torch.arange(columns) % 7]
        squares = x.square().sum(1), y.square().sum(1)
        found = products(x, y, times=-2, plus=squares)
        assert all(torch.equal(found[:, i], found[:, i % 7]) for i in range(columns))
        np.testing.assert_allclose(found, torch.cdist(x.double(), y.double()).square(), rtol=1e-4)


@pytest.mark.parametrize("gallery", (33, 49, 257))
def test_reranked_distances_of_duplicates_are_equal(gallery: int) -> None:
    base = torch.randn(3, 24)
    y = base[torch.arange(gallery) % 3]
    block = FeatureSpace.of(torch.randn(3, 24), y).block(slice(0, 3), slice(3, 3 + gallery))
    assert all(torch.equal(block[:, i], block[:, i % 3]) for i in range(gallery))


# -- fixed point --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", (torch.int32, torch.int64, torch.float64))
def test_sums_in_fixed_point_have_the_same_bits_in_any_order(dtype: torch.dtype) -> None:
    values = torch.rand(5000) ** 8  # of many magnitudes, so that float64 does not hold their sums, either
    values /= values.sum()
    orders = [torch.randperm(5000) for _ in range(20)]
    totals = {to_fixed(values[order], dtype).sum(dtype=dtype).item() for order in orders}
    assert len(totals) == 1
    assert float(from_fixed(torch.tensor(totals.pop(), dtype=dtype))) == pytest.approx(1, abs=1e-5)
    assert len({values[order].numpy().cumsum()[-1] for order in orders}) > 1  # in float32 they differ


# -- limits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", (0, -1, True, 1.5, "96"))
@pytest.mark.parametrize("work", (nearest, nfc, database_augmentation, id2, k_reciprocal, greatest_distances))
def test_memory_limits_that_are_none_are_refused(work: Callable, limit: object) -> None:
    x = crowd()
    first = {nearest: (x,), id2: (x, torch.zeros(ROWS)), k_reciprocal: (x[:9], x[9:])}.get(work, (x,))
    options = {"k": 2} if work is nearest else {}
    with pytest.raises(ValueError, match="expected memory_limit (>= 1 byte|to be an integer), got "):
        work(*first, **options, memory_limit=limit)


@pytest.mark.parametrize("chunk", (0, -3, True, 2.0))
def test_chunks_that_are_none_are_refused_before_work(chunk: object) -> None:
    with pytest.raises(ValueError, match="expected chunk (>= 1|to be an integer), got "):
        nearest(crowd(), k=2, chunk=chunk)


@pytest.mark.parametrize("k", (True, 2.0, 2.5, "2"))
def test_numbers_of_neighbours_are_integers(k: object) -> None:
    with pytest.raises(ValueError, match=r"expected k in 1\.\.89, got "):
        nearest(crowd(), k=k)


def test_blocks_cover_the_rows_and_are_refused_at_once() -> None:
    assert list(blocks(7, 3)) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert list(blocks(slice(4, 9), 3)) == [slice(4, 7), slice(7, 9)]
    assert list(blocks_within(5, 10, 25)) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert list(blocks_within(2, 10, 1)) == [slice(0, 1), slice(1, 2)]
    assert list(blocks_within(2, 0, None)) == [slice(0, 2)]
    assert check_limit(None) == 96 * 2**20 and check_limit(np.int64(5)) == 5
    with pytest.raises(ValueError, match="expected query_rows >= 1, got 0"):
        blocks(7, 0, "query_rows")


def test_more_neighbours_than_there_are_mean_all_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert at_most("here", k1=(20, 7), k2=(3, 7), k3=(8, 7)) == [7, 3, 7]
    assert [record.getMessage() for record in caplog.records] == [
        "here: expected at most as many as there are, got k1=20 of 7, k3=8 of 7; taking all"
    ]
    for wrong in (0, -1, True, 2.0, None):
        with pytest.raises(ValueError, match="expected k (>= 1|to be an integer), got "):
            at_most("here", k=(wrong, 7))


CLAMPED = {
    "nfc": (lambda x, k: nfc(x, k1=k, k2=k), 11),
    "mutual_neighbours": (lambda x, k: mutual_neighbours(x, k1=k, k2=k), 11),
    "alpha_qe": (lambda x, k: alpha_query_expansion(x[:4], x[4:], k=k), 8),
    "dba": (lambda x, k: database_augmentation(x, k=k), 11),
    "k_reciprocal": (lambda x, k: k_reciprocal(x[:4], x[4:], k1=k, k2=2), 11),
    "k_reciprocal k2": (lambda x, k: k_reciprocal(x[:4], x[4:], k1=2, k2=k), 12),
}


@pytest.mark.parametrize("name", CLAMPED)
def test_all_there_are_is_what_too_many_give(name: str, caplog: pytest.LogCaptureFixture) -> None:
    work, most = CLAMPED[name]
    with caplog.at_level(logging.WARNING):
        expected = work(crowd()[:12], most)
        assert not caplog.records
        found = work(crowd()[:12], 20)
    assert same(found, expected)
    assert len(caplog.records) == 1 and f"=20 of {most}" in caplog.text


@pytest.mark.parametrize("k", (0, -1, True, 2.0))
@pytest.mark.parametrize("name", CLAMPED)
def test_numbers_that_are_none_are_refused(name: str, k: object) -> None:
    with pytest.raises(ValueError, match="expected k[12]? (>= 1|to be an integer), got "):
        CLAMPED[name][0](crowd()[:12], k)


def test_a_set_of_one_image_has_no_neighbours() -> None:
    x = crowd()[:1]
    for options in ({}, {"self_distance": 5.0}):
        assert torch.equal(nfc(x, **options), x)
    assert [len(part) for part in mutual_neighbours(x)] == [0, 0]
    assert torch.equal(database_augmentation(x), normalize(x))


# -- memory -------------------------------------------------------------------------------------------------

MANY = torch.randn(2000, 16, generator=torch.Generator().manual_seed(0))


def described(limit: int) -> KReciprocal:
    space = FeatureSpace.of(MANY[:40], MANY[40:], memory_limit=limit)
    return KReciprocal.of(space, 40, memory_limit=limit)


def distances_of(limit: int) -> Callable[[], Tensor]:
    reranking = described(limit)
    return lambda: reranking(slice(0, 40))


LONG = torch.randn(600, 512, generator=torch.Generator().manual_seed(0))


def sets_of(features: Tensor) -> tuple[RetrievalSet, RetrievalSet]:
    rows = torch.arange(len(features))
    images = RetrievalSet(features, rows % 150, rows // 150 % 2)
    return images.select(slice(450)), images.select(slice(450, None))


def evaluated(
    chain: str, protocol: str = "market1501", features: Tensor = MANY
) -> Callable[[int], Callable[[], Report]]:
    sets = sets_of(features)
    return lambda limit: lambda: evaluate(*sets, chain, protocol=protocol, memory_limit=limit)


# A piece of work for a limit, and what may come on top of it: results, lists and sparse descriptions.
BOUNDED: dict[str, tuple[Callable[[int], Callable[[], Any]], int]] = {
    "nfc": (lambda limit: lambda: nfc(MANY, k1=20, k2=2, memory_limit=limit), 1_600_000),
    "mutual pairs": (lambda limit: lambda: mutual_pairs(LISTS, 20, memory_limit=limit), 300_000),
    "id2 of many": (lambda limit: lambda: id2(LONG, torch.arange(600) // 2, memory_limit=limit), 200_000),
    "id2 of one": (lambda limit: lambda: id2(LONG, torch.zeros(600), memory_limit=limit), 200_000),
    "descriptions": (lambda limit: lambda: described(limit), 7_000_000),
    "distances": (distances_of, 700_000),
    "evaluation": (evaluated("base"), 100_000),
    "evaluation of long features": (evaluated("base", features=LONG), 800_000),
    "evaluation of draws": (evaluated("base", "cuhk03"), 100_000),
    "evaluation of normalised copies": (evaluated("l2"), 300_000),
    "evaluation of centralized": (evaluated("nfc(k1=20,k2=2)"), 1_700_000),
    "evaluation of re-ranked": (evaluated("rerank"), 7_000_000),
}
LISTS = nearest(MANY, k=20)[1]


@pytest.mark.parametrize("name", BOUNDED)
def test_memory_limit_holds(name: str) -> None:
    work, on_top = BOUNDED[name]
    for limit in (300_000, 4_000_000):
        assert peak_bytes(work(limit)) < limit + on_top


@pytest.mark.parametrize("limit", (200_000, 300_000))
def test_ranking_after_re_ranking_keeps_to_blocks_of_whole_rows(limit: int) -> None:
    reranked = compare(*sets_of(MANY), "rerank", memory_limit=limit)
    # A block, and what re-ranking needs for it, take the limit each; all distances are 2.8 MB.
    assert peak_bytes(reranked.rank) < 2 * limit + 400_000


@pytest.mark.parametrize("name", ("nfc", "mutual pairs", "id2 of many", "id2 of one", "distances"))
def test_memory_limit_changes_no_bit(name: str) -> None:
    work = BOUNDED[name][0]
    assert same(work(100_000)(), work(4_000_000)())
