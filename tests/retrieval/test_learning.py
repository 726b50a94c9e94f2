"""Steps that learn from the training split's features, and distances of two stages of a chain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.reference import steps as reference
from tests.reference.steps import Images
from torchreid_genext.retrieval.protocol import Chain, RetrievalSet, Sightings, compare, evaluate
from torchreid_genext.retrieval.steps.lda import DiscriminantMetric


def people(ids: int, seed: int, each: int = 6, width: int = 12) -> Images:
    """People whose features differ where images of one person hardly do."""
    random = np.random.default_rng(seed)
    pids = np.arange(ids).repeat(each)
    noise = np.linspace(0.2, 3, width) * random.normal(size=(len(pids), width))
    features = (random.normal(size=(ids, width))[pids] + noise).astype(np.float32)
    camids, frames = np.tile(np.arange(each) % 3, ids), random.integers(0, 5000, len(pids))
    return Images(features, pids, camids, frames, features[:, None])


def as_set(images: Images) -> RetrievalSet:
    return RetrievalSet(images.features, images.pids, images.camids, images.frames)


def halves(images: Images) -> tuple[Images, Images]:
    asked = np.arange(len(images.pids)) % 6 == 0
    return tuple(Images(*(column[rows] for column in images)) for rows in (asked, ~asked))


TRAIN, (QUERY, GALLERY) = people(30, 0), halves(people(20, 1))
SETS = as_set(QUERY), as_set(GALLERY)


@pytest.mark.parametrize("options", ({}, {"ridge": 0.05, "width": 4}, {"ridge": 2.0, "width": 99}))
def test_lda_is_fishers(options: dict[str, float]) -> None:
    arguments = ",".join(f"{name}={value}" for name, value in options.items())
    found = compare(*SETS, f"l2+lda({arguments})", train=as_set(TRAIN))
    expected = reference.lda(QUERY, GALLERY, TRAIN, **options)
    for images, rows in zip((found.query, found.gallery), expected):
        # a direction may be mirrored
        np.testing.assert_allclose(images.features @ images.features.t(), rows @ rows.T, atol=1e-4)


def test_lda_tells_people_apart() -> None:
    before, after = (evaluate(*SETS, chain, train=as_set(TRAIN)).mAP for chain in ("l2", "l2+lda"))
    assert after > before + 0.05


def test_the_training_split_goes_through_the_steps_before() -> None:
    train = as_set(TRAIN)
    normalized = compare(train, train, "camera_norm").gallery
    found = compare(*SETS, "camera_norm+lda", train=train).gallery.features
    expected = compare(*compare_sets("camera_norm"), "lda", train=normalized).gallery.features
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def compare_sets(chain: str) -> tuple[RetrievalSet, RetrievalSet]:
    found = compare(*SETS, chain)
    return found.query, found.gallery


def test_one_fit_serves_all_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    train, fits, fit = as_set(TRAIN), [], DiscriminantMetric.fit
    monkeypatch.setattr(DiscriminantMetric, "fit", lambda *a, **b: fits.append(1) or fit(*a, **b))
    for chain in ("l2+lda", "l2+lda+nfc", "l2+lda+st", "lda"):
        compare(*SETS, chain, train=train)
    assert len(fits) == 2  # after l2, and without it


def test_a_metric_is_saved_and_loaded(tmp_path: Path) -> None:
    train = as_set(TRAIN)
    metric = DiscriminantMetric.fit(train.features, train.pids)
    again = DiscriminantMetric.load(metric.save(tmp_path / "metric.safetensors"))
    assert torch.equal(again(SETS[0].features), metric(SETS[0].features))
    with pytest.raises(ValueError, match="expected mean and projection of a metric in"):
        from torchreid_genext import checkpoints

        DiscriminantMetric.load(checkpoints.save(tmp_path / "other.safetensors", {"mean": metric.mean}, {}))


def test_lda_without_features_is_told_before_work() -> None:
    sightings = Sightings(TRAIN.pids, TRAIN.camids, TRAIN.frames)
    for train in (None, sightings):
        with pytest.raises(ValueError, match="features of the training split for the step lda, got none"):
            compare(*SETS, "l2+lda", train=train)


@pytest.mark.parametrize("pids", ([1] * 6, list(range(6))))
def test_people_without_several_images_teach_nothing(pids: list[int]) -> None:
    with pytest.raises(ValueError, match="identities of several different images"):
        DiscriminantMetric.fit(torch.randn(6, 4), torch.tensor(pids))


def test_times_are_known_of_a_training_split_with_features() -> None:
    sightings = Sightings(TRAIN.pids, TRAIN.camids, TRAIN.frames)
    found, expected = (compare(*SETS, "l2+st", train=train).matrix() for train in (as_set(TRAIN), sightings))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("end", ("", "+st", "+st(form=official)"))
@pytest.mark.parametrize("weight", (0.0, 0.35, 1.0))
def test_a_blend_is_the_mean_of_two_chains(weight: float, end: str) -> None:
    train = as_set(TRAIN)
    blended = compare(*SETS, f"l2+blend(weight={weight})+nfc(k1=3,k2=3){end}", train=train).matrix()
    halfway = compare(*SETS, f"l2{end}", train=train).matrix()
    whole = compare(*SETS, f"l2+nfc(k1=3,k2=3){end}", train=train).matrix()
    torch.testing.assert_close(blended, weight * halfway + (1 - weight) * whole, rtol=0, atol=2e-6)


def test_a_blend_is_reranked_as_one_distance() -> None:
    train = as_set(TRAIN)
    for last in ("rerank", "ca_jaccard"):
        both = [compare(*SETS, f"l2+blend(weight={w})+nfc+st+{last}", train=train) for w in (0, 0.5, 1)]
        without = [compare(*SETS, f"{chain}+st+{last}", train=train) for chain in ("l2+nfc", "l2")]
        torch.testing.assert_close(both[0].matrix(), without[0].matrix(), rtol=0, atol=1e-5)
        torch.testing.assert_close(both[2].matrix(), without[1].matrix(), rtol=0, atol=1e-5)
        assert not torch.allclose(both[1].matrix(), without[0].matrix(), atol=1e-3)


def test_one_blend_is_enough() -> None:
    with pytest.raises(ValueError, match="expected one step blend, got several"):
        Chain.parse("l2+blend+nfc+blend")
