"""The evaluation of ST-ReID's authors against its recording."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from tests.conformance.conftest import vectors
from torchreid_genext.retrieval.metrics import Ranking, rank_matches

FILE = "streid_eval.npz"


def recorded(name: str) -> np.ndarray:
    return np.load(vectors("systems") / FILE)[name]


def tolerance_of_rates() -> float:
    manifest = json.loads((vectors("systems") / "MANIFEST.json").read_text())
    return float(re.search(r"cmc/mAP (\d+e-\d+)", manifest[FILE]["tolerance"])[1])


def official(distances: np.ndarray) -> Ranking:
    labels = [recorded(name) for name in ("query_label", "gallery_label", "query_cam", "gallery_cam")]
    return rank_matches(distances, *labels, protocol="streid")


def visual_distances() -> np.ndarray:
    query, gallery = (
        features / np.linalg.norm(features, axis=1, keepdims=True)
        for features in (recorded("query_feature"), recorded("gallery_feature"))
    )
    return -query @ gallery.T


def test_average_precision_of_each_query() -> None:
    expected = recorded("ap_per_query")  # -1 says that a query has no match
    found = official(-recorded("joint_score")).average_precision
    np.testing.assert_array_equal(np.isnan(found), expected == -1)
    np.testing.assert_allclose(np.nan_to_num(found, nan=-1), expected, atol=tolerance_of_rates())


@pytest.mark.parametrize("what", ("", "_visual", "_rerank"))
def test_rates_count_queries_without_match_as_failures(what: str) -> None:
    distances = {
        "": -recorded("joint_score"),
        "_visual": visual_distances(),
        "_rerank": recorded("rerank_dist"),
    }
    ranking, cmc = official(distances[what]), recorded(f"cmc{what}")
    assert ranking.mAP == pytest.approx(float(recorded(f"mAP{what}")), abs=tolerance_of_rates())
    np.testing.assert_allclose(ranking.cmc(len(cmc)), cmc, atol=tolerance_of_rates())
