"""How long and how fast: what stages have of their own, and what keys change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from yacs.config import CfgNode

from torchreid_genext import config
from torchreid_genext.recipes.training import gan, identity, ipg
from torchreid_genext.recipes.training.schedules import OFFICIAL, OWN, Schedule, configured_size, schedule


def said(**training: object) -> CfgNode:
    cfg = config.get_default_config()
    cfg.genext.training.update(training)
    return cfg


def test_stages_have_their_own_where_keys_say_nothing() -> None:
    cfg = config.get_default_config()
    assert {stage: schedule(cfg, stage) for stage in OWN} == OWN
    for stage in OWN:
        assert schedule(cfg, stage, official=True) == OFFICIAL.get(stage, OWN[stage])


def test_every_stage_of_the_recipes_has_one() -> None:
    alone = {"pg2_stage1", "pg2_stage2"}
    assert OWN.keys() == {*identity.STAGES, *ipg.STAGES, *gan.STAGES, *alone} - {"pg2"}


@pytest.mark.parametrize("stage", OWN)
def test_a_key_holds_for_all_stages_and_a_text_for_one(stage: str) -> None:
    values = {"steps": 7, "batch_size": 3, "lr": 0.5, "weight_decay": 0.25, "warmup": 2, "schedule": "linear"}
    values |= {"clip_norm": 9.0, "ema_decay": 0.5, "flip": 0.75}
    assert schedule(said(**values), stage) == Schedule(**values)
    cfg = said(**values, stages=["gen( lr = 1e-4, steps=5)", "prior()", "gen(schedule=cosine)"])
    alone = replace(Schedule(**values), lr=1e-4, steps=5, schedule="cosine")
    assert schedule(cfg, stage) == (alone if stage == "gen" else Schedule(**values))


def test_image_sizes_are_two_numbers_of_pixels() -> None:
    assert configured_size(said(image_size=[64, 32]), (128, 64)) == (64, 32)
    assert configured_size(said(), (128, 64)) == configured_size(said(), (128, 64), "sampling") == (128, 64)
    for wrong in ([64], [64, 0], [64.0, 32.0], [64, 32, 3]):
        with pytest.raises(ValueError, match=r"genext.training.image_size as \[height, width\] in pixels, got"):
            configured_size(said(image_size=wrong), (128, 64))


def test_zero_is_a_value_where_it_means_something() -> None:
    none = {"weight_decay": 0.0, "warmup": 0, "clip_norm": 0.0, "ema_decay": 0.0, "flip": 0.0}
    assert schedule(said(**none), "cross") == replace(OWN["cross"], **none)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["lr=1"], "expected genext.training.stages such as 'prior\\(lr=1e-4,steps=3000\\)', got 'lr=1'"),
        (["pg2(lr=1)"], "unknown stage 'pg2' in 'pg2\\(lr=1\\)'; choose from gen, .*, camstyle"),
        (["gen(rate=1)"], "unknown setting 'rate' in 'gen\\(rate=1\\)'; choose from steps, .*, flip"),
        (["gen(steps=1.5)"], "expected steps to be int, got '1.5' in 'gen\\(steps=1.5\\)'"),
        (["gen(lr)"], "expected lr to be float, got '' in"),
        (["gen(steps=0)"], "expected steps of at least 1, got 0"),
        (["gen(flip=2)"], "expected flip in 0 .. 1, got 2.0"),
        (["gen(lr=-1)"], "expected lr >= 0, got -1.0"),
        (["gen(schedule=fast)"], "unknown schedule 'fast'"),
    ],
)
def test_what_is_no_schedule_is_told(texts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule(said(stages=texts), "gen")
