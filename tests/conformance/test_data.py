"""File names and heat-maps against the official code of ST-ReID and Deformable GAN."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.conformance.conftest import system_tolerance, vectors
from torchreid_genext.data.filenames import global_frame, parse
from torchreid_genext.data.poses import heatmaps

NAMES = json.loads((vectors("systems") / "streid_parse.json").read_text())
CASES = [
    (dataset, case)
    for key, dataset in (("market", "market1501"), ("duke", "dukemtmcreid"))
    for case in NAMES[key]
]


@pytest.mark.parametrize(
    ("dataset", "case"), CASES, ids=lambda value: value["name"] if "name" in value else value
)
def test_names_give_the_official_camera_label_and_global_frame(dataset: str, case: dict) -> None:
    record = parse(case["name"], dataset)
    assert (record.camid + 1, record.pid, global_frame(record, dataset)) == (
        case["cam"],
        case["label"],
        case["frame"],
    )


def test_heatmaps_equal_the_official_ones() -> None:
    recording = vectors("systems") / "posegan_pose.npz"
    if not recording.is_file():
        pytest.skip("needs posegan_pose.npz (1 MB, no copy here); tests/data/poses/test_poses.py checks the formula")
    official = np.load(recording)
    wanted = official["heatmaps"].transpose(0, 3, 1, 2)
    found = heatmaps(official["kp_from_yx"][: len(wanted)], wanted.shape[2:])
    np.testing.assert_allclose(found.numpy(), wanted, atol=system_tolerance("posegan_pose.npz"))
