"""k-reciprocal re-ranking against torchreid's and ST-ReID's own outputs."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from tests.conformance.conftest import vectors
from torchreid_genext.retrieval.reranking import KReciprocal, k_reciprocal_distances
from torchreid_genext.retrieval.spaces import RowSpace

FILE, ST_FILE = "camstyle_lsr_rerank.npz", "streid_eval.npz"


def recorded_cases(author: str) -> list[str]:
    return sorted(name for name in np.load(vectors("systems") / FILE) if name.startswith(f"{author}_rerank_"))


def options(name: str) -> dict[str, float]:
    k1, k2, lambda_value = name.split("_")[2:]
    return {"k1": int(k1), "k2": int(k2), "lambda_value": float(lambda_value)}


def rerank_tolerance(file: str) -> float:
    manifest = json.loads((vectors("systems") / "MANIFEST.json").read_text())
    return float(re.search(r"re-?rank (\d+e-\d+)", manifest[file]["tolerance"])[1])


def rerank_scores(scores: np.ndarray, num_query: int, **numbers: float) -> torch.Tensor:
    """As the authors of ST-ReID do: 2 - 2 score, not squared."""
    distances = torch.from_numpy(2 - 2 * scores).float()
    space = RowSpace(lambda rows: distances[rows], len(distances))
    return KReciprocal.of(space, num_query, power=1, **numbers).distances(slice(0, num_query))


@pytest.mark.parametrize("name", recorded_cases("torchreid"))
def test_distances_equal_those_of_torchreid(name: str) -> None:
    recorded = np.load(vectors("systems") / FILE)
    everyone, q = recorded["euclid_all"], len(recorded["qf"])
    found = k_reciprocal_distances(everyone[:q, q:], everyone[:q, :q], everyone[q:, q:], **options(name))
    np.testing.assert_allclose(found, recorded[name], rtol=0, atol=rerank_tolerance(FILE))


@pytest.mark.parametrize("name", recorded_cases("streid"))
def test_similarities_give_the_distances_of_streid(name: str) -> None:
    recorded = np.load(vectors("systems") / FILE)
    found = rerank_scores(recorded["cos_all"], len(recorded["qf"]), **options(name))
    np.testing.assert_allclose(found, recorded[name], rtol=0, atol=rerank_tolerance(FILE))


def test_joint_similarities_give_the_distances_of_streid() -> None:
    """A joint similarity of an image with itself is not the greatest, since one camera has no transitions."""
    recorded = np.load(vectors("systems") / ST_FILE)
    found = rerank_scores(recorded["all_scores"], len(recorded["query_label"]))
    np.testing.assert_allclose(found, recorded["rerank_dist"], rtol=0, atol=rerank_tolerance(ST_FILE))
