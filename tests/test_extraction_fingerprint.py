"""The key of cached features: whatever a network computes otherwise has another one, and nothing else."""

from __future__ import annotations

import copy
import enum
import functools
import os
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from tests.conftest import ROOT
from torchreid_genext import compat
from torchreid_genext.extraction import Encoder, process
from torchreid_genext.extraction.fingerprint import fingerprint

SIZE = {"height": 32, "width": 16}
SCALE = 1.0


class Net(nn.Module):
    """A convolution with settings that its weights do not show."""

    def __init__(self, stride: int = 1, padding: int = 0, pool: nn.Module | None = None, **more: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 8, 3, stride, padding)
        self.pool, self.neck = pool or nn.AdaptiveAvgPool2d(1), nn.BatchNorm1d(8)
        self.before, self.act, self.more = more.pop("before", False), more.pop("act", nn.ReLU()), more
        self.register_buffer("shift", torch.zeros(8), persistent=False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act(self.layer(x))).flatten(1) + self.shift
        return x if self.before else self.neck(x)


def names(changes: dict) -> str:
    """Of the attributes that differ; their values may print an address."""
    return "-".join(changes)


@pytest.mark.parametrize(
    "settings",
    [
        {"stride": 2}, {"padding": 1}, {"pool": nn.AdaptiveMaxPool2d(1)}, {"before": True},
        {"act": nn.GELU()},
        {"act": nn.LeakyReLU(0.2)}, {"gain": 2}, {"gain": 2.0}, {"gain": "2"}, {"gain": (2,)}, {"gain": None},
        {"sizes": [1, 2]}, {"table": {"a": torch.ones(2)}}, {"act": torch.relu},
        {"part": functools.partial(int, base=2)},
    ],
    ids=names,
)  # fmt: skip
def test_networks_with_the_same_weights_and_other_settings_share_nothing(settings: dict[str, Any]) -> None:
    assert Encoder(Net(**settings), **SIZE).key != Encoder(Net(), **SIZE).key
    assert fingerprint(Net(**settings)) == fingerprint(Net(**settings))


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"channels_last": True}], ids=names)
@pytest.mark.parametrize(
    "settings", [{"stride": 2}, {"pool": nn.AdaptiveMaxPool2d(1)}, {"before": True}], ids=names
)
def test_traced_networks_are_told_apart_too(settings: dict[str, Any], options: dict[str, Any]) -> None:
    assert Encoder(Net(**settings), **SIZE, **options).key != Encoder(Net(), **SIZE, **options).key
    assert Encoder(Net(), **SIZE, **options).key == Encoder(Net(), **SIZE, **options).key


def test_weights_and_buffers_that_are_loaded_later_count() -> None:
    encoder, other = Encoder(Net(), **SIZE), Net()
    keys = [encoder.key]
    nn.init.normal_(other.neck.weight)
    encoder.network.load_state_dict(other.state_dict())
    keys.append(encoder.key)
    encoder.network.shift += 1
    keys.append(encoder.key)
    encoder.mean += 1
    assert len({*keys, encoder.key}) == 4


@pytest.mark.slow
def test_keys_are_known_again_in_another_process() -> None:
    code = "from tests.test_extraction_fingerprint import *; print(*[encoder.key for encoder in encoders()])"
    keys = []
    for seed in ("5", "7"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        there = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=ROOT, check=False
        )
        keys.append(there.stdout.split())
        assert len(keys[-1]) == 2, there.stderr
    assert keys[0] == keys[1]


def test_keys_are_the_same_after_use() -> None:
    here = encoders()
    before = [encoder.key for encoder in here]
    for encoder in here:
        encoder(torch.zeros(2, 32, 16, 3, dtype=torch.uint8))
    assert [encoder.key for encoder in here] == before
    assert here[0].key == Encoder(copy.deepcopy(here[0].network), **SIZE).key


def test_a_precision_that_was_changed_back_is_the_same() -> None:
    (encoder, _), before = encoders(), torch.get_float32_matmul_precision()
    key = encoder.key
    torch.set_float32_matmul_precision("medium")
    changed = encoder.key
    torch.set_float32_matmul_precision(before)
    assert encoder.key == key != changed


def test_what_torch_compile_writes_into_all_modules_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("__init__", "__setstate__"):  # undone at the end, for torch does it once in a process
        monkeypatch.setattr(nn.Module, name, vars(nn.Module)[name])
    monkeypatch.setattr(nn.Module, "___needs_generation_tag_patch", True, raising=False)
    key, before = fingerprint(Net()), nn.Module.__init__
    torch.compile(nn.ReLU(), backend="eager")(torch.zeros(2))
    assert nn.Module.__init__ is not before
    assert fingerprint(Net()) == key


class Plain:
    """What a network may name or hold."""


