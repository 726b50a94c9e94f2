"""CMC and mAP against values recorded beside other systems' official evaluations."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conformance.conftest import system_tolerance, vectors
from torchreid_genext.retrieval.metrics import evaluate_rank


def test_market_protocol_equals_the_recorded_standard_values() -> None:
    recorded = np.load(vectors("systems") / "genreid_eval.npz")
    query, gallery = recorded["emb_query"].astype(np.float64), recorded["emb_gallery"].astype(np.float64)
    distances = ((query[:, None] - gallery) ** 2).sum(2)
    labels = (recorded[name] for name in ("q_pid", "g_pid", "q_cam", "g_cam"))
    cmc, mean_ap = evaluate_rank(distances, *labels, max_rank=len(recorded["standard_cmc25"]))
    np.testing.assert_allclose(
        cmc, recorded["standard_cmc25"], atol=1e-7
    )  # the curve is float32, as torchreid's
    assert mean_ap == pytest.approx(float(recorded["standard_mAP"]), abs=system_tolerance("genreid_eval.npz"))
