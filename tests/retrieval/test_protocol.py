from __future__ import annotations

import json
import logging
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from tests import reference
from torchreid_genext import compat
from torchreid_genext.retrieval.centralization import fuse_generated, nfc
from torchreid_genext.retrieval.protocol import (
    Chain,
    Comparison,
    RetrievalSet,
    Step,
    bootstrap_difference,
    distances,
    evaluate,
    expand_chains,
    transform,
)


def images(n: int, seed: int, width: int = 12, ids: int = 8, cameras: int = 3, **extra) -> RetrievalSet:
    generator = torch.Generator().manual_seed(seed)
    pids = torch.randint(1, ids, (n,), generator=generator)
    centres = torch.randn(ids, width, generator=torch.Generator().manual_seed(99))
    features = (centres[pids] + torch.randn(n, width, generator=generator)) * 5
    return RetrievalSet(features, pids, torch.randint(0, cameras, (n,), generator=generator), **extra)


@pytest.fixture
def query() -> RetrievalSet:
    return images(25, seed=1)


@pytest.fixture
def gallery() -> RetrievalSet:
    return images(90, seed=2)


def test_base_chain_equals_torchreid(query: RetrievalSet, gallery: RetrievalSet) -> None:
    report = evaluate(query, gallery)
    matrix = compat.host().metrics.compute_distance_matrix(query.features, gallery.features).numpy()
    labels = [s.numpy() for s in (query.pids, gallery.pids, query.camids, gallery.camids)]
    cmc, mean_ap = compat.host().metrics.evaluate_rank(matrix, *labels)
    assert report.mAP == pytest.approx(mean_ap, abs=1e-6)
    np.testing.assert_allclose(report.cmc, cmc, atol=1e-6)
    assert report.rank(5) == report.cmc[4]
    assert report.mINP == pytest.approx(reference.evaluate(matrix, *labels, 5)[2], abs=1e-6)


@pytest.mark.parametrize("metric", ("euclidean", "cosine"))
def test_distances_equal_torchreid(metric: str, query: RetrievalSet, gallery: RetrievalSet) -> None:
    expected = compat.host().metrics.compute_distance_matrix(query.features, gallery.features, metric)
    torch.testing.assert_close(distances(query.features, gallery.features, metric), expected)


def test_nfc_step_normalises_before_and_after(query: RetrievalSet, gallery: RetrievalSet) -> None:
    after = transform(query, gallery, "nfc(k1=3)")
    torch.testing.assert_close(after.query.features, normalize(nfc(normalize(query.features), k1=3)))
    torch.testing.assert_close(after.gallery.features, normalize(nfc(normalize(gallery.features), k1=3)))


@pytest.mark.parametrize("before", (True, False))
@pytest.mark.parametrize("after", (True, False))
def test_each_normalisation_is_a_key(
    before: bool, after: bool, query: RetrievalSet, gallery: RetrievalSet
) -> None:
    chain = f"nfc(normalize_before={before},normalize_after={after})"
    expected = nfc(normalize(gallery.features) if before else gallery.features)
    torch.testing.assert_close(
        transform(query, gallery, chain).gallery.features, normalize(expected) if after else expected
    )


def test_side_leaves_the_other_set_without_neighbours(query: RetrievalSet, gallery: RetrievalSet) -> None:
    before = Comparison(query, gallery)
    both = transform(query, gallery, "nfc")
    for side, changed, kept in (("query", "query", "gallery"), ("gallery", "gallery", "query")):
        result = transform(query, gallery, f"nfc(side={side})")
        assert torch.equal(getattr(result, changed).features, getattr(both, changed).features)
        untouched = normalize(getattr(before, kept).features)
        torch.testing.assert_close(getattr(result, kept).features, untouched)


def test_joint_mixes_the_sets_and_says_so(query: RetrievalSet, gallery: RetrievalSet) -> None:
    mixed = normalize(nfc(normalize(torch.cat([query.features, gallery.features]))))
    result = transform(query, gallery, "nfc(side=joint)")
    torch.testing.assert_close(torch.cat([result.query.features, result.gallery.features]), mixed)
    assert "transductive" in evaluate(query, gallery, "nfc(side=joint)").protocol
    assert "transductive" not in evaluate(query, gallery, "nfc").protocol


