from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from tests import reference
from torchreid_genext.retrieval.sets import RetrievalSet, Sightings
from torchreid_genext.retrieval.spatiotemporal import (
    FORMS,
    SpatioTemporalModel,
    TimedMeasure,
    joint_similarity,
    smooth,
)

SETTINGS = {"interval": 50, "bins": 40, "sigma": 2}


@pytest.fixture
def walks() -> Sightings:
    """40 people under 5 cameras with gaps in their numbers; each pair of cameras has its own typical time."""
    generator = np.random.default_rng(0)
    cameras = np.array([1, 2, 4, 7, 11])
    seen = [(p, int(c)) for p in range(40) for c in generator.choice(5, generator.integers(1, 5), False)]
    pids, place = np.array(seen * 2).T
    frames = 100 * pids + 300 * place + generator.integers(0, 90, len(pids))
    return Sightings(torch.tensor(pids), torch.tensor(cameras[place]), torch.tensor(frames))


@pytest.fixture
def model(walks: Sightings) -> SpatioTemporalModel:
    return SpatioTemporalModel.fit(walks.pids, walks.camids, walks.frames, **SETTINGS)


def columns(walks: Sightings, images: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.randint(len(walks), (images,), generator=torch.Generator().manual_seed(seed))
    return walks.camids[rows], walks.frames[rows]


def test_counts_and_curves_are_those_of_the_description(
    walks: Sightings, model: SpatioTemporalModel
) -> None:
    lists = (values.tolist() for values in (walks.pids, walks.camids, walks.frames))
    expected = reference.transition_counts(*lists, interval=50, bins=40)
    pairs = [tuple(model.cameras[pair].tolist()) for pair in model.pairs]
    assert set(pairs) == set(expected)
    for pair, counts, curve in zip(pairs, model.counts.numpy(), model.curves.numpy()):
        np.testing.assert_array_equal(counts, expected[pair])
        smoothed = reference.parzen(expected[pair] / (expected[pair].sum() + 1e-7), 2)
        np.testing.assert_allclose(curve, smoothed / (smoothed.sum() + 1e-7), atol=1e-12)


def test_likelihood_reads_the_curve_of_the_later_and_the_earlier_camera(
    walks: Sightings, model: SpatioTemporalModel
) -> None:
    (q_cam, q_frame), (g_cam, g_frame) = columns(walks, 7, 1), columns(walks, 30, 2)
    curves = {
        tuple(model.cameras[pair].tolist()): curve.numpy() for pair, curve in zip(model.pairs, model.curves)
    }
    result = model.likelihood(q_cam, q_frame, g_cam, g_frame).numpy()
    for (q, g), value in np.ndenumerate(result):
        query, gallery = (int(q_cam[q]), int(q_frame[q])), (int(g_cam[g]), int(g_frame[g]))
        later, earlier = (query, gallery) if query[1] > gallery[1] else (gallery, query)
        curve = curves.get((later[0], earlier[0]), np.zeros(40))
        assert value == curve[min(39, (later[1] - earlier[1]) // 50)]


def test_same_camera_is_never_likely(walks: Sightings, model: SpatioTemporalModel) -> None:
    cam, frame = columns(walks, 20, 3)
    assert (model.likelihood(cam, frame, cam, frame)[cam[:, None] == cam] == 0).all()


def test_lag_beyond_the_last_bin_counts_in_it() -> None:
    model = SpatioTemporalModel.fit([5, 5], [0, 1], [0, 10_000_000], interval=100, bins=8, sigma=0)
    assert model.counts.tolist() == [[0, 0, 0, 0, 0, 0, 0, 1]]
    assert model.likelihood([1], [99_000], [0], [0]).item() == pytest.approx(1)


def test_equal_times_go_to_the_larger_camera_as_the_later_one() -> None:
    model = SpatioTemporalModel.fit([5, 5], [0, 3], [700, 700], bins=8, sigma=0)
    assert model.cameras[model.pairs[0]].tolist() == [3, 0]


def test_unknown_camera_has_likelihood_zero_and_is_warned_of_once(
    model: SpatioTemporalModel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert (model.likelihood([1, 99], [10, 10], [99, 3], [500, 500])[1] == 0).all()
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["cameras 99 were never seen in fit: likelihood 0",
                        "cameras 3 were never seen in fit: likelihood 0"]  # fmt: skip


def test_saved_model_is_the_same(model: SpatioTemporalModel, walks: Sightings, tmp_path: Path) -> None:
    loaded = SpatioTemporalModel.load(model.save(tmp_path / "walks.safetensors"))
    where = (*columns(walks, 5, 1), *columns(walks, 9, 2))
    assert torch.equal(loaded.likelihood(*where), model.likelihood(*where))
    assert torch.equal(loaded.log_ratio(1e-4), model.log_ratio(1e-4))
    assert (loaded.identities, loaded.interval, loaded.sigma) == (40, 50, 2)


def test_file_of_something_else_is_refused(tmp_path: Path) -> None:
    from torchreid_genext import checkpoints

    path = checkpoints.save(tmp_path / "other.safetensors", {"weight": torch.ones(2)})
    with pytest.raises(ValueError, match="expected a spatio-temporal model in .*other.safetensors"):
        SpatioTemporalModel.load(path)


def test_narrow_smoothing_moves_nothing() -> None:
    curves = torch.rand(3, 9, dtype=torch.float64)
    torch.testing.assert_close(smooth(curves, 0.1), curves / (0.1 * np.sqrt(2 * np.pi)))


def test_ratio_compares_one_person_with_two(walks: Sightings, model: SpatioTemporalModel) -> None:
    lists = [values.tolist() for values in (walks.pids, walks.camids, walks.frames)]
    expected = reference.log_ratios(*lists, interval=50, bins=40, sigma=2, floor=1e-3)
    for pair, row in zip(model.pairs, model.log_ratio(1e-3).numpy()):
        np.testing.assert_allclose(row, expected[tuple(model.cameras[pair].tolist())], atol=1e-5)


def test_joint_similarity_is_the_logistic_product() -> None:
    visual, likelihood = torch.rand(3, 4, dtype=torch.float64), torch.rand(3, 4, dtype=torch.float64)
    expected = 1 / (1 + torch.exp(-4 * visual)) / (1 + 2 * torch.exp(-4 * likelihood))
    torch.testing.assert_close(joint_similarity(visual, likelihood, alpha=4), expected)
    assert joint_similarity(visual.float(), likelihood).dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1], [0], [-3]), "expected frames >= 0, got -3"),
        (([1, 2], [0], [3]), "expected columns of one length, got 2 pids, 1 camids, 1 frames"),
        (([], [], []), "expected pids to be integers of shape"),
        (([1], [0], [0.5]), "expected frames to be integers"),
    ],
)
def test_bad_sightings_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpatioTemporalModel.fit(*arguments)


