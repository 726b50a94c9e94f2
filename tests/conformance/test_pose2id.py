"""NFC, ID2 and the demo's evaluator against Pose2ID's own outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tests.conformance.conftest import case, cases, settings, tolerance
from torchreid_genext.retrieval.centralization import id2, nfc
from torchreid_genext.retrieval.metrics import rank_matches
from torchreid_genext.retrieval.protocol import RetrievalSet, evaluate, transform

OFFICIAL_SELF_DISTANCE = 1000.0  # what the official code puts on the diagonal of squared distances


def nfc_cases() -> list[tuple[str, str]]:
    return [(name, key) for name in cases(r"nfc.*") for key in case(name)[1]]


@pytest.mark.parametrize("precision", ("fp32", "bf16"))
@pytest.mark.parametrize(("name", "key"), nfc_cases())
def test_nfc_equals_the_official_one(name: str, key: str, precision: str) -> None:
    inputs, outputs = case(name)
    features = inputs["feats"]
    ks = settings(key)
    if key.startswith("normalized"):
        features = normalize(features)
    found = nfc(features, **ks, self_distance=OFFICIAL_SELF_DISTANCE, precision=precision)
    if key.startswith("normalized"):
        found = normalize(found)
    assert (found - outputs[key]).abs().max() <= tolerance("nfc") * outputs[key].abs().max()


def test_official_self_distance_matters_only_for_long_features() -> None:
    for name in cases(r"nfc.*"):
        features = case(name)[0]["feats"]
        same = torch.equal(nfc(features), nfc(features, self_distance=OFFICIAL_SELF_DISTANCE))
        farthest = torch.cdist(features, features).square().topk(2, largest=False).values[:, 1].max()
        assert same or farthest > OFFICIAL_SELF_DISTANCE


def test_id2_equals_the_official_one() -> None:
    inputs, outputs = case("id2")
    assert (id2(inputs["feats"], inputs["pids"]) - outputs["density"]).abs().max() <= tolerance("id2")


def official_sets(images: int, order: torch.Tensor) -> tuple[RetrievalSet, RetrievalSet]:
    """The demo's features: plus twice those of generated images, or plus twice themselves without."""
    inputs, _ = case("evaluator")
    number = int(inputs["num_query"])
    generated = inputs["feats_ipg" if images else "feats"][:, None]
    columns = (inputs["feats"], inputs["pids"], inputs["camids"], None, generated)
    split = lambda rows: RetrievalSet(*(None if c is None else c[rows] for c in columns))  # noqa: E731
    return split(order[:number]), split(order[number:])


def reordered(seed: int | None) -> torch.Tensor:
    """Rows of the recording, as they stand or with the queries and the gallery each in another order."""
    inputs, _ = case("evaluator")
    number, total = int(inputs["num_query"]), len(inputs["feats"])
    if seed is None:
        return torch.arange(total)
    random = torch.Generator().manual_seed(seed)
    gallery = torch.randperm(total - number, generator=random) + number
    return torch.cat([torch.randperm(number, generator=random), gallery])


def curve_bounds(query: RetrievalSet, gallery: RetrievalSet, distances: Tensor, length: int) -> np.ndarray:
    """The CMC with ties read against and for the queries (2, length): one curve where no tie decides."""
    labels = (column.numpy() for column in (query.pids, gallery.pids, query.camids, gallery.camids))
    ranking = rank_matches(distances.numpy(), *labels)
    first = np.stack([ranking.pessimistic_first_rank, ranking.optimistic_first_rank])[:, ranking.valid]
    return np.stack([(first <= rank).mean(1) for rank in range(1, length + 1)], axis=1)


@pytest.mark.parametrize("seed", (None, 0, 1), ids=("recorded", "reordered", "again"))
@pytest.mark.parametrize("key", sorted({key.rsplit(".", 1)[0] for key in case("evaluator")[1]}))
def test_demo_evaluator_is_a_chain(key: str, seed: int | None) -> None:
    """Features and rates to the digit, in any order; where exact ties decide, rates lie in their bounds."""
    options, (_, outputs), order = settings(key), case("evaluator"), reordered(seed)
    chain = "fuse(eta=2)+" + ("nfc" if options["nfc"] else "l2")
    query, gallery = official_sets(options["ipg"], order)
    recorded = {name: outputs[f"{key}.{name}"] for name in ("qf", "gf", "mAP", "cmc")}
    report = evaluate(query, gallery, chain, max_rank=len(recorded["cmc"]))
    after = transform(query, gallery, chain)
    expected = torch.cat([recorded["qf"], recorded["gf"]])[order]
    found = torch.cat([after.query.features, after.gallery.features])
    assert (found - expected).abs().max() <= tolerance("evaluator qf")
    rounding = tolerance("evaluator mAP")
    low, high = report.map_bounds
    assert low - rounding <= float(recorded["mAP"]) <= high + rounding
    low, high = curve_bounds(after.query, after.gallery, after.matrix(), len(recorded["cmc"]))
    curve = recorded["cmc"].numpy()
    assert (low - rounding <= curve).all() and (curve <= high + rounding).all()
