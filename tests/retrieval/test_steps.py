"""Steps as typed values: what a text may say, what a step needs, and when it is told."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
import torch

from torchreid_genext.retrieval.protocol import (
    STEPS,
    Chain,
    RetrievalSet,
    Sightings,
    compare,
    evaluate,
)
from torchreid_genext.retrieval.steps.base import NEEDS


@pytest.mark.parametrize("word", ("false", "False", "no", "off", "OFF"))
def test_switches_are_switched_off_by_any_usual_word(word: str) -> None:
    (step,) = Chain.parse(f"nfc(normalize_after={word})").steps
    assert step.normalize_after is False and str(step) == "nfc(normalize_after=False)"


@pytest.mark.parametrize("word", ("true", "yes", "on"))
def test_switches_are_switched_on_by_any_usual_word(word: str) -> None:
    (step,) = Chain.parse(f"fuse(normalize_before={word})").steps
    assert step.normalize_before is True


@pytest.mark.parametrize(
    ("text", "message"),
    (
        ("nfc(k1=True)", "expected nfc k1 to be an integer, got 'True'"),
        ("nfc(k1=2.5)", "expected nfc k1 to be an integer, got '2.5'"),
        ("nfc(normalize_after=maybe)", "expected nfc normalize_after to be True or False, got 'maybe'"),
        ("nfc(k1=2,k1=4)", "expected each argument once in .*, got k1 again"),
        ("fuse(eta=abc)", "expected fuse eta to be a number, got 'abc'"),
        ("fuse(eta=nan)", "expected fuse eta to be a number finite, got nan"),
        ("st(weight=x)", "expected st weight to be a number, got 'x'"),
        ("st(floor=0)", "expected st floor to be a number > 0 and finite, got 0"),
        ("st(interval=0)", "expected st interval to be an integer >= 1, got 0"),
        ("tracklets(gap=-5)", "expected tracklets gap to be an integer >= 0, got -5"),
        ("tracklets(threshold=2)", "expected tracklets threshold to be a number >= -1 and <= 1"),
        ("alpha_qe(alpha=-1)", "expected alpha_qe alpha to be a number >= 0 and finite, got -1"),
        ("rerank(k1=0)", "expected rerank k1 to be an integer >= 1, got 0"),
        ("rerank(lambda_value=7)", "expected rerank lambda_value to be a number >= 0 and <= 1 and finite"),
        ("camera_norm(epsilon=0)", "expected camera_norm epsilon to be a number > 0"),
        ("st+st(weight=1)", "expected one step that replaces the distance, got several"),
        ("rerank+l2", "expected re-ranking to be the last step"),
    ),
)
def test_arguments_of_another_kind_or_range_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Chain.parse(text)


def test_numbers_of_numpy_are_numbers() -> None:
    assert STEPS["nfc"](k1=np.int64(3)) == STEPS["nfc"](k1=3)
    assert STEPS["st"](weight=np.float32(0.5)) == STEPS["st"](weight=0.5)


def test_none_and_infinity_are_values_where_they_mean_something() -> None:
    (step,) = Chain.parse("st(sigma=none)").steps
    assert step.sigma is None
    (step,) = Chain.parse("nfc(self_distance=inf)").steps
    assert math.isinf(step.self_distance)


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_every_field_says_what_it_is_and_every_need_has_a_name(step: type) -> None:
    assert all(field.metadata["help"] for field in fields(step))
    assert step().needs <= set(NEEDS)
    assert Chain.parse(str(step())).steps == (step(),)


def images(**columns: object) -> RetrievalSet:
    features = torch.eye(4)
    return RetrievalSet(features, [0, 1, 0, 1], **{"camids": [0, 0, 1, 1]} | columns)


@pytest.mark.parametrize(
    ("chain", "without", "missing"),
    (
        ("camera_norm", {"camids": None}, "camids in both sets for the step camera_norm"),
        ("nfc(neighbours=cross_camera)", {"camids": None}, "camids in both sets for the step nfc"),
        ("l2+tracklets", {}, "frames in both sets for the step tracklets"),
        ("nfc+st", {"frames": [1, 2, 3, 4]}, "times of the training split for the step st"),
        ("l2+fuse", {}, "a gallery set with generated features and a query set with generated features"),
    ),
)
def test_what_a_step_needs_is_told_before_the_first_step(chain: str, without: dict, missing: str) -> None:
    with pytest.raises(ValueError, match=f"expected {missing}.*, got none"):
        compare(images(**without), images(**without), chain)


def test_nothing_is_asked_of_data_that_no_step_uses() -> None:
    train = Sightings([0, 0, 1, 1], [0, 1, 0, 1], [0, 500, 100, 600])
    frames = {"frames": [10, 20, 510, 520]}
    assert evaluate(images(**frames), images(**frames), "st", train=train).mAP > 0
