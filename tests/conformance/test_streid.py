"""ST-ReID's recordings: distribution, smoothing, joint score."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import normalize

from tests.conformance.conftest import system_tolerance, vectors
from torchreid_genext.retrieval.protocol import RetrievalSet, Sightings
from torchreid_genext.retrieval.spatiotemporal import (
    SpatioTemporalModel,
    TimedMeasure,
    joint_similarity,
    smooth,
)


def recorded(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(vectors("systems") / f"streid_{name}.npz"))


def fitted() -> SpatioTemporalModel:
    data = recorded("distribution")
    settings = {"interval": int(data["interval"]), "bins": int(data["max_hist"]), "sigma": int(data["sigma"])}
    return SpatioTemporalModel.fit(data["train_label"], data["train_cam"], data["train_frame"], **settings)


def dense(model: SpatioTemporalModel, rows: torch.Tensor) -> np.ndarray:
    """(to - 1, from - 1, bin), as recorded."""
    last = int(model.cameras.max())
    result = np.zeros((last, last, rows.shape[1]))
    to, origin = (model.cameras[model.pairs] - 1).T.numpy()
    result[to, origin] = rows.numpy()
    return result


def test_histograms_equal_the_recording() -> None:
    data, model = recorded("distribution"), fitted()
    to, origin, lag = data["hist_index_to_from_bin"].T
    shares = dense(model, model.counts / (model.counts.sum(1, keepdim=True) + 1e-7))
    np.testing.assert_array_equal(shares[to, origin, lag], data["hist_value"])
    assert np.count_nonzero(shares) == len(lag)


def test_smoothed_histograms_equal_the_recording() -> None:
    data, model = recorded("distribution"), fitted()
    to, origin = data["pairs_to_from"].T
    limit = 1e-10  # the second of the recorded tolerances
    np.testing.assert_allclose(dense(model, model.curves)[to, origin], data["normalised"], atol=limit)
    shares = dense(model, model.counts / (model.counts.sum(1, keepdim=True) + 1e-7))[to, origin]
    smoothed = smooth(torch.from_numpy(shares), model.sigma)
    np.testing.assert_allclose(smoothed, data["smoothed_raw"], atol=limit)


def test_smoothing_of_other_widths_equals_the_recording() -> None:
    data = recorded("smooth_small")
    for name in (key for key in data if key.startswith("y_o")):
        smoothed = smooth(torch.from_numpy(data["x"])[None], float(name.removeprefix("y_o")))[0]
        limit = system_tolerance("streid_smooth_small.npz")
        np.testing.assert_allclose(smoothed, data[name], atol=limit)


def test_joint_score_equals_the_recording() -> None:
    data, model = recorded("eval"), fitted()
    sides = [[data[f"{side}_{key}"] for key in ("feature", "cam", "frame")] for side in ("query", "gallery")]
    (query, q_cam, q_frame), (gallery, g_cam, g_frame) = sides
    visual = normalize(torch.from_numpy(query)) @ normalize(torch.from_numpy(gallery)).t()
    score = joint_similarity(visual, model.likelihood(q_cam, q_frame, g_cam, g_frame))
    limit = system_tolerance("streid_eval.npz")
    np.testing.assert_allclose(score, data["joint_score"], atol=limit)


def test_chain_in_the_official_form_ranks_by_the_recorded_score() -> None:
    data, train = recorded("eval"), recorded("distribution")
    sets = [
        RetrievalSet(
            torch.from_numpy(data[f"{side}_feature"]),
            *(torch.from_numpy(data[f"{side}_{key}"]) for key in ("label", "cam", "frame")),
        )
        for side in ("query", "gallery")
    ]
    sightings = Sightings(*(torch.from_numpy(train[f"train_{key}"]) for key in ("label", "cam", "frame")))
    distance = TimedMeasure.fit(sightings, form="official")(*sets)
    np.testing.assert_allclose(distance, 1 - data["joint_score"], atol=1e-6)  # the chain works in float32
