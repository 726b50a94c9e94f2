from __future__ import annotations

import numpy as np
import pytest

from tests import reference
from tests.retrieval.test_metrics import world
from torchreid_genext.retrieval.metrics import PROTOCOLS, Ranking, block_shape, rank_matches, rank_streamed


def streamed(sample, asked: list | None = None, **options) -> Ranking:
    distances, *labels = sample

    def block(rows: slice, columns: slice) -> np.ndarray:
        if asked is not None:
            asked.append((rows, columns))
        return distances[rows, columns].copy()

    return rank_streamed(block, *labels, **options)


def assert_same(found: Ranking, expected: Ranking) -> None:
    assert found.protocol == expected.protocol
    for name in ("average_precision", "pessimistic_precision", "optimistic_precision", "first_match_rank",
                 "pessimistic_first_rank", "optimistic_first_rank", "inverse_negative_penalty",
                 "curves"):  # fmt: skip
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


@pytest.mark.parametrize("protocol", ("market1501", "streid", "genid"))
@pytest.mark.parametrize("levels", (0, 4, 30))
@pytest.mark.parametrize(("query_rows", "gallery_rows"), ((1, 1), (7, 33), (30, 139), (64, 1000)))
def test_blocks_of_any_shape_give_the_ranking_of_the_matrix(
    protocol: str, levels: int, query_rows: int, gallery_rows: int
) -> None:
    sample = world(levels=levels)
    found = streamed(sample, query_rows=query_rows, gallery_rows=gallery_rows, protocol=protocol)
    assert_same(found, rank_matches(*sample, protocol=protocol))


def test_cuhk03_samples_the_same_from_blocks() -> None:
    np.random.seed(3)
    expected = rank_matches(*world(), protocol="cuhk03", max_rank=8)
    np.random.seed(3)
    found = streamed(world(), query_rows=4, protocol="cuhk03", max_rank=8)
    assert_same(found, expected)
    np.testing.assert_array_equal(found.cmc(8), expected.cmc(8))


def test_one_block_of_the_gallery_is_asked_for_once() -> None:
    asked = []
    streamed(world(), asked, query_rows=10, gallery_rows=140)
    assert [rows.start for rows, _ in asked] == [0, 10, 20]


def test_blocks_without_matches_are_asked_for_once() -> None:
    distances, q_pids, g_pids, q_camids, g_camids = world()
    q_pids[:], g_pids[70:] = 5, 6
    asked = []
    streamed((distances, q_pids, g_pids, q_camids, g_camids), asked, query_rows=30, gallery_rows=10)
    starts = [columns.start for _, columns in asked]
    assert all(starts.count(start) == 1 for start in range(70, 140, 10))


def test_streid_leaves_out_junk_and_counts_unmatched_queries() -> None:
    distances, q_pids, g_pids, q_camids, g_camids = world(seed=2)
    g_pids[::7], q_pids[3] = -1, 99
    found = rank_matches(distances, q_pids, g_pids, q_camids, g_camids, protocol="streid")
    kept = g_pids != -1
    hits = [
        reference.ranked(row[kept], pid, camid, g_pids[kept], g_camids[kept])
        for row, pid, camid in zip(distances, q_pids, q_camids)
    ]
    expected = [reference.streid_average_precision(row) if row.any() else np.nan for row in hits]
    np.testing.assert_allclose(found.average_precision, expected, atol=1e-12)
    assert np.isnan(expected[3]) and found.counted.sum() == len(q_pids)
    assert found.mAP == pytest.approx(np.nansum(expected) / len(q_pids))
    assert found.cmc(1)[0] == pytest.approx(np.mean([row[0] for row in hits]))


