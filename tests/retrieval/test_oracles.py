"""Steps and protocols against their naive restatements, on random and degenerate inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests import reference
from tests.reference import protocols, steps
from tests.reference.steps import Images
from torchreid_genext.retrieval.centralization import id2, nfc
from torchreid_genext.retrieval.metrics import evaluate_rank, rank_matches
from torchreid_genext.retrieval.protocol import (
    Comparison,
    Report,
    RetrievalSet,
    Sightings,
    bootstrap_difference,
    evaluate,
    transform,
)

tried = functools.partial(
    settings,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
few, many = tried(max_examples=25), tried(max_examples=60)


class World(NamedTuple):
    """Query, gallery, and (pids, camids, frames) of a training split."""

    query: Images
    gallery: Images
    train: tuple[np.ndarray, np.ndarray, np.ndarray]


KINDS = ("random", "duplicates", "equal", "tiny", "huge", "far")


def features_of(kind: str, random: np.random.Generator, rows: int, width: int) -> np.ndarray:
    found = random.normal(size=(rows, width)) + 0.1
    if kind == "duplicates":
        found = found[random.integers(0, max(1, rows // 3), rows)]
    if kind == "equal":
        found[:] = found[0]
    scale = {"tiny": 1e-6, "huge": 1e6}.get(kind, 1.0)
    return ((found + 3 * (kind == "far")) * scale).astype(np.float32)


@st.composite
def worlds(draw: Any, kinds: tuple[str, ...] = KINDS, queries: int = 5, gallery: int = 12) -> World:
    """Few images of few people under few cameras; distractors (pid 0) and junk (pid -1) in the gallery."""
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    sizes = draw(st.integers(1, queries)), draw(st.integers(1, gallery))
    width, kind = draw(st.sampled_from((1, 2, 8))), draw(st.sampled_from(kinds))
    people, cameras = draw(st.sampled_from((1, 2, 4, 99))), draw(st.sampled_from((1, 2, 3)))
    total = sum(sizes)
    features = features_of(kind, random, total, width)
    pids = np.arange(1, total + 1) if people == 99 else random.integers(1, people + 1, total)
    lowest = sizes[0] + random.integers(0, sizes[1], sizes[1] // 4)
    pids[lowest] = random.integers(-1, 1, len(lowest))
    camids, frames = random.integers(0, cameras, total), random.integers(0, 900, total)
    generated = features[:, None] + features_of("random", random, 2 * total, width).reshape(total, 2, width)
    columns = features, pids, camids, frames, generated.astype(np.float32)
    train = random.integers(1, 6, 40), random.integers(0, 3, 40), random.integers(0, 900, 40)
    parts = slice(0, sizes[0]), slice(sizes[0], total)
    return World(*(Images(*(column[part] for column in columns)) for part in parts), train)


def as_set(images: Images) -> RetrievalSet:
    return RetrievalSet(*(torch.from_numpy(column) for column in images))


def after(world: World, chain: str, **options: Any) -> Comparison:
    train = Sightings(*(torch.from_numpy(column) for column in world.train))
    return transform(as_set(world.query), as_set(world.gallery), chain, train=train, **options)


def text(name: str, options: dict[str, Any]) -> str:
    return f"{name}({','.join(f'{key}={value}' for key, value in options.items())})"


def same(found: torch.Tensor, expected: np.ndarray, atol: float = 2e-5) -> None:
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found.numpy() / scale, expected / scale, rtol=0, atol=atol)


def check(world: World, name: str, oracle: Callable[..., Any], options: dict[str, Any], **more: Any) -> None:
    """A step against its oracle, both sets."""
    found, expected = after(world, text(name, options)), oracle(world.query, world.gallery, **options, **more)
    same(found.query.features, expected[0])
    same(found.gallery.features, expected[1])


# Steps


@few
@given(worlds())
def test_l2(world: World) -> None:
    check(world, "l2", steps.l2, {})


@pytest.mark.parametrize("scale", (1e-30, 1e-15, 1e15))
def test_l2_at_any_scale(scale: float) -> None:
    rows = (np.random.default_rng(0).normal(size=(6, 4)) * scale).astype(np.float32)
    labels = np.arange(6)
    images = RetrievalSet(torch.from_numpy(rows), torch.from_numpy(labels), torch.from_numpy(labels))
    same(transform(images, images, "l2").query.features, steps.unit(rows))


@many
@given(
    worlds(),
    st.sampled_from(("both", "query", "gallery")),
    st.sampled_from(("mean", "sum")),
    st.booleans(),
    st.sampled_from((0.5, 2.0)),
)
def test_fuse(world: World, side: str, reduce: str, before: bool, eta: float) -> None:
    check(world, "fuse", steps.fuse, {"eta": eta, "reduce": reduce, "side": side, "normalize_before": before})


@many
@given(
    worlds(("random", "tiny", "huge", "far")),
    st.sampled_from(("each", "gallery")),
    st.sampled_from((0.1, 0.01)),
)
def test_camera_norm(world: World, statistics: str, epsilon: float) -> None:
    check(world, "camera_norm", steps.camera_norm, {"epsilon": epsilon, "statistics": statistics})


@many
@given(worlds(), st.sampled_from(("both", "query", "gallery")), st.sampled_from((0, 60, 10_000)))
def test_tracklets(world: World, side: str, gap: int) -> None:
    check(world, "tracklets", steps.tracklets, {"gap": gap, "threshold": 0.47, "side": side})


@many
@given(
    worlds(),
    st.sampled_from((1, 2, 4, 50)),
    st.sampled_from((1, 2, 50)),
    st.sampled_from(("both", "query", "gallery", "joint")),
    st.booleans(),
)
def test_nfc(world: World, k1: int, k2: int, side: str, after: bool) -> None:
    check(world, "nfc", steps.nfc, {"k1": k1, "k2": k2, "side": side, "normalize_after": after})


@many
@given(
    worlds(),
    st.sampled_from((1, 2, 50)),
    st.sampled_from((1, 2, 50)),
    st.sampled_from(("both", "gallery", "joint")),
)
def test_nfc_across_cameras(world: World, k1: int, k2: int, side: str) -> None:
    check(world, "nfc", steps.nfc, {"k1": k1, "k2": k2, "side": side, "neighbours": "cross_camera"})


@few
@given(
    worlds(("random", "duplicates", "tiny", "huge")),
    st.sampled_from((1, 3, 50)),
    st.sampled_from(("both", "query", "joint")),
    st.sampled_from(("spatiotemporal", "cross_camera+spatiotemporal")),
)
def test_nfc_by_appearance_and_time(world: World, k: int, side: str, neighbours: str) -> None:
    assume(
        world.query.features.shape[1] > 1
    )  # where half of all images look alike rounding has the last word
    options = {"k1": k, "k2": k, "side": side, "neighbours": neighbours, "sigma": 2.0}
    found = after(world, text("nfc", options | {"form": "official"}))
    expected = steps.nfc(world.query, world.gallery, **options, train=world.train)
    same(found.query.features, expected[0])
    same(found.gallery.features, expected[1])


@pytest.mark.parametrize("images", (2, 3, 5, 8))
def test_members_of_a_clique_get_one_sum_bit_for_bit(images: int) -> None:
    random = torch.Generator().manual_seed(images)
    for _ in range(20):
        group = torch.randn(16, generator=random) + 0.1 * torch.randn(images, 16, generator=random)
        found = nfc(group, k1=images - 1, k2=images - 1)
        assert (found == found[0]).all()


@many
@given(worlds(), st.sampled_from((1, 3, 50)))
def test_aqe(world: World, k: int) -> None:
    check(world, "aqe", steps.aqe, {"k": k})


@many
@given(worlds(), st.sampled_from((1, 3, 50)), st.sampled_from((0.0, 1.0, 3.0)))
def test_alpha_qe(world: World, k: int, alpha: float) -> None:
    check(world, "alpha_qe", steps.alpha_qe, {"k": k, "alpha": alpha})


@many
@given(worlds(), st.sampled_from((1, 3, 50)), st.sampled_from((0.0, 1.0, 3.0)))
def test_dba(world: World, k: int, alpha: float) -> None:
    check(world, "dba", steps.dba, {"k": k, "alpha": alpha})


@many
@given(
    worlds(("random", "duplicates", "equal")),  # weights of lengths near 1
    st.sampled_from((1, 2, 50)),
    st.sampled_from((1, 3, 50)),
    st.sampled_from((0.3, 2.0)),
    st.sampled_from(("both", "gallery")),
)
def test_dmon(world: World, k1: int, k2: int, sigma: float, side: str) -> None:
    assume(world.query.features.shape[1] > 1)  # unit features of one number are all alike, or opposite
    check(world, "dmon", steps.dmon, {"k1": k1, "k2": k2, "sigma": sigma, "gamma": 0.6, "side": side})


@many
@given(worlds(("random", "tiny", "huge", "far")), st.sampled_from((1, 3, 50)), st.sampled_from((1, 2, 50)))
def test_aro(world: World, k1: int, k2: int) -> None:
    assume(world.query.features.shape[1] > 1 and len(world.gallery.pids) > 2)
    found = after(world, text("aro", {"k1": k1, "k2": k2})).matrix()
    same(found, reference.aro(world.query.features, world.gallery.features, k1, k2), atol=2e-4)


def timed_distances(x: Images, y: Images, train: tuple, **options: Any) -> np.ndarray:
    where = (x.features, x.camids, x.frames, y.features, y.camids, y.frames)
    return reference.official_distances(*where, train, **options)


@many
@given(worlds(), st.sampled_from((50, 100)), st.sampled_from((1.0, 2.0)), st.sampled_from((3.0, 5.0)))
def test_st_official(world: World, interval: int, sigma: float, alpha: float) -> None:
    options = {"interval": interval, "bins": 12, "sigma": sigma, "alpha": alpha}
    found = after(world, text("st", {"form": "official"} | options)).matrix()
    same(found, timed_distances(world.query, world.gallery, world.train, **options))


RERANK = st.sampled_from((1, 4, 50)), st.sampled_from((1, 3, 50)), st.sampled_from((0.0, 0.3, 1.0))


@many
@given(worlds(), *RERANK)
def test_rerank(world: World, k1: int, k2: int, share: float) -> None:
    both = steps.unit(steps.joined(world.query, world.gallery).features)
    assume(np.ptp(both, axis=0).max() > 1e-3)  # images that all lie in one place: a test of its own
    distances = reference.squared_distances(both, both)
    options = {"k1": k1, "k2": k2, "lambda_value": share}
    found = after(world, "l2+" + text("rerank", options)).matrix()
    expected = reference.k_reciprocal(distances, len(world.query.pids), **options, power=2, own_first=True)
    same(found, expected, atol=2e-4)


@few
@given(worlds(("random", "huge")), *RERANK)
def test_rerank_of_appearance_and_time(world: World, k1: int, k2: int, share: float) -> None:
    assume(world.query.features.shape[1] > 1)
    time = {"bins": 12, "sigma": 1.0}
    both = steps.joined(world.query, world.gallery)
    distances = timed_distances(both, both, world.train, **time)
    options = {"k1": k1, "k2": k2, "lambda_value": share}
    found = after(world, text("st", {"form": "official"} | time) + "+" + text("rerank", options)).matrix()
    expected = reference.k_reciprocal(distances, len(world.query.pids), **options, power=1)
    same(found, expected, atol=2e-4)


CAMERAS = st.fixed_dictionaries({
    "k1_intra": st.sampled_from((1, 3, 50)), "k1_inter": st.sampled_from((1, 4, 50)),
    "k2_intra": st.sampled_from((1, 2, 50)), "k2_inter": st.sampled_from((1, 3, 50)),
    "lambda_value": st.sampled_from((0.0, 0.3)),
})  # fmt: skip


@many
@given(worlds(), CAMERAS)
def test_ca_jaccard(world: World, options: dict[str, float]) -> None:
    images = steps.joined(world.query, world.gallery)
    both = steps.unit(images.features)
    assume(np.ptp(both, axis=0).max() > 1e-3)
    distances = reference.squared_distances(both, both)
    expected = reference.ca_jaccard(distances, len(world.query.pids), images.camids, **options)
    same(after(world, "l2+" + text("ca_jaccard", options)).matrix(), expected, atol=2e-4)


@few
@given(worlds(("random", "huge")), CAMERAS)
def test_ca_jaccard_of_appearance_and_time(world: World, options: dict[str, float]) -> None:
    assume(world.query.features.shape[1] > 1)
    time, images = {"bins": 12, "sigma": 1.0}, steps.joined(world.query, world.gallery)
    distances = timed_distances(images, images, world.train, **time)
    expected = reference.ca_jaccard(distances, len(world.query.pids), images.camids, **options)
    chain = text("st", {"form": "official"} | time) + "+" + text("ca_jaccard", options)
    same(after(world, chain).matrix(), expected, atol=2e-4)


@pytest.mark.parametrize("images", (2, 3, 12))
def test_reranking_of_images_in_one_place_finds_no_distances(images: int) -> None:
    row = np.random.default_rng(images).normal(size=(1, 8)).astype(np.float32).repeat(images, 0)
    places = np.arange(images)
    columns = row, places, places, places, row[:, None]
    query, gallery = (Images(*(column[part] for column in columns)) for part in (slice(0, 1), slice(1, None)))
    found = after(World(query, gallery, (places, places, places)), "l2+rerank").matrix()
    assert found.abs().max() < 1e-4


@pytest.mark.parametrize(
    "chain", ("nfc", "nfc(neighbours=cross_camera)", "dba", "aqe", "camera_norm", "tracklets")
)
def test_one_query_and_one_gallery_image_are_served(chain: str) -> None:
    one = Images(*(np.array(column) for column in ([[3.0, 4.0]], [1], [0], [5], [[[1.0, 0.0]]])))
    one = one._replace(features=one.features.astype(np.float32), generated=one.generated.astype(np.float32))
    other = one._replace(camids=np.array([1]), frames=np.array([50]))
    found = after(World(one, other, one[1:4]), chain)
    expected = {"aqe": steps.aqe, "camera_norm": steps.camera_norm}.get(chain, steps.l2)(one, other)
    same(found.query.features, expected[0])
    same(found.gallery.features, expected[1])


# Rankings


class Ranked(NamedTuple):
    distances: np.ndarray
    q_pids: np.ndarray
    g_pids: np.ndarray
    q_camids: np.ndarray
    g_camids: np.ndarray


@st.composite
def rankings(draw: Any, names: bool = False) -> Ranked:
    """Distances of few levels, so that most are tied, or of many; labels may be names."""
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    queries, gallery = draw(st.integers(1, 6)), draw(st.integers(1, 40))
    levels, people = draw(st.sampled_from((1, 2, 5, 10**6))), draw(st.sampled_from((1, 2, 5)))
    distances = random.integers(0, levels, (queries, gallery)) / draw(st.sampled_from((1.0, 1e12, 1e-12)))
    pids = [random.integers(-1, people + 1, number) for number in (queries, gallery)]
    if draw(st.booleans()):
        pids[1] = np.arange(gallery)  # one image each
    camids = [random.integers(0, draw(st.sampled_from((1, 3))), number) for number in (queries, gallery)]
    if names:
        pids, camids = ([np.array([f"n{i}" for i in column]) for column in two] for two in (pids, camids))
    return Ranked(distances.astype(np.float32), *pids, *camids)


def check_ranking(world: Ranked, protocol: str, max_rank: int = 30) -> None:
    world = without_junk_queries(world)
    expected = protocols.ranked_queries(*world, protocol)
    found = rank_matches(*world, protocol=protocol, max_rank=max_rank)
    columns = {"stable": ("average_precision", "first_match_rank"),
               "pessimistic": ("pessimistic_precision", "pessimistic_first_rank"),
               "optimistic": ("optimistic_precision", "optimistic_first_rank")}  # fmt: skip
    for ties, (precision, first) in columns.items():
        np.testing.assert_allclose(getattr(found, precision), [one[ties][0] for one in expected], atol=1e-12)
        np.testing.assert_array_equal(getattr(found, first), [one[ties][1] for one in expected])
    np.testing.assert_allclose(
        found.inverse_negative_penalty, [one["penalty"] for one in expected], atol=1e-12
    )
    if not any(one["stable"][1] for one in expected):
        assert found.mAP == found.mINP == 0
        return
    means = protocols.rates(expected, protocol, max_rank)
    assert (found.mAP, found.mINP) == pytest.approx((means["mAP"], means["mINP"]))
    if protocol != "cuhk03":
        assert found.rank1_bounds == pytest.approx(means["rank1_bounds"])
        np.testing.assert_allclose(found.cmc(max_rank), means["cmc"], atol=1e-6)


def without_junk_queries(world: Ranked) -> Ranked:
    """Nobody asks for junk; that a query of pid -1 has no match is a test of its own."""
    asked = (
        np.flatnonzero(world.q_pids != -1) if world.q_pids.dtype.kind == "i" else np.arange(len(world.q_pids))
    )
    assume(len(asked))
    return world._replace(
        distances=world.distances[asked], q_pids=world.q_pids[asked], q_camids=world.q_camids[asked]
    )


@pytest.mark.parametrize("protocol", protocols.RULES)
@many
@given(world=rankings())
def test_protocols(protocol: str, world: Ranked) -> None:
    check_ranking(world, protocol)


@pytest.mark.parametrize("protocol", ("market1501", "streid", "genid"))
@few
@given(world=rankings(names=True))
def test_protocols_of_names(protocol: str, world: Ranked) -> None:
    check_ranking(world, protocol)


@pytest.mark.parametrize("protocol", ("market1501", "camstyle", "streid"))
def test_a_query_of_junk_has_no_match(protocol: str) -> None:
    found = rank_matches([[1.0, 2.0], [1.0, 2.0]], [-1, 7], [-1, 7], [0, 0], [1, 1], protocol=protocol)
    assert found.first_match_rank.tolist() == [0, 1]


@few
@given(rankings())
def test_cuhk03_draws_as_torchreid_does_or_as_its_seed_says(world: Ranked) -> None:
    world = without_junk_queries(world)
    world.g_pids[world.g_pids == -1] = 0  # torchreid knows no junk
    known = [
        set(world.g_camids[world.g_pids == pid]) - {camid} for pid, camid in zip(world.q_pids, world.q_camids)
    ]
    assume(any(known))
    length = len(world.g_pids)
    np.random.seed(5)
    expected = protocols.sampled_curve(*world, max_rank=length)
    np.random.seed(5)
    found, _ = evaluate_rank(*world, max_rank=length, use_metric_cuhk03=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    seeded = rank_matches(*world, protocol="cuhk03", max_rank=length).cmc(length)
    np.testing.assert_allclose(seeded, protocols.sampled_curve(*world, max_rank=length, seed=0), atol=1e-6)


@few
@given(rankings())
def test_cuhk03_of_one_image_each_draws_nothing_by_chance(world: Ranked) -> None:
    world = without_junk_queries(world)._replace(g_pids=np.arange(len(world.g_pids)))
    expected = protocols.ranked_queries(*world, "cuhk03")
    assume(any(one["stable"][1] for one in expected))
    found = rank_matches(*world, protocol="cuhk03", max_rank=len(world.g_pids))
    np.testing.assert_allclose(
        found.cmc(len(world.g_pids)), protocols.rates(expected, "cuhk03", len(world.g_pids))["cmc"], atol=1e-6
    )


# Reports


@few
@given(worlds(("random", "far", "huge")))
def test_density(world: World) -> None:
    found = id2(torch.from_numpy(world.gallery.features), torch.from_numpy(world.gallery.pids))
    np.testing.assert_allclose(found, reference.id2(world.gallery.features, world.gallery.pids), atol=1e-5)


def people(seed: int = 0, ids: int = 8, cameras: int = 3, uneven: bool = False) -> World:
    """People who are seen by each camera, and in the gallery distractors and junk besides.

    uneven: half of them are found easily, so that queries of one person say much the same.
    """
    random = np.random.default_rng(seed)
    pids, camids = (column.ravel() for column in np.indices((ids, cameras)))
    pids = np.concatenate([pids + 1, pids + 1, np.zeros(10, int), np.full(5, -1)])
    camids = np.concatenate([camids, camids, random.integers(0, cameras, 15)])
    noise = np.where(uneven & (pids % 2 == 0), 0.1, 1.2)[:, None]
    features = random.normal(size=(ids + 3, 6))[pids] + noise * random.normal(size=(len(pids), 6))
    columns = features.astype(np.float32), pids, camids, 10 * pids + 10, features[:, None].astype(np.float32)
    number = ids * cameras
    query, gallery = (
        Images(*(column[part] for column in columns)) for part in (slice(number), slice(number, None))
    )
    return World(query, gallery, (pids, camids, 10 * pids + 10))


def report(world: World, chain: str, protocol: str = "market1501") -> Report:
    return evaluate(as_set(world.query), as_set(world.gallery), chain, protocol=protocol)


@pytest.mark.parametrize("protocol", [name for name in protocols.RULES if name != "cuhk03"])
@pytest.mark.parametrize("chain", ("base", "nfc"))
def test_reports_are_means_of_the_protocol(protocol: str, chain: str) -> None:
    world = people()
    found, distances = report(world, chain, protocol), after(world, chain).matrix().numpy()
    labels = (world.query.pids, world.gallery.pids, world.query.camids, world.gallery.camids)
    expected = protocols.rates(
        protocols.ranked_queries(distances, *labels, protocol), protocol, len(found.cmc)
    )
    for name in ("mAP", "mINP", "map_bounds", "rank1_bounds", "cmc"):
        assert getattr(found, name) == pytest.approx(expected[name], abs=1e-6), name


def test_density_of_a_gallery_is_that_of_the_people_who_are_asked_for() -> None:
    world = people()
    world = world._replace(query=Images(*(column[:9] for column in world.query)))
    found, asked = report(world, "base"), set(world.query.pids.tolist())
    gallery = reference.reported_density(world.gallery.features, world.gallery.pids, asked)
    assert found.id2_gallery == pytest.approx(gallery, abs=1e-6)
    query = reference.reported_density(world.query.features, world.query.pids, asked)
    assert found.id2_query == pytest.approx(query, abs=1e-6)


@pytest.mark.parametrize("protocol", protocols.RULES)
def test_a_gain_is_the_difference_of_the_columns_beside_it(protocol: str) -> None:
    world = people()
    stranger = world.query.pids.copy()
    stranger[:5] = 777  # without a match
    world = world._replace(query=world.query._replace(pids=stranger))
    before, later = (report(world, chain, protocol) for chain in ("base", "nfc"))
    gains = bootstrap_difference(before, later, samples=50)
    assert gains["mAP"][0] == pytest.approx(later.mAP - before.mAP, abs=1e-9)
    assert gains["rank1"][0] == pytest.approx(later.rank(1) - before.rank(1), abs=1e-6)


def test_queries_of_one_person_are_one_draw() -> None:
    world = people()
    world = world._replace(query=Images(*(column[world.query.pids == 2] for column in world.query)))
    gains = bootstrap_difference(report(world, "base"), report(world, "nfc(k1=4,k2=4)"))
    for gain, low, high in gains.values():
        assert low == pytest.approx(gain) and high == pytest.approx(gain)


def test_intervals_are_those_of_people_drawn_with_replacement() -> None:
    world = people(seed=3, ids=25, cameras=6, uneven=True)
    before, later = (report(world, chain) for chain in ("base", "nfc(k1=5,k2=5)"))
    gain = later.average_precision - before.average_precision
    _, low, high = bootstrap_difference(before, later, samples=4000)["mAP"]
    expected = protocols.bootstrap_by_identity(gain, world.query.pids, 4000, seed=1)
    assert (low, high) == pytest.approx(expected, abs=0.05 * (expected[1] - expected[0]))
