"""NFC, ID2 and the demo's evaluator against Pose2ID's own outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from tests.conformance.conftest import case, cases, settings, tolerance
from torchreid_genext.retrieval.centralization import id2, nfc
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


def official_sets(images: int) -> tuple[RetrievalSet, RetrievalSet]:
    """The demo's features: plus twice those of generated images, or plus twice themselves without."""
    inputs, _ = case("evaluator")
    number = int(inputs["num_query"])
    generated = inputs["feats_ipg" if images else "feats"][:, None]
    columns = (inputs["feats"], inputs["pids"], inputs["camids"], None, generated)
    split = lambda part: RetrievalSet(*(None if c is None else c[part] for c in columns))  # noqa: E731
    return split(slice(0, number)), split(slice(number, None))


@pytest.mark.parametrize("key", sorted({key.rsplit(".", 1)[0] for key in case("evaluator")[1]}))
def test_demo_evaluator_is_a_chain(key: str) -> None:
    options, (_, outputs) = settings(key), case("evaluator")
    chain = "fuse(eta=2)+" + ("nfc" if options["nfc"] else "l2")
    query, gallery = official_sets(options["ipg"])
    report = evaluate(query, gallery, chain, max_rank=len(outputs[f"{key}.cmc"]))
    after = transform(query, gallery, chain)
    for found, recorded in ((after.query, "qf"), (after.gallery, "gf")):
        assert (found.features - outputs[f"{key}.{recorded}"]).abs().max() <= tolerance("evaluator qf")
    assert abs(report.mAP - float(outputs[f"{key}.mAP"])) <= tolerance("evaluator mAP")
    assert np.abs(np.array(report.cmc) - outputs[f"{key}.cmc"].numpy()).max() <= tolerance("evaluator mAP")