def test_fuse_needs_generated_features_of_the_sides_it_touches(
    query: RetrievalSet, gallery: RetrievalSet
) -> None:
    generated = torch.randn(90, 4, 12)
    with_images = RetrievalSet(gallery.features, gallery.pids, gallery.camids, generated=generated)
    result = transform(query, with_images, "fuse(eta=2,side=gallery)")
    torch.testing.assert_close(result.gallery.features, fuse_generated(gallery.features, generated, eta=2))
    assert torch.equal(result.query.features, query.features)
    with pytest.raises(ValueError, match="expected a query set with generated features for the step fuse"):
        transform(query, with_images, "fuse")


def test_result_does_not_depend_on_the_memory_limit(query: RetrievalSet, gallery: RetrievalSet) -> None:
    whole, parts = evaluate(query, gallery, "nfc"), evaluate(query, gallery, "nfc", memory_limit=1)
    np.testing.assert_allclose(parts.average_precision, whole.average_precision, atol=1e-12)


def test_memory_limit_reaches_every_step(query: RetrievalSet, gallery: RetrievalSet) -> None:
    seen: list[int | None] = []

    @dataclass(frozen=True)
    class Probe(Step):
        name = "probe"

        def __call__(self, comparison: Comparison) -> Comparison:
            seen.append(comparison.memory_limit)
            return comparison

    assert evaluate(query, gallery, Chain((Probe(),)), memory_limit=12_345).chain == "probe"
    transform(query, gallery, Chain((Probe(), Probe())), memory_limit=6_789)
    assert seen == [12_345, 6_789, 6_789]


def test_report_prints_and_becomes_json(query: RetrievalSet, gallery: RetrievalSet) -> None:
    report = evaluate(query, gallery, "l2+nfc")
    saved = json.loads(json.dumps(report.to_json()))
    assert saved["mAP"] == report.mAP and saved["chain"] == "l2+nfc" and "average_precision" not in saved
    assert set(saved["seconds"]) == {"l2", "nfc", "rank"}
    assert len(report.to_json(per_query=True)["average_precision"]) == 25
    assert f"mAP {report.mAP:.2%}" in report.summary()
    assert report.map_bounds[0] <= report.mAP <= report.map_bounds[1]
    assert report.rank1_bounds[0] <= report.rank(1) <= report.rank1_bounds[1]


def test_summary_shows_what_ties_can_change() -> None:
    features, labels = torch.arange(1.0, 13.0)[:, None].repeat(1, 2), ([1, *[2] * 10, 1], [1] * 12)
    query = RetrievalSet(features[:1], [1], [0])
    assert "(ties" not in evaluate(query, RetrievalSet(features, *labels)).summary()
    tied = torch.cat([features[:11], features[10:11]])
    assert "(ties: 58.33% to 59.09%)" in evaluate(query, RetrievalSet(tied, *labels)).summary()


def test_nfc_ties_widen_the_interval(query: RetrievalSet, gallery: RetrievalSet) -> None:
    twins = torch.cat(
        [gallery.features, gallery.features]
    )  # each image twice, half of them under another identity
    double = RetrievalSet(
        twins, torch.cat([gallery.pids, gallery.pids + 50]), torch.cat([gallery.camids] * 2)
    )
    low, high = evaluate(query, double).map_bounds
    assert (
        high - low > 0.05 and evaluate(query, gallery).map_bounds[0] == evaluate(query, gallery).map_bounds[1]
    )


def test_bootstrap_interval_holds_the_difference(query: RetrievalSet, gallery: RetrievalSet) -> None:
    before, after = evaluate(query, gallery), evaluate(query, gallery, "nfc")
    gains = bootstrap_difference(before, after, samples=200)
    gain, low, high = gains["mAP"]
    assert gain == pytest.approx(after.mAP - before.mAP) and low <= gain <= high
    assert gains["rank1"][0] == pytest.approx(after.rank(1) - before.rank(1))
    assert gains == bootstrap_difference(before, after, samples=200)
    assert bootstrap_difference(before, before) == {"mAP": (0, 0, 0), "rank1": (0, 0, 0)}


