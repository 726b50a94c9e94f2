"""Keys that cannot work are told by `attach`, before a training, and none is without effect."""

from __future__ import annotations

from typing import Any

import pytest

from tests.test_engine import (  # noqa: F401 (fixtures)
    EVALUATOR,
    NFC,
    engine,
    measure,
    pictures,
    tiny_config,
    tiny_datasets,
)
from torchreid_genext.engine import attach


@pytest.mark.parametrize(
    ("key", "value", "message"),
    (
        ("device", "gpu0", "expected genext.evaluation.device to be auto or a device that is there"),
        ("device", "cuda:99", "expected genext.evaluation.device to be auto or a device that is there"),
        ("memory_limit", "-1", "expected memory_limit >= 1 byte, got -1"),
        ("index", "foo", "unknown index 'foo'; choose from exact"),
        ("protocol", "foo", "unknown protocol 'foo'; choose from market1501"),
    ),
)
@pytest.mark.parametrize("switch", (NFC, EVALUATOR), ids=("nfc", "evaluator"))
def test_a_key_out_of_range_is_told_before_a_training(
    engine: Any,  # noqa: F811
    switch: tuple[str, str],
    key: str,
    value: str,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        attach(engine, tiny_config(*switch, f"genext.evaluation.{key}", value))


def test_a_protocol_alone_is_the_one_that_is_measured(engine: Any) -> None:  # noqa: F811
    alone = measure(attach(engine, tiny_config("genext.evaluation.protocol", "streid")))
    assert alone == measure(attach(engine, tiny_config(*EVALUATOR, "genext.evaluation.protocol", "streid")))
    assert alone != measure(attach(engine, tiny_config(*EVALUATOR)))