class Naming(Plain, nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if isinstance(x, Plain) else -x


def test_what_python_keeps_at_a_class_whose_objects_are_copied_is_not_counted() -> None:
    for name in vars(Plain).keys() & {"__slotnames__"}:
        delattr(Plain, name)
    key = fingerprint(Naming())
    copy.deepcopy(Plain())
    assert "__slotnames__" in vars(Plain)
    assert fingerprint(Naming()) == key


class Sides(enum.Flag):
    LEFT = 1
    RIGHT = 2


def test_members_that_a_flag_makes_when_they_are_asked_for_are_not_counted() -> None:
    key = fingerprint(Net(sides=Sides.LEFT))
    assert Sides.LEFT | Sides.RIGHT
    assert fingerprint(Net(sides=Sides.LEFT)) == key != fingerprint(Net(sides=Sides.RIGHT))


def test_paths_count_by_their_text() -> None:
    path = Path("weights") / "best.pt"
    key = fingerprint(Net(path=path))
    assert str(path)
    assert hash(path) is not None  # both are kept in the path
    assert fingerprint(Net(path=path)) == key != fingerprint(Net(path=path.parent))


@pytest.mark.parametrize(
    "make",
    [lambda: np.random.default_rng(0), lambda: np.array([Plain(), None]), threading.Lock],
    ids=["generator", "array of objects", "lock"],
)
def test_where_things_lie_in_memory_is_not_counted(make: Callable[[], Any]) -> None:
    thing = make()
    assert fingerprint(Net(thing=thing)) == fingerprint(Net(thing=make()))


def encoders() -> list[Encoder]:
    return [Encoder(osnet(), **SIZE), Encoder(osnet(), **SIZE, precision="bf16", channels_last=True)]


def osnet() -> nn.Module:
    torch.manual_seed(0)
    return compat.build_model("osnet_x0_25", 4, pretrained=False).eval()


def scaled(by: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x * by


def defaulted(to: float) -> Callable[..., Tensor]:
    return lambda x, by=to: x * by


def patched(change: Callable[[nn.Module], Any]) -> nn.Module:
    net = Net()
    change(net)
    return net


def hook(by: float) -> Callable[..., Tensor]:
    return lambda module, inputs, output: output * by


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def local(source: str) -> nn.Module:
    """A network of a class that is always called Local, with another forward."""
    space: dict[str, Any] = {"nn": nn, "torch": torch, "F": functional, "__name__": "somewhere"}
    exec(f"class Local(nn.Module):\n    def forward(self, x):\n        return {source}", space)  # noqa: S102
    return space["Local"]()


PAIRS = {
    "closures": lambda by: Net(act=scaled(by)),
    "defaults": lambda by: Net(act=defaulted(by)),
    "closures in lists": lambda by: Net(parts=[scaled(by)]),
    "patched forward": lambda by: patched(lambda net: setattr(net, "forward", scaled(by))),
    "patched method": lambda by: patched(
        lambda net: setattr(net, "forward", types.MethodType(lambda self, x: x * by, net))
    ),
    "forward hooks": lambda by: patched(lambda net: net.layer.register_forward_hook(hook(by))),
    "parametrizations": lambda by: patched(
        lambda net: parametrize.register_parametrization(net.layer, "weight", {1: Doubled, 2: Halved}[by]())
    ),
    "classes of one name": lambda by: local(f"x.mean((2, 3)) * {by}"),
    "functions of one name": lambda by: local(("F.relu(x)", "F.gelu(x)")[by - 1]),
    "subclass": lambda by: type("Net", (Net,), {"gain": by, "__module__": __name__})(),
    "compiled parts": lambda by: Net(act=torch.compile({1: Doubled, 2: Halved}[by]())),
    "plain tensors": lambda by: Net(gains=[torch.full((2,), by)]),
    "shapes of tensors": lambda by: Net(gains=[torch.ones(2 // by, by)]),
    "scripts": lambda by: torch.jit.trace(nn.Sequential(Net(stride=by)), torch.zeros(1, 3, 16, 8)),
}


@pytest.mark.parametrize("make", PAIRS.values(), ids=PAIRS)
def test_what_code_does_counts(make: Callable[[int], nn.Module]) -> None:
    assert fingerprint(make(1)) != fingerprint(make(2))
    assert fingerprint(make(2)) == fingerprint(make(2))


class Global(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x) * SCALE


def test_values_and_functions_that_code_names_count(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [fingerprint(Global())]
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 2.0)
    keys.append(fingerprint(Global()))
    monkeypatch.setattr(functional, "relu", scaled(2))
    keys.append(fingerprint(Global()))
    monkeypatch.setattr(functional, "relu", scaled(3))
    keys.append(fingerprint(Global()))
    assert len({*keys}) == 4


@pytest.mark.parametrize(("kind", "method"), [(nn.ReLU, "forward"), (nn.Module, "__call__")])
def test_replaced_methods_of_torch_count(
    kind: type[nn.Module], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = fingerprint(Net())
    monkeypatch.setattr(kind, method, lambda self, x: x)
    assert fingerprint(Net()) != key


def test_names_in_sets_and_circles_do_not_confuse() -> None:
    net = Net(names={"a", "b", "c"})
    net.more["self"] = net.more
    same = Net(names={"c", "a", "b"})
    same.more["self"] = same.more
    assert fingerprint(net) == fingerprint(same)


def test_how_exactly_torch_multiplies_and_what_pillow_lets_pass_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder, before = Encoder(Net(), **SIZE), process.settings()
    keys = [encoder.key]
    torch.set_float32_matmul_precision("medium")
    keys.append(encoder.key)
    process.use(before)
    assert encoder.key == keys[0]
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    assert len({*keys, encoder.key}) == 3


def test_looking_at_a_network_is_quick(tmp_path: Path) -> None:
    network = compat.build_model("resnet50", 4, pretrained=False)
    start = os.times().user
    fingerprint(network)
    assert os.times().user - start < 5
