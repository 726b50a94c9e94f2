from __future__ import annotations

import numpy as np
import pytest

from tests import reference
from torchreid_genext import compat
from torchreid_genext.retrieval.metrics import Ranking, evaluate_rank, rank_matches


def world(queries: int = 30, gallery: int = 140, ids: int = 12, levels: int = 0, seed: int = 0):
    """Distances (Q, G) that favour matches a little, with labels; `levels` > 0 makes ties."""
    rng = np.random.default_rng(seed)
    q_pids, g_pids = rng.integers(1, ids, queries), rng.integers(0, ids, gallery)
    q_camids, g_camids = rng.integers(0, 4, queries), rng.integers(0, 4, gallery)
    distances = rng.random((queries, gallery)) - 0.3 * (q_pids[:, None] == g_pids)
    if levels:
        distances = np.round(distances * levels)
    return distances.astype(np.float32), q_pids, g_pids, q_camids, g_camids


def host_numbers(*arguments, **options):
    rank = compat.host().metrics.rank
    return rank.evaluate_rank(*arguments, use_cython=False, **options)


@pytest.mark.parametrize("seed", range(4))
def test_equals_torchreid(seed: int) -> None:
    found, expected = evaluate_rank(*world(seed=seed)), host_numbers(*world(seed=seed))
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-7)
    assert found[0].dtype == expected[0].dtype and found[1] == pytest.approx(expected[1], abs=1e-12)


@pytest.mark.parametrize("ties", ("stable", "pessimistic", "optimistic"))
@pytest.mark.parametrize("levels", (0, 4, 30))
def test_every_reading_of_ties_equals_the_naive_one(ties: str, levels: int) -> None:
    sample = world(levels=levels)
    ranking = rank_matches(*sample)
    cmc, mean_ap, mean_inp = reference.evaluate(*sample, max_rank=20, ties=ties)
    precision, first = {
        "stable": (ranking.average_precision, ranking.first_match_rank),
        "pessimistic": (ranking.pessimistic_precision, ranking.pessimistic_first_rank),
        "optimistic": (ranking.optimistic_precision, ranking.optimistic_first_rank),
    }[ties]
    assert np.nanmean(precision) == pytest.approx(mean_ap, abs=1e-12)
    assert (first[ranking.valid] == 1).mean() == pytest.approx(cmc[0])
    if ties == "stable":
        np.testing.assert_allclose(ranking.cmc(20), cmc, atol=1e-7)
        assert np.nanmean(ranking.inverse_negative_penalty) == pytest.approx(mean_inp, abs=1e-12)


def test_without_ties_the_readings_agree() -> None:
    ranking = rank_matches(*world())
    assert np.array_equal(ranking.pessimistic_precision, ranking.optimistic_precision, equal_nan=True)


def test_permuting_the_gallery_changes_nothing_without_ties() -> None:
    distances, q_pids, g_pids, q_camids, g_camids = world()
    order = np.random.default_rng(1).permutation(len(g_pids))
    shuffled = rank_matches(distances[:, order], q_pids, g_pids[order], q_camids, g_camids[order])
    np.testing.assert_array_equal(shuffled.average_precision, rank_matches(*world()).average_precision)


def test_perfect_distances_give_one_and_reversed_ones_the_least() -> None:
    _, q_pids, g_pids, q_camids, g_camids = world()
    perfect = (q_pids[:, None] != g_pids).astype(float)
    cmc, mean_ap = evaluate_rank(perfect, q_pids, g_pids, q_camids, g_camids)
    assert mean_ap == 1 and cmc.min() == 1
    assert evaluate_rank(-perfect, q_pids, g_pids, q_camids, g_camids)[1] < 0.2


def test_query_without_match_is_left_out() -> None:
    distances, q_pids, g_pids, q_camids, g_camids = world()
    q_pids[4] = 99
    ranking = rank_matches(distances, q_pids, g_pids, q_camids, g_camids)
    assert not ranking.valid[4] and np.isnan(ranking.average_precision[4])
    assert evaluate_rank(distances, q_pids, g_pids, q_camids, g_camids)[1] == pytest.approx(
        reference.evaluate(distances, q_pids, g_pids, q_camids, g_camids, 5)[1]
    )


def test_blocks_of_queries_concatenate() -> None:
    distances, q_pids, g_pids, q_camids, g_camids = world()
    parts = [
        rank_matches(distances[s], q_pids[s], g_pids, q_camids[s], g_camids)
        for s in (slice(0, 7), slice(7, None))
    ]
    np.testing.assert_array_equal(
        Ranking.concatenate(parts).average_precision, rank_matches(*world()).average_precision
    )


def test_curve_is_no_longer_than_the_gallery() -> None:
    assert len(evaluate_rank(*world(gallery=20), max_rank=50)[0]) == 20


def test_cuhk03_equals_torchreid_draw_by_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "bool", np.bool_, raising=False)  # torchreid uses a name that numpy has removed
    np.random.seed(5)
    expected = host_numbers(*world(), max_rank=8, use_metric_cuhk03=True)
    np.random.seed(5)
    found = evaluate_rank(*world(), max_rank=8, use_metric_cuhk03=True)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)
    assert found[1] == pytest.approx(expected[1], abs=1e-12)


def test_nan_distances_are_refused() -> None:
    distances, *labels = world()
    distances[3, 5] = np.nan
    with pytest.raises(ValueError, match="without NaN, got some for 1 queries, the first is 3"):
        evaluate_rank(distances, *labels)


def test_infinite_distances_rank_last() -> None:
    distances, *labels = world()
    distances[:, 3] = np.inf
    distances[0, 7] = -np.inf
    assert evaluate_rank(distances, *labels)[1] == pytest.approx(reference.evaluate(distances, *labels, 5)[1])


def test_wrong_shapes_and_protocols_are_named() -> None:
    distances, *labels = world()
    with pytest.raises(ValueError, match=r"got \(29, 140\) with 30 and 30 query, 140 and 140 gallery labels"):
        rank_matches(distances[:-1], *labels)
    with pytest.raises(ValueError, match="unknown protocol 'duke'; choose from market1501, .*streid"):
        rank_matches(distances, *labels, protocol="duke")


def test_no_match_at_all_is_an_error_and_not_a_number() -> None:
    distances, q_pids, *rest = world()
    with pytest.raises(ValueError, match="identity to appear in the gallery"):
        evaluate_rank(distances, q_pids + 100, *rest)
