"""Weights in and out: nothing foreign is run, nothing half-written stays, nothing is lost in silence."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from torchreid_genext import checkpoints, compat


class Network(nn.Module):
    """A feature layer and a classifier, named as in torchreid's models."""

    def __init__(self, num_classes: int = 3, width: int = 4) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))
        self.classifier = nn.Linear(width, num_classes)


def randomized(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    return network


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_saved_tensors_come_back_bit_by_bit_with_their_metadata(tmp_path: Path) -> None:
    shared = torch.randn(4, 6)
    state = {"a": shared, "b": shared.t(), "c": torch.tensor(3), "d": torch.randn(2).bfloat16()}
    path = checkpoints.save(tmp_path / "new" / "w.safetensors", state, {"widths": [1, 2], "name": "née"})
    assert equal(checkpoints.safe_load(path), state)
    assert checkpoints.read_metadata(path) == {"widths": [1, 2], "name": "née"}


def test_written_files_have_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    saved = checkpoints.save(tmp_path / "w.safetensors", {"a": torch.ones(1)})
    assert saved.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_safetensors_of_others_have_empty_metadata(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors")
    assert checkpoints.read_metadata(tmp_path / "w.safetensors") == {}


@pytest.mark.parametrize("rank1", [0.5, np.float32(0.5), np.float64(0.5), np.int64(1)])
def test_torchreid_checkpoint_is_read_whatever_its_rank1_is(tmp_path: Path, rank1: object) -> None:
    state = Network().state_dict()
    prefixed = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"state_dict": prefixed, "epoch": 3, "rank1": rank1}, tmp_path / "model.pth.tar-3")
    assert equal(checkpoints.safe_load(tmp_path / "model.pth.tar-3"), dict(state))


@pytest.mark.parametrize("zipped", [True, False])
def test_bare_state_dict_is_read_in_both_formats_of_torch(tmp_path: Path, zipped: bool) -> None:
    state = Network().state_dict()
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert equal(checkpoints.safe_load(tmp_path / "w.pth"), dict(state))


class Harmful:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.marker),))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_code_inside_a_weights_file_is_refused_and_not_run(tmp_path: Path, writer: str) -> None:
    path, marker = tmp_path / "evil.pth", tmp_path / "ran"
    content = {"state_dict": {"a": torch.ones(1)}, "extra": Harmful(marker)}
    if writer == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match="evil.pth, which cannot be read"):
        checkpoints.safe_load(path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("kept", [0, 5, 0.5, 0.99])
def test_truncated_file_is_refused_by_name(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(Network(width=64).state_dict(), path)
    else:
        checkpoints.save(path, Network(width=64).state_dict())
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(ValueError, match=f"expected a whole file of tensors, got .*{name}"):
        checkpoints.safe_load(path)


def test_hostile_safetensors_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match="w.safetensors"):
        checkpoints.safe_load(tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="w.safetensors"):
        checkpoints.read_metadata(tmp_path / "w.safetensors")


def test_missing_file_and_folder_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        checkpoints.safe_load(tmp_path / "nowhere.pth")
    with pytest.raises(FileNotFoundError, match=tmp_path.name):
        checkpoints.safe_load(tmp_path)


@pytest.mark.parametrize(
    "content", [{}, [torch.ones(1)], {"a": torch.ones(1), "epoch": 3}, {"state_dict": 5}]
)
def test_file_without_named_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="w.pth, got"):
        checkpoints.safe_load(tmp_path / "w.pth")


def test_interrupted_write_leaves_the_earlier_file_and_nothing_else(tmp_path: Path) -> None:
    path = checkpoints.write_text(tmp_path / "report.md", "old")
    with pytest.raises(KeyboardInterrupt), checkpoints.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.md"]


def test_temporary_file_keeps_folder_and_suffix(tmp_path: Path) -> None:
    with checkpoints.atomic_path(tmp_path / "picture.png") as temporary:
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".png")
        assert not (tmp_path / "picture.png").exists()
        temporary.write_bytes(b"x")
    assert (tmp_path / "picture.png").read_bytes() == b"x"


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="expected a folder that can be written.*file/report.md"):
        checkpoints.write_text(tmp_path / "file" / "report.md", "text")


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """Give up the rights of root for a moment, since root may write everywhere."""
    identity = os.geteuid()
    if identity == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(identity)


