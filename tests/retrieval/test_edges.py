"""What users hand over by mistake or from other programs: taken, or refused in one sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from torchreid_genext.retrieval.protocol import (
    STEPS,
    Chain,
    Protocol,
    RetrievalSet,
    compare,
    evaluate,
    expand_chains,
)


def images(size: int = 12, seed: int = 0) -> RetrievalSet:
    generator = torch.Generator().manual_seed(seed)
    pids = torch.arange(size) % 4
    features = torch.randn(size, 6, generator=generator) + pids[:, None]
    return RetrievalSet(features, pids, torch.arange(size) % 3)


@pytest.mark.parametrize(
    "array",
    (
        np.eye(4, dtype=np.float32)[::-1],
        np.eye(4).astype(">f4")[::-1],
        np.broadcast_to(np.float32(2), (4, 4)),
        np.eye(8, dtype=np.float64)[::2, ::2],
    ),
    ids=("reversed", "big endian", "read-only", "strided"),
)
@pytest.mark.filterwarnings("error")
def test_arrays_of_any_layout_are_taken(array: np.ndarray) -> None:
    assert RetrievalSet(array, [1, 2, 3, 4]).features.tolist() == array.tolist()


@pytest.mark.parametrize("features", (None, {}, [["a"] * 4] * 4, [[1.0, 2.0], [1.0]]))
def test_what_is_no_array_is_refused(features: Any) -> None:
    with pytest.raises(ValueError, match="expected features"):
        RetrievalSet(features, [1, 2, 3, 4])


@pytest.mark.parametrize("label", (float("inf"), -float("inf"), 1e300, 2.0**63))
def test_labels_beyond_integers_are_refused(label: float) -> None:
    with pytest.raises(ValueError, match="below 2"):
        RetrievalSet(torch.eye(2), [1.0, label])


def test_unsigned_labels_beyond_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="below 2"):
        RetrievalSet(torch.eye(2), np.array([2**63 + 5, 1], dtype=np.uint64))
    labels = np.array([2**63 - 1, 1], dtype=np.uint64)
    assert RetrievalSet(torch.eye(2), labels).pids.tolist() == [2**63 - 1, 1]


def test_labels_in_half_precision_are_taken() -> None:
    labels = torch.tensor([1.0, 2.0]).bfloat16()
    assert RetrievalSet(torch.eye(2), labels).pids.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("field", "value"),
    (
        ("own_camera", "no"), ("trapezoidal", 1), ("junk_pid", "x"), ("junk_pid", 1.5), ("junk_pid", True),
        ("seed", 1.5), ("seed", "0"), ("seed", -1), ("seed", True),
    ),
)  # fmt: skip
def test_fields_of_a_protocol_have_types(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"expected {field} to be"):
        Protocol("own", **{field: value})


@pytest.mark.parametrize("options", ({"max_rank": 2.5}, {"max_rank": True}, {"index": None}))
def test_options_of_another_type_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="expected max_rank to be an integer|unknown index"):
        evaluate(images(), images(seed=1), **options)


def test_an_empty_set_cannot_be_compared() -> None:
    empty = RetrievalSet(torch.empty(0, 6), [], [])
    for pair in ((empty, images()), (images(), empty)):
        with pytest.raises(ValueError, match="expected a query and a gallery image at least"):
            compare(*pair)


@pytest.mark.parametrize("chain", (None, 3, ["nfc", "l2"]))
def test_a_chain_is_text(chain: Any) -> None:
    with pytest.raises(ValueError, match="expected a chain as text"):
        Chain.parse(chain)


def test_one_text_is_not_read_letter_by_letter() -> None:
    assert expand_chains("nfc(k1=1|3)") == expand_chains(["nfc(k1=1|3)"])


@pytest.mark.parametrize("chain", ("base+nfc", "nfc+base"))
def test_base_among_steps_is_named(chain: str) -> None:
    with pytest.raises(ValueError, match="expected base, which is no step, alone"):
        Chain.parse(chain)


def test_a_rule_without_bounds_reads_well() -> None:
    with pytest.raises(ValueError, match="to be a number, got nan"):
        STEPS["nfc"](self_distance=float("nan"))