def test_bootstrap_of_different_queries_is_refused(query: RetrievalSet, gallery: RetrievalSet) -> None:
    with pytest.raises(ValueError, match="same queries"):
        bootstrap_difference(evaluate(query, gallery), evaluate(images(24, seed=1), gallery))


@pytest.mark.parametrize(
    ("text", "canonical"),
    (
        ("base", "base"),
        (" l2 + nfc ", "l2+nfc"),
        ("nfc(k1=2, k2=2, side=both)", "nfc"),
        ("nfc(side='gallery',k1=4)", "nfc(k1=4,side=gallery)"),
        ("fuse(eta=2)+nfc(normalize_after=False)", "fuse(eta=2)+nfc(normalize_after=False)"),
        ("nfc(self_distance=1000)", "nfc(self_distance=1000)"),
        ("nfc(self_distance=inf)", "nfc"),
    ),
)
def test_chain_text_round_trips(text: str, canonical: str) -> None:
    chain = Chain.parse(text)
    assert chain.name == canonical and Chain.parse(chain.name) == chain


def test_grid_expands_in_order_and_once() -> None:
    names = [chain.name for chain in expand_chains(["base", "nfc(k1=1|2,k2=1|2)", "nfc"])]
    assert names == ["base", "nfc(k1=1,k2=1)", "nfc(k1=1)", "nfc(k2=1)", "nfc"]
    with pytest.raises(ValueError, match="expected one chain, got a grid of 4"):
        Chain.parse("nfc(k1=1|2,k2=1|2)")


@pytest.mark.parametrize(
    ("text", "message"),
    (
        ("whiten", "unknown step 'whiten'; choose from base, "),
        ("nfc(k3=1)", "unknown argument 'k3' of step nfc; choose from k1, k2, side"),
        ("nfc(k1)", "expected key=value in 'nfc\\(k1\\)', got 'k1'"),
        ("nfc(side=left)", "unknown side 'left' of step nfc; choose from query, gallery, both, joint"),
        ("nfc(k1=0)", "expected nfc k1 to be an integer >= 1, got 0"),
        ("fuse(side=joint)", "unknown side 'joint' of step fuse; choose from query, gallery, both"),
        ("", "unknown step ''"),
    ),
)
def test_bad_chains_list_the_choices(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Chain.parse(text)


def test_too_many_neighbours_for_the_set_mean_all_of_them(
    query: RetrievalSet, gallery: RetrievalSet, caplog: pytest.LogCaptureFixture
) -> None:
    assert evaluate(query, gallery, "nfc(k1=25)").mAP == evaluate(query, gallery, "nfc(k1=24)").mAP
    assert "k1=25 of 24" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        ({"features": torch.full((3, 2), float("nan"))}, r"NaN or infinity in rows 0, 1, 2 \(3 in all\)"),
        ({"features": torch.ones(3, 2, dtype=torch.int32)}, "floating tensor, got dtype torch.int32"),
        ({"features": torch.ones(3, 0)}, "with N, D >= 1"),
        ({"pids": torch.tensor([1, 2])}, "expected 3 pids, one for each feature, got 2"),
        ({"pids": torch.tensor([1.5, 2, 3])}, "expected pids to be whole numbers of shape"),
        ({"pids": ["a", "b", "c"]}, "got str_?; number them by numpy.unique"),
        ({"frames": [1, None, 3]}, "expected frames to be whole numbers"),
        ({"camids": torch.tensor([[1, 1], [2, 2], [3, 3]])}, "expected camids to be whole numbers of shape"),
        ({"frames": torch.tensor([1])}, "expected 3 frames"),
        ({"paths": ["a"]}, "expected 3 paths"),
    ),
)
def test_bad_sets_are_refused_at_the_door(arguments: dict, message: str) -> None:
    fields = {
        "features": torch.rand(3, 2) + 1,
        "pids": torch.arange(3),
        "camids": torch.arange(3),
        **arguments,
    }
    with pytest.raises(ValueError, match=message):
        RetrievalSet(**fields)