def test_read_only_folder_is_named_and_left_as_it_was(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with (
        ordinary_user(),
        pytest.raises(PermissionError, match="expected a folder that can be written.*report.md"),
    ):
        checkpoints.write_text(tmp_path / "report.md", "text")
    assert os.listdir(tmp_path) == []


def test_json_is_whole_and_has_no_nan(tmp_path: Path) -> None:
    path = checkpoints.write_json(tmp_path / "a.json", {"mAP": 0.25})
    assert json.loads(path.read_text()) == {"mAP": 0.25}
    with pytest.raises(ValueError):
        checkpoints.write_json(path, {"mAP": float("nan")})
    assert json.loads(path.read_text()) == {"mAP": 0.25}


def test_weights_fill_the_model_and_classifiers_of_other_identities_are_reported(tmp_path: Path) -> None:
    source, model = randomized(Network(num_classes=5)), randomized(Network(num_classes=3))
    classifier = model.classifier.weight.clone()
    path = checkpoints.save(tmp_path / "w.safetensors", source.state_dict())
    assert checkpoints.load_weights(model, path) == ["classifier.bias", "classifier.weight"]
    assert equal(model.features.state_dict(), source.features.state_dict())
    assert torch.equal(model.classifier.weight, classifier)


def test_classifier_of_the_same_identities_is_loaded_too(tmp_path: Path) -> None:
    source, model = randomized(Network()), randomized(Network())
    path = checkpoints.save(tmp_path / "w.safetensors", source.state_dict())
    assert checkpoints.load_weights(model, path) == []
    assert equal(model.state_dict(), source.state_dict())


def test_backbone_is_saved_without_classifier_and_read_by_a_model_of_any(tmp_path: Path) -> None:
    source, model = nn.DataParallel(randomized(Network(num_classes=5))), Network(num_classes=2)
    path = checkpoints.save_backbone(tmp_path / "b.safetensors", source, {"config": "model: {}"})
    assert checkpoints.read_metadata(path) == {"config": "model: {}"}
    assert not any("classifier" in name for name in checkpoints.safe_load(path))
    assert checkpoints.load_weights(nn.DataParallel(model), path) == ["classifier.bias", "classifier.weight"]
    assert equal(model.features.state_dict(), source.module.features.state_dict())


def test_batch_counters_may_be_absent(tmp_path: Path) -> None:
    source = randomized(Network())
    state = {name: tensor for name, tensor in source.state_dict().items() if "num_batches" not in name}
    path = checkpoints.save(tmp_path / "w.safetensors", state)
    model = Network()
    assert checkpoints.load_weights(model, path) == []
    assert torch.equal(model.features[0].weight, source.features[0].weight)


def test_weights_of_another_model_are_refused_with_every_kind_of_misfit(tmp_path: Path) -> None:
    state = Network(width=7).state_dict() | {"attention.weight": torch.ones(1)}
    del state["features.1.running_var"]
    path = checkpoints.save(tmp_path / "w.safetensors", state)
    model = Network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="expected weights of Network, got .*w.safetensors") as caught:
        checkpoints.load_weights(model, path)
    message = str(caught.value)
    assert "1 missing (features.1.running_var)" in message
    assert "1 unexpected (attention.weight)" in message
    assert "5 of another shape (features.0.weight (7, 2) instead of (4, 2)" in message
    assert equal(dict(model.state_dict()), before)


def test_weights_of_another_torchreid_model_give_one_short_error(tmp_path: Path) -> None:
    path = checkpoints.save(tmp_path / "w.safetensors", compat.build_model("squeezenet1_0", 3).state_dict())
    with pytest.raises(ValueError, match="expected weights of OSNet.*missing.*and .* more") as caught:
        checkpoints.load_weights(compat.build_model("osnet_x0_25", 3), path)
    assert len(str(caught.value)) < 1500


def training_objects() -> tuple[nn.Module, torch.optim.Optimizer, object]:
    model = randomized(Network())
    optimizer = compat.build_optimizer(model, optim="adam", lr=0.1)
    scheduler = compat.build_lr_scheduler(optimizer, lr_scheduler="multi_step", stepsize=[1, 3])
    return model, optimizer, scheduler


def train_one_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: object, seed: int) -> None:
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(seed))
    loss = model.classifier(model.features(x)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()


@pytest.mark.parametrize("parallel", [False, True])
def test_resumed_training_equals_uninterrupted_training(tmp_path: Path, parallel: bool) -> None:
    model, optimizer, scheduler = training_objects()
    train_one_epoch(model, optimizer, scheduler, seed=1)
    saved = nn.DataParallel(model) if parallel else model
    compat.host().utils.save_checkpoint(
        {
            "state_dict": saved.state_dict(),
            "epoch": 1,
            "rank1": np.float32(0.25),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
        },
        str(tmp_path),
    )
    train_one_epoch(model, optimizer, scheduler, seed=2)

    other, other_optimizer, other_scheduler = training_objects()
    path = tmp_path / "model.pth.tar-1"
    assert checkpoints.resume_training(path, other, other_optimizer, other_scheduler) == 1
    train_one_epoch(other, other_optimizer, other_scheduler, seed=2)
    assert equal(dict(other.state_dict()), dict(model.state_dict()))
    assert other_optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_resuming_from_weights_alone_is_refused(tmp_path: Path) -> None:
    torch.save(Network().state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="expected a training checkpoint with epoch, optimizer.*w.pth"):
        checkpoints.resume_training(tmp_path / "w.pth", *training_objects())
