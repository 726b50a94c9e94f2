"""Where networks come from: functions of the user's, and names that mean nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from torchreid_genext import compat
from torchreid_genext.backbones import sources

pytestmark = pytest.mark.usefixtures("registered")
CODE = """
import torch
def plain(): return torch.nn.Flatten()
def taking(num_classes, loss, width=3): return torch.nn.Linear(width, num_classes)
def every(**options): return torch.nn.Linear(options["num_classes"], len(options))
def nothing(): return 3
value = 3
class Net(torch.nn.Flatten): pass
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "doors_of_test.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)


def build(name: str, **options: Any) -> torch.nn.Module:
    return sources.build(f"module:doors_of_test.{name}", 7, options=options)


def test_a_function_is_given_what_it_takes() -> None:
    assert isinstance(build("plain"), torch.nn.Flatten) and isinstance(build("Net"), torch.nn.Flatten)
    assert (build("taking").in_features, build("taking", width=5).in_features) == (3, 5)
    assert build("every").in_features == 7 and build("every").out_features == 4


@pytest.mark.parametrize(
    "name, kind, words",
    [
        (
            "module:doors_of_test.nothing",
            ValueError,
            "expected a torch.nn.Module from doors_of_test.nothing, got a int",
        ),
        (
            "module:doors_of_test.value",
            ValueError,
            "expected a function that returns a network, got int doors",
        ),
        (
            "module:doors_of_test.zzz",
            ValueError,
            "expected a function of doors_of_test, got 'module:doors_of_test.zzz'",
        ),
        ("module:zzz_zzz.net", ImportError, r"needs the module 'zzz_zzz', which is missing; .*PYTHONPATH"),
        ("module:net", ValueError, "expected module:package.function, got 'module:net'"),
        ("features:a.npz", ValueError, "expected a network, got features:a.npz, which holds features only"),
        (
            "osnet_x9",
            ValueError,
            "unknown model 'osnet_x9'; choose from .*osnet_x0_25.* or begin with timm:, onnx:",
        ),
        ("hub:osnet", ValueError, "unknown model 'hub:osnet'"),
        ("onnx:", ValueError, "expected a name behind 'onnx:', got none"),
    ],
)
def test_names_that_mean_nothing_are_refused(name: str, kind: type, words: str) -> None:
    with pytest.raises(kind, match=words):
        sources.build(name, 1)


@pytest.mark.parametrize(
    "name, options", [("osnet_x0_25", {"a": 1}), ("transreid", {"a": 1}), ("genid", {"a": 1})]
)
def test_options_that_no_constructor_takes_are_refused(name: str, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"expected options that {name} takes, got {{'a': 1}}"):
        sources.build(name, 1, options=options)
    with pytest.raises(ValueError, match=r"expected a function of .*, got doors_of_test.plain: .*'a'"):
        build("plain", a=1)


def test_torchreids_models_are_those_of_its_registry() -> None:
    torch.manual_seed(0)
    ours = sources.build("osnet_x0_25", 3, loss="triplet").state_dict()
    torch.manual_seed(0)
    theirs = compat.build_model("osnet_x0_25", 3, loss="triplet").state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_whom_torchreid_fetches_weights_for_is_known() -> None:
    """Its factories of other models reach for an address when they are asked for weights."""
    assert sources._WITHOUT_WEIGHTS <= set(compat.model_names())
    for name in sources._WITHOUT_WEIGHTS - {"mudeep", "hacnn"}:
        with pytest.warns(UserWarning, match="manually downloaded|unavailable"):
            compat.build_model(name, 1, pretrained=True)
