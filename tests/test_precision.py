"""Names of precisions, and what `auto` becomes on which machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from torchreid_genext.precision import DTYPES, autocast, computes_bf16, cpu_has, resolve
from torchreid_genext.training.options import Options


@pytest.mark.parametrize("precision", DTYPES)
def test_names_stand_for_themselves(precision: str) -> None:
    assert resolve(precision, "cpu") == precision


@pytest.mark.parametrize(
    "instructions, expected", (((), "fp32"), (("amx_tile",), "bf16"), (("avx512_bf16",), "bf16"))
)
def test_auto_is_what_the_processor_has_instructions_for(
    instructions: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("amx_tile", "avx512_bf16"):
        has = name in instructions
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda has=has: has, raising=False)
    assert resolve("auto", "cpu") == expected
    options = Options(steps=1, folder=tmp_path, mixed_precision="auto", cpu=True)
    assert options.mixed_precision == {"fp32": "no", "bf16": "bf16"}[expected]


def test_unknown_instructions_and_devices_have_none() -> None:
    assert not cpu_has("warp_drive") and not computes_bf16("meta")


def test_unknown_precisions_are_named() -> None:
    with pytest.raises(ValueError, match="unknown precision 'fp8'; choose from auto, fp32, bf16, fp16"):
        resolve("fp8", "cpu")


def test_autocast_is_off_in_single_precision() -> None:
    x = torch.ones(2, 2)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(precision, x.device):
            assert (x @ x).dtype == dtype
