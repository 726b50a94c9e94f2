"""The evaluation of GenerativePersonReID's authors against its recording, and the usual one beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.conformance.conftest import system_tolerance, vectors
from torchreid_genext.retrieval.metrics import Ranking, rank_matches
from torchreid_genext.retrieval.protocol import RetrievalSet, evaluate

FILE = "genreid_eval.npz"
LABELS = ("q_pid", "g_pid", "q_cam", "g_cam")


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    return dict(np.load(vectors("systems") / FILE))


def ranking(recorded: dict[str, np.ndarray], protocol: str) -> Ranking:
    query, gallery = (recorded[name].astype(np.float64) for name in ("emb_query", "emb_gallery"))
    distances = np.linalg.norm(query[:, None] - gallery, axis=2)
    return rank_matches(distances, *(recorded[name] for name in LABELS), protocol=protocol)


def test_recall_curve_and_map_are_the_official_ones(recorded: dict[str, np.ndarray]) -> None:
    found, curve = ranking(recorded, "genid"), recorded["official_curve25"]
    assert found.mAP == pytest.approx(float(recorded["official_mAP"]), abs=system_tolerance(FILE))
    np.testing.assert_allclose(found.curves.mean(0), curve, atol=system_tolerance(FILE))
    np.testing.assert_allclose(found.cmc(len(curve)), curve, atol=1e-7)  # float32, as torchreid's


def test_market_protocol_gives_the_standard_values_of_the_same_features(
    recorded: dict[str, np.ndarray],
) -> None:
    found, curve = ranking(recorded, "market1501"), recorded["standard_cmc25"]
    assert found.mAP == pytest.approx(float(recorded["standard_mAP"]), abs=system_tolerance(FILE))
    np.testing.assert_allclose(found.cmc(len(curve)), curve, atol=1e-7)


def test_reports_give_the_official_values_and_say_whose_they_are(recorded: dict[str, np.ndarray]) -> None:
    query, gallery = (
        RetrievalSet(*(torch.from_numpy(recorded[name]) for name in names))
        for names in (("emb_query", "q_pid", "q_cam"), ("emb_gallery", "g_pid", "g_cam"))
    )
    report = evaluate(query, gallery, protocol="genid")
    assert report.mAP == pytest.approx(float(recorded["official_mAP"]), abs=1e-6)  # distances are float32
    np.testing.assert_allclose(report.cmc, recorded["official_curve25"], atol=1e-6)
    assert "its authors' own" in report.summary() and "not comparable" in report.protocol