def test_camstyle_is_market1501_by_the_trapezoidal_rule() -> None:
    distances, q_pids, g_pids, q_camids, g_camids = world(seed=2)
    q_pids[3] = 99
    labels = (q_pids, g_pids, q_camids, g_camids)
    found, plain = (rank_matches(distances, *labels, protocol=name) for name in ("camstyle", "market1501"))
    hits = [
        reference.ranked(row, pid, camid, g_pids, g_camids)
        for row, pid, camid in zip(distances, q_pids, q_camids)
    ]
    expected = [reference.streid_average_precision(row) for row in hits if row.any()]
    assert found.mAP == pytest.approx(np.mean(expected)) and found.mAP < plain.mAP
    np.testing.assert_array_equal(found.cmc(5), plain.cmc(5))


def test_genid_counts_every_image_and_gives_recall_within_the_first_25() -> None:
    distances, q_pids, g_pids, q_camids, g_camids = world(seed=2)
    g_pids[::7], q_pids[3] = -1, 99
    far = np.flatnonzero(g_pids == q_pids[0])
    distances[0, far] = distances[0].max() + 1  # all matches are there, none among the first 25
    found = rank_matches(distances, q_pids, g_pids, q_camids, g_camids, protocol="genid")
    nowhere = np.full(len(g_camids), -9)
    hits = [reference.ranked(row, pid, -1, g_pids, nowhere) for row, pid in zip(distances, q_pids)]
    np.testing.assert_allclose(found.curves, [reference.recall_curve(row) for row in hits], atol=1e-12)
    assert (found.curves[[0, 3]] == 1).all() and found.valid.sum() == len(q_pids) - 1
    assert found.mAP == pytest.approx(
        sum(reference.average_precision(row) for row in hits if row.any()) / len(q_pids)
    )
    assert len(found.cmc(50)) == 25 and found.rank1_bounds == (found.cmc(1)[0],) * 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_queries_without_match_alone_give_zero_rates(protocol: str) -> None:
    distances, q_pids, *rest = world(queries=4)
    ranking = rank_matches(distances, q_pids + 100, *rest, protocol=protocol)
    assert not ranking.valid.any() and ranking.mAP == 0


def test_a_block_is_whole_rows_as_long_as_enough_of_them_fit() -> None:
    assert block_shape(11_659, 82_161) == (306, 82_161)
    assert block_shape(20, 82_161) == (20, 82_161)
    rows, columns = block_shape(11_659, 100_000_000)
    assert rows == 512 and 90 * 2**20 < rows * columns * 4 <= 96 * 2**20
    assert block_shape(100, 1000, 64 * 4000) == (64, 1000)
    assert block_shape(10, 1000, 100) == (10, 2)
    assert block_shape(10, 1000, 100, whole_rows=True) == (1, 1000)


@pytest.mark.parametrize(
    ("options", "message"),
    (
        ({"protocol": "duke"}, "unknown protocol 'duke'; choose from market1501, .*streid"),
        ({"memory_limit": 0}, "expected memory_limit >= 1 byte, got 0"),
        ({"gallery_rows": -3}, "expected gallery_rows >= 1, got -3"),
    ),
)
def test_bad_arguments_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        streamed(world(), **options)


def test_bad_blocks_are_named() -> None:
    distances, *labels = world()
    with pytest.raises(ValueError, match=r"expected distances of shape \(8, 20\), got \(8, 21\)"):
        rank_streamed(lambda r, c: np.zeros((8, 21)), *labels, query_rows=8, gallery_rows=20)
    distances[17, 139] = np.nan
    with pytest.raises(ValueError, match="without NaN, got some for 1 queries, the first is 17"):
        streamed((distances, *labels), query_rows=8, gallery_rows=20)


def test_labels_that_do_not_fit_are_named() -> None:
    _, q_pids, g_pids, q_camids, g_camids = world()
    with pytest.raises(ValueError, match="as many cameras as identities, got 30 and 29 of queries"):
        rank_streamed(lambda r, c: np.zeros((1, 1)), q_pids, g_pids, q_camids[:-1], g_camids)