@pytest.mark.parametrize(("key", "value"), [("interval", 0), ("bins", 0), ("sigma", -1)])
def test_settings_out_of_range_are_refused(key: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"expected {key} >= ., got {value}"):
        SpatioTemporalModel.fit([1], [0], [5], **{key: value})


def test_different_shapes_do_not_join() -> None:
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(3, 2\)"):
        joint_similarity(torch.ones(2, 3), torch.ones(3, 2))


# As a distance


def images(walks: Sightings, count: int, seed: int) -> RetrievalSet:
    camids, frames = columns(walks, count, seed)
    features = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return RetrievalSet(features, torch.arange(count), camids, frames=frames)


@pytest.mark.parametrize("form", FORMS)
def test_distance_joins_cosine_and_time(form: str, walks: Sightings) -> None:
    measure = TimedMeasure.fit(walks, form=form, weight=0.2, floor=1e-3, sigma=2, interval=50, bins=40)
    x, y = images(walks, 6, 4), images(walks, 50, 5)
    where = x.camids, x.frames, y.camids, y.frames
    cosine = normalize(x.features) @ normalize(y.features).t()
    if form == "official":
        expected = joint_similarity(cosine, measure.model.likelihood(*where))
    elif form == "loglikelihood":
        expected = cosine + 0.2 * (measure.model.likelihood(*where) + 1e-3).log()
    else:
        ratio = measure.model.log_ratio(1e-3)
        expected = cosine + 0.2 * measure.model.lookup(ratio, float(ratio.min()), *where)
    distance = measure(x, y)
    differences = distance.double() + expected
    torch.testing.assert_close(differences, differences.mean().expand_as(differences), atol=1e-5, rtol=0)
    assert distance.min() >= 0


def test_distance_needs_times(walks: Sightings) -> None:
    x = images(walks, 6, 4)
    timeless = RetrievalSet(x.features, x.pids, x.camids)
    with pytest.raises(ValueError, match="expected frames in both sets"):
        TimedMeasure.fit(walks)(x, timeless)
    with pytest.raises(ValueError, match="expected times of the training split"):
        TimedMeasure.fit(None)
