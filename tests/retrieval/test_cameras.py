"""What cameras add, tracklets, and neighbours from other cameras."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from tests import reference
from torchreid_genext.retrieval.comparison import Metric
from torchreid_genext.retrieval.neighbourhoods import cross_camera_neighbours, nearest_by
from torchreid_genext.retrieval.protocol import Chain, RetrievalSet, Sightings, evaluate, transform
from torchreid_genext.retrieval.steps import tracklets
from torchreid_genext.retrieval.steps.camera_norm import camera_norm
from torchreid_genext.retrieval.steps.nfc import NEIGHBOURS, mutual_pairs
from torchreid_genext.retrieval.steps.tracklets import merge_tracklets


@pytest.fixture
def images() -> RetrievalSet:
    """120 images of 15 people under 4 cameras, with times; cameras shift the features."""
    pids, camids = torch.randint(1, 16, (120,)), torch.randint(0, 4, (120,))
    features = torch.randn(16, 10)[pids] + 2 * torch.randn(4, 10)[camids] + 0.5 * torch.randn(120, 10)
    frames = 200 * pids + 100 * camids + torch.randint(0, 30, (120,))
    return RetrievalSet(features, pids, camids, frames=frames)


@pytest.fixture
def halves(images: RetrievalSet) -> tuple[RetrievalSet, RetrievalSet]:
    return images.select(slice(0, 40)), images.select(slice(40, None))


@pytest.fixture
def train(images: RetrievalSet) -> Sightings:
    return Sightings(images.pids, images.camids, images.frames)


# Camera normalisation


def test_each_camera_is_centred_and_scaled(images: RetrievalSet) -> None:
    result = camera_norm(images.features, images.camids, epsilon=0.5)
    for camera in range(4):
        own = images.features[images.camids == camera].double()
        expected = (own - own.mean(0)) / (own.std(0, unbiased=False) + 0.5)
        torch.testing.assert_close(result[images.camids == camera].double(), expected, atol=1e-5, rtol=0)


def test_statistics_may_come_from_other_images(halves: tuple[RetrievalSet, RetrievalSet]) -> None:
    query, gallery = halves
    one = camera_norm(query.features[:1], query.camids[:1], gallery.features, gallery.camids)
    all_at_once = camera_norm(query.features, query.camids, gallery.features, gallery.camids)
    torch.testing.assert_close(one, all_at_once[:1])


def test_camera_with_one_image_takes_the_statistics_of_all() -> None:
    features = torch.randn(5, 3)
    result = camera_norm(features, torch.tensor([0, 0, 0, 0, 7]), epsilon=0.1)
    expected = (features[4] - features.mean(0)) / (features.std(0, unbiased=False) + 0.1)
    torch.testing.assert_close(result[4], expected)


def test_two_images_of_a_camera_are_enough_for_statistics() -> None:
    features, camids = torch.randn(6, 3), torch.tensor([0, 0, 0, 0, 7, 7])
    result = camera_norm(features, camids, epsilon=0.1)
    own = features[4:]
    torch.testing.assert_close(result[4:], (own - own.mean(0)) / (own.std(0, unbiased=False) + 0.1))
    query, gallery = RetrievalSet(own, [1, 2], [7, 7]), RetrievalSet(features + own[0], [1] * 6, camids)
    chain = "camera_norm(normalize_before=false,normalize_after=false)"
    torch.testing.assert_close(transform(query, gallery, chain).query.features, result[4:])


def test_camera_norm_helps_where_cameras_shift_features(halves: tuple[RetrievalSet, RetrievalSet]) -> None:
    plain, normed = (evaluate(*halves, chain) for chain in ("l2", "camera_norm"))
    assert normed.mAP > plain.mAP + 0.1
    assert normed.protocol == "market1501; camera ids; statistics of each set"


def test_camera_norm_wants_a_camera_for_each_row() -> None:
    with pytest.raises(ValueError, match="expected a camera for each row of features, got 2 for 3"):
        camera_norm(torch.ones(3, 2), torch.zeros(2))


# Neighbours


def test_cross_camera_neighbours_are_the_nearest_of_other_cameras(images: RetrievalSet) -> None:
    lists = cross_camera_neighbours(images.features, images.camids, k=5)
    distances = reference.squared_distances(images.features.numpy(), images.features.numpy())
    distances[images.camids[:, None].numpy() == images.camids.numpy()] = np.inf
    np.testing.assert_array_equal(lists, np.argsort(distances, axis=1, kind="stable")[:, :5])


def test_missing_neighbours_are_marked_and_never_mutual() -> None:
    lists = cross_camera_neighbours(torch.randn(4, 3), torch.tensor([0, 0, 0, 1]), k=2)
    assert (lists[:3] == torch.tensor([3, -1])).all() and (lists[3] >= 0).all()
    row, neighbour = mutual_pairs(lists, 2)
    assert set(row.tolist()) | set(neighbour.tolist()) <= set(range(4)) and (neighbour >= 0).all()


def test_single_camera_has_no_neighbours(images: RetrievalSet) -> None:
    alone = images.select(images.camids == 1)
    after = transform(alone, alone, "nfc(neighbours=cross_camera)")
    torch.testing.assert_close(after.gallery.features, normalize(alone.features))


@pytest.mark.parametrize("cross_camera", (True, False))
def test_nearest_by_a_metric_is_the_nearest(images: RetrievalSet, cross_camera: bool) -> None:
    lists = nearest_by(Metric(), images, k=4, cross_camera=cross_camera)
    if cross_camera:
        expected = cross_camera_neighbours(images.features, images.camids, k=4).numpy()
    else:
        expected = reference.nearest(images.features.numpy(), None, 4)
    np.testing.assert_array_equal(lists, expected)
    parts = nearest_by(Metric(), images, k=4, cross_camera=cross_camera, memory_limit=1)
    assert torch.equal(lists, parts)


@pytest.mark.parametrize("cross_camera", (True, False))
def test_more_neighbours_than_there_are_means_all_of_them(images: RetrievalSet, cross_camera: bool) -> None:
    some = images.select(slice(0, 7))
    lists = nearest_by(Metric(), some, k=20, cross_camera=cross_camera)
    others = (some.camids[:, None] != some.camids).sum(1) if cross_camera else torch.full((7,), 6)
    assert lists.shape == (7, 20) and torch.equal((lists >= 0).sum(1), others)
    if cross_camera:
        assert torch.equal(lists, cross_camera_neighbours(some.features, some.camids, k=20))
    assert (nearest_by(Metric(), images.select(slice(0, 1)), k=2) == -1).all()


def test_neighbours_want_some(images: RetrievalSet) -> None:
    with pytest.raises(ValueError, match="expected k >= 1, got 0"):
        nearest_by(Metric(), images, k=0)
    with pytest.raises(ValueError, match="expected k >= 1, got 0"):
        cross_camera_neighbours(images.features, torch.zeros(120), k=0)
    with pytest.raises(ValueError, match="expected a camera for each row of features, got 3 for 120"):
        cross_camera_neighbours(images.features, images.camids[:3], k=1)


@pytest.mark.parametrize("neighbours", NEIGHBOURS)
def test_memory_limit_changes_no_neighbour(
    neighbours: str, halves: tuple[RetrievalSet, RetrievalSet], train: Sightings
) -> None:
    chain = f"nfc(neighbours={neighbours})"
    whole, parts = (transform(*halves, chain, train=train, memory_limit=limit) for limit in (None, 1))
    torch.testing.assert_close(whole.gallery.features, parts.gallery.features)


def test_finite_self_distance_is_of_plain_neighbours() -> None:
    with pytest.raises(ValueError, match="expected neighbours any with a finite self_distance"):
        Chain.parse("nfc(neighbours=cross_camera,self_distance=1000)")


# Tracklets


@pytest.mark.parametrize(("gap", "threshold"), [(0, 0.5), (25, 0.3), (300, -1.0), (1000, 1.0)])
def test_tracklets_share_their_mean_direction(images: RetrievalSet, gap: int, threshold: float) -> None:
    result = merge_tracklets(images.features, images.camids, images.frames, gap=gap, threshold=threshold)
    labels = images.camids.tolist(), images.frames.tolist()
    expected = reference.merged_tracklets(images.features.numpy(), *labels, gap, threshold)
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_tracklets_of_a_long_recording_are_those_of_a_short_one() -> None:
    features = normalize(torch.rand(700, 4))  # more than a block of rows
    frames = torch.randint(0, 3000, (700,))
    camids = torch.zeros(700, dtype=torch.int64)
    result = merge_tracklets(features, camids, frames, gap=40, threshold=0.9)
    expected = reference.merged_tracklets(features.numpy(), camids.tolist(), frames.tolist(), 40, 0.9)
    assert (np.abs(result.numpy() - expected).max(1) > 1e-5).sum() <= 3  # rounding at the threshold


def test_tracklets_of_a_gap_without_bounds_take_parts(images: RetrievalSet, monkeypatch) -> None:
    arguments = images.features, images.camids, images.frames
    whole = merge_tracklets(*arguments, gap=10_000, threshold=0.2)
    monkeypatch.setattr(tracklets, "_ROWS", 5)
    monkeypatch.setattr(tracklets, "_COLUMNS", 7)
    torch.testing.assert_close(merge_tracklets(*arguments, gap=10_000, threshold=0.2), whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_neither_tracklets_nor_neighbours(images: RetrievalSet, dtype: torch.dtype) -> None:
    def found() -> list[torch.Tensor]:
        merged = merge_tracklets(images.features, images.camids, images.frames)
        return [merged, nearest_by(Metric("cosine"), images, k=5)]

    expected = found()
    with torch.autocast("cpu", dtype):
        assert all(torch.equal(*pair) for pair in zip(found(), expected))


def test_tracklet_arguments_out_of_range_are_refused(images: RetrievalSet) -> None:
    labels = images.camids, images.frames
    with pytest.raises(ValueError, match="got -1 and 0.5"):
        merge_tracklets(images.features, *labels, gap=-1)
    with pytest.raises(ValueError, match="expected as many camids and frames as features"):
        merge_tracklets(images.features[:5], *labels)


# In a chain


@pytest.mark.parametrize("chain", ["st", "tracklets", "nfc(neighbours=spatiotemporal)"])
def test_steps_that_know_the_time_say_so_and_need_it(
    chain: str, halves: tuple[RetrievalSet, RetrievalSet], train: Sightings
) -> None:
    assert "time stamps" in evaluate(*halves, chain, train=train).protocol
    query, gallery = (RetrievalSet(x.features, x.pids, x.camids) for x in halves)
    with pytest.raises(ValueError, match="expected frames in"):
        evaluate(query, gallery, chain, train=train)


def test_label_names_each_thing_once() -> None:
    chain = Chain.parse("camera_norm+tracklets+nfc(neighbours=cross_camera+spatiotemporal)+st+rerank")
    assert chain.uses == (
        "camera ids", "statistics of each set", "tracklets within each set", "time stamps",
        "neighbours within each set", "transductive: neighbourhoods across query and gallery",
    )  # fmt: skip


def test_time_needs_a_training_split(halves: tuple[RetrievalSet, RetrievalSet]) -> None:
    with pytest.raises(ValueError, match="expected times of the training split for the step st"):
        evaluate(*halves, "st")


def test_time_tells_people_apart(halves: tuple[RetrievalSet, RetrievalSet], train: Sightings) -> None:
    plain, timed = (evaluate(*halves, chain, train=train) for chain in ("l2", "st"))
    assert timed.mAP > plain.mAP + 0.2


def test_time_and_limits_go_together(halves: tuple[RetrievalSet, RetrievalSet], train: Sightings) -> None:
    whole, parts = (evaluate(*halves, "st", train=train, memory_limit=limit) for limit in (None, 1))
    np.testing.assert_allclose(whole.average_precision, parts.average_precision, atol=1e-12)


def test_cameras_of_few_images_are_named_once_a_step(caplog: pytest.LogCaptureFixture) -> None:
    camids = torch.tensor([0] * 25 + [1] * 24 + [7] * 3)
    images = RetrievalSet(torch.randn(52, 4), torch.arange(52) // 2, camids)
    transform(images, images, "camera_norm")
    assert [record.getMessage() for record in caplog.records] == [
        "camera_norm: expected 25 gallery images of each camera, got fewer of 1 (24), 7 (3)"
    ]
