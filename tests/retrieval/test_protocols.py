"""Protocols as values: everybody's own, without cameras, with seeds; junk; intervals over people."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import reference
from torchreid_genext.retrieval.metrics import (
    PROTOCOLS,
    Protocol,
    evaluate_rank,
    rank_matches,
)
from torchreid_genext.retrieval.protocol import (
    RetrievalSet,
    bootstrap,
    bootstrap_difference,
    compare,
    evaluate,
)


def world(people: int = 12, images: int = 4, seed: int = 0, **columns: object) -> RetrievalSet:
    generator = torch.Generator().manual_seed(seed)
    pids = torch.arange(people).repeat_interleave(images)
    centres = torch.randn(people, 6, generator=torch.Generator().manual_seed(9))
    features = centres[pids] + 1.5 * torch.randn(len(pids), 6, generator=generator)
    camids = torch.arange(images).repeat(people) % 3
    return RetrievalSet(features, pids, **{"camids": camids} | columns)


QUERY, GALLERY = world(seed=1), world(images=7, seed=2)


def test_a_protocol_of_ones_own_is_what_its_fields_say() -> None:
    own = Protocol("mine", junk_pid=3, own_camera=True, denominator="all", trapezoidal=True)
    distances = compare(QUERY, GALLERY).matrix().numpy()
    found = compare(QUERY, GALLERY).rank(own)
    precisions = []
    for row, pid in zip(distances, QUERY.pids.tolist()):
        order = np.argsort(row, kind="stable")
        order = order[GALLERY.pids.numpy()[order] != 3]
        hits = GALLERY.pids.numpy()[order] == pid
        precisions.append(reference.streid_average_precision(hits) if hits.any() else 0.0)
    assert found.mAP == pytest.approx(np.mean(precisions), abs=1e-9)
    assert found.protocol == "mine" and found.num_valid_queries == len(QUERY) - 4


def test_sets_without_cameras_are_evaluated_where_the_own_camera_counts() -> None:
    bare = [RetrievalSet(images.features.numpy(), images.pids.numpy()) for images in (QUERY, GALLERY)]
    plain = Protocol("plain", own_camera=True)
    assert evaluate(*bare, protocol=plain).mAP == evaluate(QUERY, GALLERY, protocol=plain).mAP
    with pytest.raises(ValueError, match="expected cameras of the queries under protocol market1501"):
        evaluate(*bare)


@pytest.mark.parametrize("protocol", ("market1501", "camstyle", "streid", "cuhk03"))
def test_junk_changes_nothing(protocol: str) -> None:
    junk = world(people=1, images=9, seed=5, camids=[0] * 9)
    features = torch.cat([GALLERY.features, QUERY.features[:9]])  # as near as can be
    camids = torch.cat([GALLERY.camids, junk.camids])
    crowded = RetrievalSet(features, torch.cat([GALLERY.pids, torch.full((9,), -1)]), camids)
    expected, found = (evaluate(QUERY, some, protocol=protocol) for some in (GALLERY, crowded))
    assert found.mAP == expected.mAP and found.cmc == expected.cmc


def test_junk_is_searched_for_in_vain() -> None:
    query = RetrievalSet(QUERY.features[:3], [-1, 1, 2], QUERY.camids[:3])
    gallery = RetrievalSet(GALLERY.features, torch.where(GALLERY.pids == 5, -1, GALLERY.pids), GALLERY.camids)
    found = evaluate(query, gallery, protocol="streid")
    assert found.first_match_rank[0] == 0 and found.num_valid_queries == 2


def test_seeded_draws_are_the_same_for_every_chain_and_block() -> None:
    first = evaluate(QUERY, GALLERY, protocol="cuhk03")
    np.random.seed(1)
    again = evaluate(QUERY, GALLERY, protocol="cuhk03", memory_limit=1000)
    assert first.cmc == again.cmc
    assert first.cmc != evaluate(QUERY, GALLERY, protocol="cuhk03", seed=1).cmc
    doubled = RetrievalSet(2 * GALLERY.features, GALLERY.pids, GALLERY.camids)
    same = evaluate(RetrievalSet(2 * QUERY.features, QUERY.pids, QUERY.camids), doubled, protocol="cuhk03")
    assert bootstrap_difference(first, same)["rank1"] == (0, 0, 0)


def test_unseeded_draws_are_those_of_numpys_global_generator() -> None:
    distances = compare(QUERY, GALLERY).matrix().numpy()
    labels = [s.numpy() for s in (QUERY.pids, GALLERY.pids, QUERY.camids, GALLERY.camids)]
    np.random.seed(4)
    cmc, _ = evaluate_rank(distances, *labels, max_rank=8, use_metric_cuhk03=True)
    np.random.seed(4)
    unseeded = replace(PROTOCOLS["cuhk03"], seed=None)
    np.testing.assert_array_equal(cmc, rank_matches(distances, *labels, protocol=unseeded, max_rank=8).cmc(8))


def test_unknown_rules_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown curve 'roc'; choose from cmc, sampled, recall"):
        Protocol("mine", curve="roc")
    with pytest.raises(ValueError, match="unknown denominator 'some'; choose from matched, all"):
        Protocol("mine", denominator="some")
    with pytest.raises(ValueError, match="expected max_rank >= 1, got -3"):
        evaluate_rank(np.ones((1, 2)), [0], [0, 1], [0], [1, 1], max_rank=-3)


@pytest.mark.parametrize("protocol", ("market1501", "cuhk03", "streid", "genid"))
def test_a_difference_is_that_of_the_columns_beside_it(protocol: str) -> None:
    strangers = RetrievalSet(GALLERY.features, GALLERY.pids + (GALLERY.pids > 8) * 50, GALLERY.camids)
    before, after = (evaluate(QUERY, strangers, chain, protocol=protocol) for chain in ("base", "nfc"))
    change = bootstrap_difference(before, after, samples=50)
    assert change["mAP"][0] == pytest.approx(after.mAP - before.mAP, abs=1e-12)
    assert change["rank1"][0] == pytest.approx(after.rank(1) - before.rank(1), abs=1e-6)
    value, low, high = bootstrap(after, samples=200)["mAP"]
    assert value == after.mAP and low < value < high


def test_people_are_drawn_not_queries() -> None:
    """One person with many queries weighs as one draw: the interval is that of few people."""
    report = evaluate(QUERY, GALLERY)
    repeated = [i for i in range(len(QUERY)) for _ in range(20)]
    crowd = evaluate(QUERY.select(torch.tensor(repeated)), GALLERY)
    narrow, wide = (np.diff(bootstrap(r, samples=500)["mAP"][1:]) for r in (report, crowd))
    assert wide == pytest.approx(narrow, rel=1e-6)


def test_reports_of_other_queries_or_protocols_are_not_compared() -> None:
    base = evaluate(QUERY, GALLERY)
    with pytest.raises(ValueError, match="expected two reports under one protocol, got market1501 and camstyle"):
        bootstrap_difference(base, evaluate(QUERY, GALLERY, protocol="camstyle"))
    others = RetrievalSet(QUERY.features, QUERY.pids.flip(0), QUERY.camids)
    with pytest.raises(ValueError, match="expected two reports of the same queries"):
        bootstrap_difference(base, evaluate(others, GALLERY))


def test_density_is_over_the_people_that_are_asked_for() -> None:
    distractors = torch.cat([GALLERY.features, torch.randn(20, 6)])
    pids, camids = torch.cat([GALLERY.pids, torch.full((20,), 99)]), torch.cat([GALLERY.camids, torch.zeros(20)])
    crowded = RetrievalSet(distractors, pids, camids)
    assert evaluate(QUERY, crowded).id2_gallery == evaluate(QUERY, GALLERY).id2_gallery


def test_a_lone_query_is_served_by_every_chain() -> None:
    lone = QUERY.select(slice(0, 1))
    for chain in ("camera_norm", "nfc", "camera_norm+nfc(neighbours=cross_camera)", "rerank", "aqe", "dba"):
        assert 0 < evaluate(lone, GALLERY, chain).mAP <= 1
    expected = evaluate(lone, GALLERY, "camera_norm(statistics=gallery)")
    assert evaluate(lone, GALLERY, "camera_norm").mAP == expected.mAP


def test_zero_rows_rank_last_and_are_named(caplog: pytest.LogCaptureFixture) -> None:
    features = GALLERY.features.clone()
    features[4] = 0
    blank = RetrievalSet(features, GALLERY.pids, GALLERY.camids, paths=[f"{i}.jpg" for i in range(len(GALLERY))])
    assert "4.jpg" in caplog.text
    for chain in ("base", "l2", "camera_norm", "nfc", "rerank"):
        distances = compare(QUERY, blank, chain).matrix()
        assert torch.isinf(distances[:, 4]).all() and distances.isinf().sum() == len(QUERY), chain


def test_distances_far_from_the_origin_are_computed_centred() -> None:
    near, far = (
        [
            RetrievalSet(s.features + shift, s.pids, s.camids, generated=s.features[:, None] + shift)
            for s in (QUERY, GALLERY)
        ]
        for shift in (0, 3000)
    )
    expected = evaluate(*near, "fuse(eta=0.5)").mAP
    assert evaluate(*far, "fuse(eta=0.5)").mAP == pytest.approx(expected, abs=1e-3)
    assert evaluate(*far).mAP != pytest.approx(expected, abs=1e-3)  # torchreid's own digits


def test_equal_images_tie_wherever_they_stand() -> None:
    tripled = GALLERY.select(torch.arange(len(GALLERY)).repeat(3)[: 3 * len(GALLERY) - 5])
    reports = [evaluate(QUERY, tripled, "nfc", memory_limit=limit) for limit in (None, 10_000, 997)]
    assert len({report.mAP for report in reports}) == 1
