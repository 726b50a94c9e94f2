"""Open-set figures against their definitions, on blocks of any size and with ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.reference import open_set as reference
from torchreid_genext.retrieval import open_set
from torchreid_genext.retrieval.protocol import Protocol, RetrievalSet, compare


def images(seed: int, number: int, digits: bool = False) -> RetrievalSet:
    """Images of 12 people, junk among them, of small whole numbers: there are ties; or with many digits."""
    generator = torch.Generator().manual_seed(seed)
    pids = torch.randint(0, 12, (number,), generator=generator)
    features = torch.randint(-2, 3, (number, 4), generator=generator) + 1.0 * (pids % 5)[:, None]
    features += 1 + torch.rand(number, 4, generator=generator) * digits
    return RetrievalSet(features, pids - (pids == 11) * 12, torch.randint(0, 3, (number,), generator=generator))


def expected(comparison, own_camera=False):
    labels = [list(zip(s.pids.tolist(), s.camids.tolist())) for s in (comparison.query, comparison.gallery)]
    junk = (comparison.query.pids == -1).numpy()
    query = [label for label, bad in zip(labels[0], junk) if not bad]
    rows = comparison.matrix().numpy()[~junk]
    return reference.pairs(rows, query, labels[1], own_camera), [pid for pid, _ in query]


@pytest.mark.parametrize("chain", ["base", "l2", "rerank(k1=5,k2=2)"])
@pytest.mark.parametrize("digits", [False, True])
@pytest.mark.parametrize("limit", [None, 2000])
def test_figures_are_those_of_the_definitions(chain: str, digits: bool, limit: int | None) -> None:
    gallery = images(2, 60, digits)
    pids = gallery.pids.where(gallery.pids < 5, gallery.pids + 50)  # people whom nobody asks for
    gallery = RetrievalSet(gallery.features, pids, gallery.camids)
    comparison = compare(images(1, 30, digits), gallery, chain, memory_limit=limit)
    report = comparison.rank()
    found = comparison.open_set(report, thresholds={0.5: 0.75, 0.25: 3.0})
    pairs, pids = expected(comparison)
    eer, tpr = reference.verification(pairs, open_set.FALSE_POSITIVE_RATES)
    assert found.eer == pytest.approx(eer, abs=1e-12)
    assert [point.tpr for point in found.verification.values()] == pytest.approx(tpr, abs=1e-12)
    for point in (*found.verification.values(), *found.given.values()):
        assert (point.tpr, point.fpr) == pytest.approx(reference.rates(pairs, point.threshold), abs=1e-12)
    assert {rate: point.threshold for rate, point in found.given.items()} == {0.5: 0.75, 0.25: 3.0}
    halves = open_set._halves(np.array(pids)[report.ranking.counted[comparison.query.pids != -1]], 0)
    for rate, value in found.identification.items():
        folds = [{pid for pid, half in halves.items() if half == side} for side in (0, 1)]
        assert value == pytest.approx(
            np.mean([reference.detection(pairs, pids, out, rate) for out in folds]), abs=1e-12
        )


def test_protocols_without_cameras_count_every_pair() -> None:
    sets = [RetrievalSet(s.features, s.pids) for s in (images(1, 61), images(2, 90))]
    comparison = compare(*sets)
    report = comparison.rank(Protocol("plain", own_camera=True))
    found = comparison.open_set(report)
    query, gallery = ((s.pids[s.pids != -1])[:, None] for s in sets)
    same = query == gallery.t()
    assert (found.genuine, found.impostors) == (int(same.sum()), int((~same).sum()))


def test_blank_gallery_images_are_never_accepted_at_a_finite_distance() -> None:
    gallery = images(2, 90)
    features = gallery.features * (torch.arange(90) % 4 > 0)[:, None]
    comparison = compare(images(1, 30), RetrievalSet(features, gallery.pids, gallery.camids))
    found = comparison.open_set(comparison.rank(), thresholds={0.5: 1e9, 1.0: np.inf})
    assert (found.given[1.0].tpr, found.given[1.0].fpr) == (1, 1)
    assert found.given[0.5].fpr < 0.8 and found.given[0.5].tpr < 0.8
    pairs, _ = expected(comparison)
    assert found.eer == pytest.approx(reference.verification(pairs, [])[0])


def test_one_person_gives_no_identification_and_no_impostor() -> None:
    one = RetrievalSet(torch.eye(4), [5] * 4, [0, 1, 2, 3])
    comparison = compare(one, one)
    found = comparison.open_set(comparison.rank())
    assert found.impostors == 0 and found.verification[1e-2].tpr == 1
    assert found.to_json()["dir_at_far"] == {"0.1": None, "0.01": None}


def test_equal_distances_everywhere_are_counted() -> None:
    same = RetrievalSet(torch.ones(6, 3), [1, 1, 2, 2, 3, 3], [0, 1] * 3)
    comparison = compare(same, same)
    found = comparison.open_set(comparison.rank())
    assert (found.eer, found.verification[1e-3].tpr, found.identification[0.1]) == (1, 0, 0)
    assert found.to_json()["tpr_at_fpr"]["0.001"]["threshold"] is None


def test_a_rate_may_be_reached_but_not_exceeded() -> None:
    places = torch.tensor([2.0, 1.0, *range(3, 102)])[:, None]  # the match, then 100 of others: one is nearer
    gallery = RetrievalSet(places, [7] + [8] * 100, [1] * 101)
    comparison = compare(RetrievalSet(torch.zeros(1, 1) + 1e-3, [7], [0]), gallery)
    found = comparison.open_set(comparison.rank())
    assert (found.verification[1e-2].tpr, found.verification[1e-2].fpr) == (1, 1e-2)
    assert found.verification[1e-3].tpr == 0


def test_a_report_of_other_queries_is_refused() -> None:
    comparison = compare(images(1, 61), images(2, 90))
    other = compare(images(3, 60), images(2, 90)).rank()
    with pytest.raises(ValueError, match="expected a ranking of 61 queries with matches, got 60"):
        comparison.open_set(other)


@pytest.mark.parametrize("name", ["market1501", "camstyle"])
def test_cameras_are_averaged_over_queries_of_one_and_matches_of_another(name: str) -> None:
    comparison = compare(images(1, 61), images(2, 90), memory_limit=5000)
    report = comparison.rank(name)
    cameras = report.cameras
    assert cameras.cameras.tolist() == [0, 1, 2] and np.isnan(np.diag(cameras.mAP)).all()
    query, gallery = comparison.query, comparison.gallery
    for a, b in [(0, 1), (2, 0)]:
        expected = []
        for row in (query.camids == a).nonzero()[:, 0]:
            mine = gallery.pids == query.pids[row]
            if query.pids[row] < 0 or not (mine & (gallery.camids == b)).any():
                continue
            kept = ~mine | (gallery.camids == b)  # the person's images of other cameras are left aside
            alone = compare(query.select(row[None]), gallery.select(kept)).rank(name)
            expected.append(alone.mAP)
        assert cameras.mAP[a, b] == pytest.approx(np.mean(expected), abs=1e-12)
        assert cameras.queries[a, b] == len(expected)


def test_hard_and_easy_queries_are_those_of_the_lowest_and_highest_precision() -> None:
    report = compare(images(1, 61), images(2, 90)).rank()
    valid = report.average_precision[report.ranking.valid]
    np.testing.assert_array_equal(report.average_precision[report.hardest(7)], np.sort(valid)[:7])
    np.testing.assert_array_equal(report.average_precision[report.easiest(7)], np.sort(valid)[::-1][:7])
    assert len(report.hardest(1000)) == report.num_valid_queries < 61