def test_lists_and_arrays_are_labels_too() -> None:
    RetrievalSet(torch.ones(2, 3), pids=[1, 2], camids=np.array([0, 1]))


def test_different_widths_are_named(query: RetrievalSet) -> None:
    with pytest.raises(ValueError, match="one width, got 12 and 5"):
        evaluate(query, images(90, seed=2, width=5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        ({"metric": "manhattan"}, "unknown metric 'manhattan'; choose from euclidean, cosine"),
        ({"protocol": "duke"}, "unknown protocol 'duke'; choose from market1501, .*cuhk03"),
        ({"max_rank": 0}, "expected max_rank >= 1, got 0"),
        ({"memory_limit": 0}, "expected memory_limit >= 1 byte, got 0"),
    ),
)
def test_bad_options_are_named(
    arguments: dict, message: str, query: RetrievalSet, gallery: RetrievalSet
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(query, gallery, **arguments)


def test_queries_without_match_are_explained() -> None:
    features = torch.rand(4, 3) + 1
    gallery = RetrievalSet(features, pids=[1, 1, 2, 2], camids=[0, 1, 0, 0])
    query = RetrievalSet(features[:3], pids=[2, 7, 7], camids=[0, 1, 2])
    with pytest.raises(ValueError) as raised:
        evaluate(query, gallery)
    assert str(raised.value) == (
        "3 of 3 queries have no match in the gallery: 2 because of identity absent from the gallery "
        "(pids 7; camids 1, 2); 1 because of identity in the gallery only under the query's own camera "
        "(pids 2; camids 0)"
    )


def test_junk_has_no_match_though_the_gallery_holds_some() -> None:
    features = torch.rand(2, 3) + 1
    gallery = RetrievalSet(features, pids=[-1, 2], camids=[1, 0])
    with pytest.raises(ValueError, match=r"because of identity absent from the gallery \(pids -1;"):
        evaluate(RetrievalSet(features[:1], pids=[-1], camids=[0]), gallery)


def test_some_queries_without_match_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    features = torch.rand(4, 3) + 1
    gallery = RetrievalSet(features, pids=[1, 1, 2, 2], camids=[0, 1, 0, 0])
    with caplog.at_level(logging.WARNING):
        report = evaluate(RetrievalSet(features[:2], pids=[1, 7], camids=[0, 1]), gallery)
    assert (report.num_query, report.num_valid_queries) == (2, 1)
    assert "1 of 2 queries have no match" in caplog.text
    assert np.isnan(report.average_precision[1])


def test_genid_needs_no_other_camera_and_says_what_becomes_of_strangers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gallery = RetrievalSet(torch.eye(3), pids=[1, 2, 2], camids=[0, 0, 0])
    query = RetrievalSet(torch.eye(3)[[1, 0]], pids=[2, 7], camids=[0, 0])
    with caplog.at_level(logging.WARNING):
        report = evaluate(query, gallery, protocol="genid")
    assert "1 of 2 queries have no match" in caplog.text
    assert "their average precision counts as 0, their recall as 1" in caplog.text
    assert report.mAP == pytest.approx((1 + 2 / 3) / 2 / 2)
    assert report.cmc == pytest.approx((0.75, 0.75, 1))


def test_one_image_per_identity_is_explained() -> None:
    lone = RetrievalSet(torch.rand(5, 3) + 1, pids=range(5), camids=[0] * 5)
    with pytest.raises(ValueError, match="5 of 5 queries have no match .*only under the query's own camera"):
        evaluate(lone, lone)


def test_cuhk03_protocol_is_named_in_the_report(query: RetrievalSet, gallery: RetrievalSet) -> None:
    assert evaluate(query, gallery, protocol="cuhk03").protocol == "cuhk03"
