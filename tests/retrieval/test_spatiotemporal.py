from __future__ import annotations

import gc
import logging
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor
from torch.nn.functional import normalize

from tests import reference
from torchreid_genext import checkpoints
from torchreid_genext.retrieval.sets import RetrievalSet, Sightings
from torchreid_genext.retrieval.spatiotemporal import (
    FORMS,
    SignedLags,
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


@pytest.fixture
def signed(walks: Sightings) -> SignedLags:
    return SignedLags.fit(walks.pids, walks.camids, walks.frames, **SETTINGS)


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


@pytest.mark.parametrize("kind", [SpatioTemporalModel, SignedLags])
def test_saved_model_is_the_same(kind: type, walks: Sightings, tmp_path: Path) -> None:
    model = kind.fit(walks.pids, walks.camids, walks.frames, **SETTINGS)
    loaded = kind.load(model.save(tmp_path / "walks.safetensors"))
    where = (*columns(walks, 5, 1), *columns(walks, 9, 2))
    assert torch.equal(loaded.likelihood(*where), model.likelihood(*where))
    assert (loaded.identities, loaded.interval, loaded.bins, loaded.sigma) == (40, 50, 40, 2)


def test_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = checkpoints.save(tmp_path / "other.safetensors", {"weight": torch.ones(2)})
    with pytest.raises(ValueError, match="expected a spatio-temporal model in .*other.safetensors"):
        SpatioTemporalModel.load(path)


def test_file_of_an_earlier_version_is_refused_with_the_cure(tmp_path: Path) -> None:
    tensors = {name: torch.ones(1, 2) for name in ("cameras", "pairs", "counts", "background", "curves")}
    numbers = {"identities": 3, "interval": 100, "sigma": 5.0}
    path = checkpoints.save(tmp_path / "old.safetensors", tensors, numbers)
    with pytest.raises(ValueError, match="got none of frames, images, bins; fit and save it again"):
        SignedLags.load(path)


def test_narrow_smoothing_moves_nothing() -> None:
    curves = torch.rand(3, 9, dtype=torch.float64)
    torch.testing.assert_close(smooth(curves, 0.1), curves / (0.1 * np.sqrt(2 * np.pi)))


# Both directions on one axis


def signed_votes(pids, camids, frames, interval: int, bins: int):
    """(first, second camera) -> votes of one person and of two, around multiples of the interval."""
    means, rows = {}, {}
    for who in set(zip(pids, camids)):
        times = [frame for pid, camid, frame in zip(pids, camids, frames) if (pid, camid) == who]
        means[who] = sum(times) / len(times)
    for first in set(camids):
        for second in (camid for camid in set(camids) if camid > first):
            same, other = np.zeros(2 * bins - 1), np.zeros(2 * bins - 1)
            for (pid, camid), time in means.items():
                for (pid2, camid2), time2 in means.items():
                    if (camid, camid2) == (first, second):
                        place = (time - time2) / interval
                        for end in (np.floor(place + 0.5), np.ceil(place - 0.5)):
                            votes = same if pid == pid2 else other
                            votes[bins - 1 + int(np.clip(end, 1 - bins, bins - 1))] += 0.5
            if same.any():
                rows[first, second] = same, other
    return rows


def signed_densities(pids, camids, frames, interval: int, bins: int, sigma: float):
    """`signed_votes` smoothed across zero, each with sum 1, or 0 without any vote."""
    votes = signed_votes(pids, camids, frames, interval, bins)
    if sigma:
        votes = {pair: [reference.parzen(row, sigma) for row in rows] for pair, rows in votes.items()}
    return {pair: [row / (row.sum() or 1) for row in rows] for pair, rows in votes.items()}


def signed_likelihood(densities, bins: int, interval: int, one: tuple[int, int], two: tuple[int, int]):
    """Of two images (camera, frame), in any order."""
    (first, time), (second, time2) = sorted([one, two], key=lambda image: image[0])
    if (first, second) not in densities:
        return 0.0
    place = int(np.clip(round((time - time2) / interval), 1 - bins, bins - 1))
    return densities[first, second][0][bins - 1 + place]


def widened(rows: Tensor, bins: int) -> np.ndarray:
    """Rows of a model as wide as those of the reference."""
    margin = bins - 1 - rows.shape[1] // 2
    return np.pad(rows.double().numpy(), ((0, 0), (margin, margin)))


def lists(walks: Sightings) -> list[list[int]]:
    return [values.tolist() for values in (walks.pids, walks.camids, walks.frames)]


@pytest.mark.parametrize(("bins", "sigma"), [(400, 2), (400, 0), (12, 2)])
def test_densities_of_one_person_and_of_two_are_those_of_the_description(
    walks: Sightings, bins: int, sigma: float
) -> None:
    model = SignedLags.fit(walks.pids, walks.camids, walks.frames, interval=50, bins=bins, sigma=sigma)
    expected = signed_densities(*lists(walks), 50, bins, sigma)
    pairs = [tuple(model.cameras[pair].tolist()) for pair in model.pairs]
    assert set(pairs) == set(expected)
    rows = zip(pairs, widened(model.curves, bins), widened(model.background, bins))
    for pair, *found in rows:
        np.testing.assert_allclose(found, expected[pair], atol=1e-7)


def test_ratio_compares_one_person_with_two(signed: SignedLags) -> None:
    expected = ((signed.curves.double() + 1e-3) / (signed.background.double() + 1e-3)).log()
    np.testing.assert_allclose(signed.log_ratio(1e-3), expected, atol=1e-5)
    np.testing.assert_allclose(signed.log_likelihood(1e-3), (signed.curves.double() + 1e-3).log(), atol=1e-5)


image = some.tuples(some.integers(0, 3), some.integers(0, 8).map(lambda tick: 50 * tick))  # camera, frame
sighting = some.tuples(some.integers(0, 2), image)


@settings(max_examples=60, deadline=None)
@given(
    some.lists(sighting, min_size=1, max_size=8), some.lists(image, min_size=1, max_size=4),
    some.lists(image, min_size=1, max_size=4), some.sampled_from([1, 3, 20]), some.sampled_from([0, 0.5, 1]),
)  # fmt: skip
def test_likelihood_is_that_of_the_description_from_either_side(
    train: list, x: list, y: list, bins: int, sigma: float
) -> None:
    columns = [0, 0, 1], [0, 1, 3], [0, 50, 0]
    for column, values in zip(columns, zip(*((pid, *where) for pid, where in train))):
        column.extend(values)
    densities = signed_densities(*columns, 100, bins, sigma)
    model = SignedLags.fit(*columns, interval=100, bins=bins, sigma=sigma)
    there = model.likelihood(*zip(*x), *zip(*y))
    expected = [[signed_likelihood(densities, bins, 100, one, two) for two in y] for one in x]
    np.testing.assert_allclose(there, expected, atol=1e-6)
    assert torch.equal(there, model.likelihood(*zip(*y), *zip(*x)).t())


def test_lag_of_a_coarse_clock_is_found_where_it_was_counted() -> None:
    """MSMT17's: each part of a day is one tick of 100 frames, so every lag is a multiple of it."""
    for ticks in (-2, 0, 1, 7):
        model = SignedLags.fit([5, 5, 5], [0, 0, 1], [1000, 1000, 1000 + 100 * ticks], sigma=0)
        frames = [1000 + 100 * tick for tick in range(-8, 9)]
        likelihood = model.likelihood([0], [1000], [1] * 17, frames)[0]
        assert likelihood.nonzero().tolist() == [[ticks + 8]] and likelihood.sum() == 1


def test_lag_on_an_edge_counts_half_in_either_bin() -> None:
    model = SignedLags.fit([5, 5], [0, 1], [250, 0], bins=10, sigma=0)
    assert model.curves[0, model.reach :].tolist() == [0, 0, 0.5, 0.5, 0]


def test_density_is_smoothed_across_zero() -> None:
    model = SignedLags.fit([5, 5], [0, 1], [0, 0], sigma=2)
    assert torch.equal(model.curves, model.curves.flip(1)) and model.curves[0, model.reach - 1] > 0.1
    assert model.curves.sum().item() == pytest.approx(1)


def test_clock_that_counts_from_long_ago_is_as_good(walks: Sightings, signed: SignedLags) -> None:
    since = 1_700_000_000_000 * 100_000
    late = SignedLags.fit(walks.pids, walks.camids, walks.frames + since, **SETTINGS)
    assert torch.equal(late.log_ratio(1e-4), signed.log_ratio(1e-4))
    measures = [TimedMeasure(model, "ratio") for model in (signed, late)]
    x, y = images(walks, 6, 4), images(walks, 50, 5)
    later = [RetrievalSet(z.features, z.pids, z.camids, frames=z.frames + since) for z in (x, y)]
    assert torch.equal(measures[0](x, y), measures[1](*later))


def test_rows_are_as_long_as_the_clock() -> None:
    model = SignedLags.fit([5, 5], [0, 1], [0, 330], interval=100, bins=5000, sigma=2)
    assert model.curves.shape == model.background.shape == (1, 2 * (4 + 6 + 1) + 1)
    assert (model.curves[0, [0, -1]] == 0).all()
    assert model.likelihood([0], [0], [1], [10_000_000]) == 0


def test_background_is_counted_for_the_ratio_only(walks: Sightings) -> None:
    x = images(walks, 6, 4)
    models = {form: TimedMeasure.fit(walks, form=form).model for form in ("loglikelihood", "ratio")}
    TimedMeasure(models["loglikelihood"], "loglikelihood")(x, x)
    assert models["loglikelihood"] is models["ratio"] and "background" not in vars(models["ratio"])
    TimedMeasure(models["ratio"], "ratio")(x, x)
    assert "background" in vars(models["ratio"])


@pytest.mark.parametrize("kind", [SpatioTemporalModel, SignedLags])
def test_picture_shows_every_vote_at_its_lag(kind: type) -> None:
    people, cameras = [1, 1, 2, 2, 3, 3, 4, 4], [0, 1, 0, 1, 0, 2, 0, 1]
    model = kind.fit(people, cameras, [0, 300, 500, 200, 0, 100, 0, 300], bins=8, sigma=0)
    (name, edges, counts, density), (other, *_) = model.transitions()
    assert (name, other) == ("1 to 2", "1 to 3") and len(edges) == len(counts) + 1 == len(density) + 1
    middle = (edges[:-1] + edges[1:]) / 2
    assert middle[counts > 0].tolist() == [-300, 300] and counts[counts > 0].tolist() == [1, 2]
    np.testing.assert_allclose(density, counts / 3, rtol=1e-6)


@pytest.mark.parametrize("kind", [SpatioTemporalModel, SignedLags])
def test_lag_is_exact_however_long_the_clock(kind: type) -> None:
    model = kind.fit([5, 5], [0, 1], [330, 0], interval=100, sigma=0)
    likelihood = model.likelihood([0], [10**10 + 330], [1, 1], [0, 10**10])
    assert likelihood.round().tolist() == [[0, 1]]


def test_lag_near_an_edge_is_told_apart_however_early_the_query() -> None:
    """Beyond 2**23 frames the quotient of float32 would round to the edge, and then to the next bin."""
    interval, bins = 999, 16_400
    lag = interval * 16_385 + interval // 2
    model = SignedLags.fit([5, 5], [0, 1], [0, lag], interval=interval, bins=bins, sigma=0)
    assert model.likelihood([0], [0], [1], [lag]).item() == 1
    assert model.likelihood([1], [lag], [0], [0]).item() == 1
    moments = model.moments(torch.tensor([0]), torch.tensor([-(2**40)]))
    assert moments.latest == 2**40


def test_equal_times_are_read_as_if_the_gallery_image_were_the_later_one() -> None:
    cameras, frames = [0, 3, 0, 3, 0, 3], [700, 700, 0, 900, 950, 0]
    model = SpatioTemporalModel.fit([5, 5, 6, 6, 7, 7], cameras, frames, interval=100, bins=12, sigma=0)
    found = model.likelihood([0, 3], [10, 10], [3, 0], [10, 10]).diagonal()
    assert found.tolist() == pytest.approx([0.5, 0])


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
        SpatioTemporalModel.fit([1, 1], [0, 1], [5, 5], **{key: value})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cameras", [[0, 0, 0, 0], [0, 0, 1, 1]])
def test_training_split_without_walks_is_refused(form: str, cameras: list[int]) -> None:
    train = Sightings([1, 1, 2, 2], cameras, [10, 20, 30, 40])
    with pytest.raises(ValueError, match="nobody walked between cameras: st has nothing to learn"):
        TimedMeasure.fit(train, form=form)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"floor": 0}, "expected floor > 0, since its logarithm is taken, got 0"),
        ({"weight": -1}, "expected weight >= 0, got -1"),
        ({"weight": float("nan")}, "expected weight >= 0, got nan"),
        ({"alpha": 0}, "expected alpha > 0, got 0"),
        ({"form": "odd"}, "unknown form 'odd'; choose from ratio, loglikelihood, official"),
    ],
)
def test_measure_out_of_range_is_refused(walks: Sightings, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimedMeasure.fit(walks, **options)


def test_form_wants_its_model(model: SpatioTemporalModel) -> None:
    with pytest.raises(ValueError, match="expected a SignedLags in the form ratio, got a Spatio"):
        TimedMeasure(model)


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


def test_model_is_fitted_once_for_the_same_sightings_and_settings(walks: Sightings) -> None:
    first = TimedMeasure.fit(walks, weight=0.1).model
    assert TimedMeasure.fit(walks, weight=0.3, floor=1e-3).model is first
    assert TimedMeasure.fit(walks, interval=50).model is not first
    assert TimedMeasure.fit(Sightings(walks.pids, walks.camids, walks.frames)).model is not first


def test_fitted_model_dies_with_its_sightings(walks: Sightings) -> None:
    train = Sightings(walks.pids, walks.camids, walks.frames)
    model = weakref.ref(TimedMeasure.fit(train).model)
    del train
    gc.collect()
    assert model() is None


@pytest.mark.parametrize("form", FORMS)
def test_measure_is_prepared_once_for_all_blocks(form: str, walks: Sightings) -> None:
    measure, x, y = TimedMeasure.fit(walks, form=form), images(walks, 6, 4), images(walks, 50, 5)
    whole = measure(x, y)
    before = {key: id(value) for key, value in measure._prepared.items()}
    parts = [measure(x.select(slice(row, row + 2)), y.select(slice(None))) for row in (0, 2, 4)]
    assert {key: id(value) for key, value in measure._prepared.items()} == before
    torch.testing.assert_close(torch.cat(parts), whole)
    columns = [measure(x, y.select(slice(start, start + 10))) for start in range(0, 50, 10)]
    torch.testing.assert_close(torch.cat(columns, dim=1), whole)


@pytest.mark.parametrize("form", FORMS[:2])
def test_distance_is_the_same_from_either_side(form: str, walks: Sightings) -> None:
    measure = TimedMeasure.fit(walks, form=form)
    x = images(walks, 30, 4)
    x.frames[:] = x.frames // 100 * 100  # a coarse clock, with many lags of zero
    torch.testing.assert_close(measure(x, x), measure(x, x).t())


@pytest.mark.parametrize("form", FORMS)
def test_numbers_do_not_depend_on_the_state_of_torch(form: str, walks: Sightings) -> None:
    x, y = images(walks, 6, 4), images(walks, 50, 5)
    expected = TimedMeasure.fit(walks, form=form)(x, y)

    def found() -> Tensor:
        return TimedMeasure.fit(Sightings(walks.pids, walks.camids, walks.frames), form=form)(x, y)

    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            assert torch.equal(found(), expected)
    with torch.inference_mode():
        assert torch.equal(found(), expected)
    try:
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        assert torch.equal(found(), expected)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)
