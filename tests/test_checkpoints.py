"""Weights in and out: nothing foreign is run, nothing half-written stays, nothing is lost in silence."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import logging
import multiprocessing
import os
import pickle
import resource
import signal
import types
import zipfile
from collections.abc import Callable, Iterator
from multiprocessing import Queue
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from torchreid_genext import checkpoints, compat

WEIGHTS = {"a.weight": torch.arange(4.0), "a.bias": torch.ones(1)}


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
    with pytest.raises(FileNotFoundError, match="nowhere.pth, which does not exist$"):
        checkpoints.safe_load(tmp_path / "nowhere.pth")
    with pytest.raises(FileNotFoundError, match=f"got the folder .*{tmp_path.name}$"):
        checkpoints.safe_load(tmp_path)


@pytest.mark.parametrize("reader", [checkpoints.safe_load, checkpoints.read_metadata])
def test_missing_file_names_the_most_similar_one_and_a_folder_its_files(
    tmp_path: Path, reader: Callable[[Path], object]
) -> None:
    for name in ("model.pth.tar-10", "model.pth.tar-60", "notes.txt", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "model.pth.tar-6").mkdir()
    with pytest.raises(FileNotFoundError, match="does not exist; near there: model.pth.tar-60$"):
        reader(tmp_path / "model.pth.tar-66")
    with pytest.raises(
        FileNotFoundError, match="choose there: model.pth.tar-10, model.pth.tar-60, notes.txt$"
    ):
        reader(tmp_path)


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes alike as Python 2 did: as strings of bytes."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, text: str | bytes) -> None:
        content = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.SHORT_BINSTRING + bytes([len(content)]) + content)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_string


def python2_dump(content: object, file: io.BufferedIOBase, protocol: int) -> None:
    Python2Pickler(file, protocol).dump(content)


def save_as_python2(content: object, path: Path) -> None:
    module = types.SimpleNamespace(__name__="pickle", Pickler=Python2Pickler, dump=python2_dump)
    torch.save(content, path, pickle_module=module, pickle_protocol=2, _use_new_zipfile_serialization=False)


@pytest.mark.filterwarnings("error")
def test_files_of_python_2_are_read_with_their_numpy_scalars(tmp_path: Path) -> None:
    state = randomized(Network()).state_dict()
    save_as_python2({"state_dict": state, "rank1": np.float64(0.1), "epoch": 60}, tmp_path / "w.pth")
    assert b"U\x05rank1" in (tmp_path / "w.pth").read_bytes()
    model = Network()
    assert checkpoints.load_weights(model, tmp_path / "w.pth") == []
    assert equal(dict(model.state_dict()), dict(state))


def test_code_in_a_file_of_python_2_is_refused_and_not_run(tmp_path: Path) -> None:
    save_as_python2({"state_dict": WEIGHTS, "extra": Harmful(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(
        ValueError, match=r"evil.pth, .* it holds code \(\w+\.mkdir\): save only the state_dict"
    ):
        checkpoints.safe_load(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
NOT_WEIGHTS = {
    "empty": (b"", "it is empty: download it again"),
    "pointer": (POINTER, "it is a Git LFS pointer: run `git lfs pull`"),
    "page": (b"\xef\xbb\xbf\n <!DOCTYPE html><html>Quota", "it is a web page, not weights: .* in a browser"),
    "xml": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "it is a web page"),
    "json": (b'{"error": {"code": 404}}', r"it is JSON, not weights \('{\"error\": {\"code\": 404}}'\)"),
    "text": ("Zugriff verwéigert\n".encode(), r"it is text, not weights \('Zugriff verwéigert'\)"),
    "gzip": (b"\x1f\x8b\x08\x00\x00", "it is a gzip archive: unpack it first"),
    "tar": (bytes(257) + b"ustar" + bytes(250), "it is a tar archive: unpack it first"),
    "keras": (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file"),
    "noise": (bytes(range(256)), "it is cut short or damaged, or is no file of weights"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".SAFETENSORS", ".pth", ".pt", ".tar"])
@pytest.mark.parametrize("kind", NOT_WEIGHTS)
def test_what_is_no_weights_is_called_what_it_is(tmp_path: Path, kind: str, suffix: str) -> None:
    content, words = NOT_WEIGHTS[kind]
    (tmp_path / f"w{suffix}").write_bytes(content)
    with pytest.raises(ValueError, match=rf"w{suffix}, which cannot be read: {words}"):
        checkpoints.load_weights(Network(), tmp_path / f"w{suffix}")


@pytest.mark.parametrize("kind", ["empty", "pointer", "page"])
def test_metadata_and_hdf5_of_what_is_none_are_refused_alike(tmp_path: Path, kind: str) -> None:
    content, words = NOT_WEIGHTS[kind]
    (tmp_path / "w.any").write_bytes(content)
    for reader in (checkpoints.read_metadata, checkpoints.read_hdf5):
        with pytest.raises(ValueError, match=f"w.any, which cannot be read: {words}"):
            reader(tmp_path / "w.any")


def test_archive_and_program_are_told_from_weights(tmp_path: Path) -> None:
    for names, words in (
        (["w.pth"], "a zip archive, not weights: unpack"),
        (PROGRAM, "a TorchScript program"),
    ):
        with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
            for name in names:
                archive.writestr(name, "x")
        with pytest.raises(ValueError, match=f"w.pth, which cannot be read: it is {words}"):
            checkpoints.safe_load(tmp_path / "w.pth")


PROGRAM = ["w/data.pkl", "w/constants.pkl", "w/version"]


def test_content_decides_and_not_the_suffix(tmp_path: Path) -> None:
    state = randomized(Network()).state_dict()
    checkpoints.save(tmp_path / "a.safetensors", state, {"kind": "a"}).rename(tmp_path / "a.pth")
    torch.save({"model": state}, tmp_path / "b.safetensors")
    checkpoints.save(tmp_path / "C.SAFETENSORS", state)
    for name in ("a.pth", "b.safetensors", "C.SAFETENSORS"):
        model = Network()
        assert checkpoints.load_weights(model, tmp_path / name) == []
        assert equal(dict(model.state_dict()), dict(state))
    assert checkpoints.read_metadata(tmp_path / "a.pth") == {"kind": "a"}


BESIDE = {
    "epoch": 3, "arch": "resnet50",
    "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []},
    "named": {"state": {"a.weight": torch.ones(2)}, "param_groups": []},
    "criterion": {"centers": torch.ones(2)},
    "best": torch.tensor(0.5), 7: WEIGHTS, "scheduler": {"last_epoch": 3},
}  # fmt: skip


@pytest.mark.parametrize("entry", ["model", "net", "params", "model_state_dict", "a.b.state_dict"])
def test_the_only_entry_of_named_tensors_is_read(tmp_path: Path, entry: str) -> None:
    content: dict = dict(WEIGHTS)
    for name in reversed(entry.split(".")):
        content = {name: content}
    torch.save({**content, **BESIDE}, tmp_path / "w.pth")
    assert equal(checkpoints.safe_load(tmp_path / "w.pth"), WEIGHTS)
    assert equal(checkpoints.safe_load(tmp_path / "w.pth", entry=entry), WEIGHTS)


def test_numbers_beside_bare_tensors_are_passed_over(tmp_path: Path) -> None:
    torch.save({**WEIGHTS, "epoch": 3, "optimizer": BESIDE["optimizer"]}, tmp_path / "w.pth")
    assert equal(checkpoints.safe_load(tmp_path / "w.pth"), WEIGHTS)


def test_of_several_entries_one_has_to_be_chosen(tmp_path: Path) -> None:
    average = {name: tensor + 1 for name, tensor in WEIGHTS.items()}
    torch.save({"model": WEIGHTS, "ema": {"shadow": average}}, tmp_path / "w.pth")
    words = r"got 'model' \(2 tensors\), 'ema.shadow' \(2 tensors\); choose .* entry='model'"
    with pytest.raises(ValueError, match=f"expected one entry of named tensors in .*w.pth, {words}"):
        checkpoints.safe_load(tmp_path / "w.pth")
    for entry in ("ema", "ema.shadow"):
        assert equal(checkpoints.safe_load(tmp_path / "w.pth", entry=entry), average)
    with pytest.raises(ValueError, match="expected an entry of .*w.pth among 'model' .*, got 'em'"):
        checkpoints.safe_load(tmp_path / "w.pth", entry="em")


def test_state_dict_is_read_and_what_is_passed_over_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({"ema": {"a.b": torch.ones(1)}, "state_dict": WEIGHTS}, tmp_path / "w.pth")
    with caplog.at_level(logging.INFO):
        assert equal(checkpoints.safe_load(tmp_path / "w.pth"), WEIGHTS)
    assert "taken is the entry 'state_dict'; passed over is 'ema' (1 tensors)" in caplog.text


def test_entry_reaches_the_model(tmp_path: Path) -> None:
    state, other = (randomized(Network()).state_dict() for _ in range(2))
    torch.save({"model": state, "ema": other}, tmp_path / "w.pth")
    model = Network()
    checkpoints.load_weights(model, tmp_path / "w.pth", entry="ema")
    assert equal(dict(model.state_dict()), dict(other))


def test_mapping_that_holds_itself_is_refused(tmp_path: Path) -> None:
    content: dict = {"epoch": 1}
    content["again"] = content
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match="expected named tensors in .*w.pth, got the entries 'epoch', 'again'"
    ):
        checkpoints.safe_load(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "content", [{}, [torch.ones(1)], torch.ones(1), {"epoch": 3, "rank1": 0.5}, {"state_dict": 5}]
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


def test_numbers_that_json_has_not_are_written_as_null(tmp_path: Path) -> None:
    content = {"mAP": 0.25, "per_query": [0.5, float("nan"), (np.float64("inf"), -float("inf"))], "n": None}
    path = checkpoints.write_json(tmp_path / "a.json", content)
    assert json.loads(path.read_text()) == {"mAP": 0.25, "per_query": [0.5, None, [None, None]], "n": None}


def test_names_that_are_no_utf8_are_written_escaped(tmp_path: Path) -> None:
    name = os.fsdecode("人".encode("gbk")) + "1.jpg"
    text = checkpoints.write_text(tmp_path / "a.csv", f"{name},人\n")
    assert text.read_text(encoding="utf-8") == "\\udcc8\\udccb1.jpg,人\n"
    assert json.loads(checkpoints.write_json(tmp_path / "a.json", [name]).read_text()) == [name]


def refuse_read_only(descriptor: int) -> None:
    """Flush as Windows does."""
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")


def test_files_are_flushed_by_a_handle_that_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", refuse_read_only)
    assert checkpoints.write_text(tmp_path / "a.txt", "x").read_text() == "x"
    assert equal(
        checkpoints.safe_load(checkpoints.save(tmp_path / "w.safetensors", WEIGHTS)), WEIGHTS
    )  # made by another writer


def failing(number: int) -> Callable[..., None]:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("call", ["fsync", "chmod"])
def test_folder_that_knows_no_flushing_or_permissions_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(os, call, failing({"fsync": errno.EINVAL, "chmod": errno.EPERM}[call]))
    assert checkpoints.write_text(tmp_path / "a.txt", "x").read_text() == "x"


def test_other_faults_of_flushing_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        checkpoints.write_text(tmp_path / "a.txt", "x")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_named_and_leaves_the_earlier_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = checkpoints.write_text(tmp_path / "a.txt", "old")
    monkeypatch.setattr(os, "fsync", failing(number))
    with pytest.raises(OSError, match=rf"expected space to write, got .*: '{path}'") as caught:
        checkpoints.write_text(path, "new")
    assert caught.value.errno == number
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def save_with_little_room(path: Path, answer: Queue) -> None:
    """Write weights where files may have a kilobyte; a true disk fills in the same way."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
    try:
        checkpoints.save(path, {"a": torch.ones(10000)})
    except OSError as error:
        answer.put((error.errno, error.filename))


def test_system_errors_of_safetensors_are_told_as_such(tmp_path: Path) -> None:
    path, answer = checkpoints.save(tmp_path / "w.safetensors", WEIGHTS), Queue()
    process = multiprocessing.get_context("fork").Process(target=save_with_little_room, args=(path, answer))
    process.start()
    assert answer.get(timeout=60) == (errno.EFBIG, str(path))
    process.join()
    assert equal(checkpoints.safe_load(path), WEIGHTS)
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_home_folder_is_found_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    written = [
        checkpoints.write_text("~/a.txt", "x"),
        checkpoints.write_json(Path("~/a.json"), {}),
        checkpoints.save("~/w.safetensors", WEIGHTS, {"a": 1}),
    ]
    assert written == [tmp_path / "a.txt", tmp_path / "a.json", tmp_path / "w.safetensors"]
    with checkpoints.atomic_path("~/a.png") as temporary:
        assert temporary.parent == tmp_path
    assert {path.name for path in written} | {"a.png"} == {*os.listdir(tmp_path)}
    assert equal(checkpoints.safe_load("~/w.safetensors"), WEIGHTS)
    assert checkpoints.read_metadata("~/w.safetensors") == {"a": 1}
    torch.save(Network().state_dict(), tmp_path / "n.pth")
    assert checkpoints.load_weights(Network(), "~/n.pth") == []


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


PREFIXES = [
    "module.",
    "module.module.",
    "_orig_mod.",
    "module._orig_mod.",
    "base.",
    "backbone.",
    "model.module.",
    "module.encoder_q.",
    "student.net.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefix_is_taken_off_where_names_fit_without_it(tmp_path: Path, prefix: str) -> None:
    source, model = randomized(Network()), Network()
    state = {f"{prefix}{name}": tensor for name, tensor in source.state_dict().items()}
    assert checkpoints.load_weights(model, checkpoints.save(tmp_path / "w.safetensors", state)) == []
    assert equal(dict(model.state_dict()), dict(source.state_dict()))


def test_prefix_of_some_names_is_taken_off_beside_a_bare_classifier(tmp_path: Path) -> None:
    source, model = randomized(Network()), Network()
    state = source.state_dict()
    state = {name if "classifier" in name else f"base.{name}": state[name] for name in state}
    assert checkpoints.load_weights(model, checkpoints.save(tmp_path / "w.safetensors", state)) == []
    assert equal(dict(model.state_dict()), dict(source.state_dict()))


def test_prefix_that_belongs_to_the_model_stays(tmp_path: Path) -> None:
    source = nn.ModuleDict({"module": randomized(Network()), "base": randomized(Network())})
    model = nn.ModuleDict({"module": Network(), "base": Network()})
    assert (
        checkpoints.load_weights(model, checkpoints.save(tmp_path / "w.safetensors", source.state_dict()))
        == []
    )
    assert equal(dict(model.state_dict()), dict(source.state_dict()))


def test_names_that_do_not_fit_without_a_prefix_either_are_refused(tmp_path: Path) -> None:
    state = {f"base.{name}": tensor for name, tensor in Network(width=7).state_dict().items()}
    path = checkpoints.save(tmp_path / "w.safetensors", state | {"bottleneck.weight": torch.ones(7)})
    with pytest.raises(
        ValueError, match=r"got .*w.safetensors: 1 unexpected \(bottleneck.weight\); 6 of another"
    ):
        checkpoints.load_weights(Network(), path)


class Adaptable(Network):
    """Takes its width from the weights."""

    def adapt(self, metadata: dict, state: dict, source: Path) -> None:
        vars(self).update(vars(Network(width=len(state["features.0.weight"]))))
        self.told = metadata


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_model_that_adapts_is_told_names_without_prefix_and_metadata(tmp_path: Path, suffix: str) -> None:
    state = {f"_orig_mod.{name}": tensor for name, tensor in Network(width=7).state_dict().items()}
    model = Adaptable()
    checkpoints.load_weights(model, checkpoints.save(tmp_path / f"w{suffix}", state, {"kind": "a"}))
    assert model.features[0].out_features == 7 and model.told == {"kind": "a"}


def test_names_that_would_fall_together_keep_their_prefix(tmp_path: Path) -> None:
    state = Network().state_dict()
    state |= {f"module.{name}": tensor for name, tensor in state.items()}
    with pytest.raises(ValueError, match=r"9 unexpected \(module\."):
        checkpoints.load_weights(Network(), checkpoints.save(tmp_path / "w.safetensors", state))


def test_compiled_model_is_filled_and_saved_by_its_own_names(tmp_path: Path) -> None:
    source = randomized(Network())
    model = torch.compile(Network())
    checkpoints.load_weights(model, checkpoints.save(tmp_path / "w.safetensors", source.state_dict()))
    path = checkpoints.save_backbone(tmp_path / "b.safetensors", model, {})
    assert equal(
        checkpoints.safe_load(path), {f"features.{k}": v for k, v in source.features.state_dict().items()}
    )


LIKE_CLASSIFIERS = ["fc", "head", "head.fc", "last_linear"]


@pytest.mark.parametrize("name", LIKE_CLASSIFIERS)
def test_classifier_of_another_name_is_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    state = randomized(Network()).features.state_dict()
    state = {f"features.{key}": tensor for key, tensor in state.items()}
    state |= {f"{name}.weight": torch.ones(9, 4), f"{name}.bias": torch.ones(9)}
    path, model = checkpoints.save(tmp_path / "w.safetensors", state), Network()
    with caplog.at_level(logging.INFO):
        left_out = checkpoints.load_weights(model, path)
    assert left_out == sorted([f"{name}.bias", f"{name}.weight", "classifier.bias", "classifier.weight"])
    assert torch.equal(model.features[0].weight, state["features.0.weight"])
    assert f"left out {name}.bias, {name}.weight, a classifier of other identities" in caplog.text
    with pytest.raises(ValueError, match=f"unexpected .*{name}.bias"):
        checkpoints.load_weights(model, path, ignore=())


@pytest.mark.parametrize("name", ["fc.0.weight", "fc.weight_g", "headroom.weight", "bottleneck.weight"])
def test_layers_that_features_pass_are_no_classifier(tmp_path: Path, name: str) -> None:
    path = checkpoints.save(tmp_path / "w.safetensors", Network().state_dict() | {name: torch.ones(2)})
    with pytest.raises(ValueError, match=rf"1 unexpected \({name}\)"):
        checkpoints.load_weights(Network(), path)


def test_classifier_of_other_identities_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = checkpoints.save(tmp_path / "w.safetensors", Network(num_classes=5).state_dict())
    with caplog.at_level(logging.INFO):
        checkpoints.load_weights(Network(), path)
    assert "left out classifier.bias, classifier.weight, a classifier of other identities" in caplog.text


def test_imagenet_weights_of_torchvision_fill_torchreids_resnet(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    source, model = resnet18(), compat.build_model("resnet18", 3)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    expected = ["classifier.bias", "classifier.weight", "fc.bias", "fc.weight"]
    assert checkpoints.load_weights(model, tmp_path / "w.pth") == expected
    assert torch.equal(model.layer4[1].conv2.weight, source.layer4[1].conv2.weight)


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


@pytest.mark.parametrize("prefix", ["net.", "encoder.", "image_encoder.", "module.net.", "backbone.encoder."])
def test_usual_prefixes_of_some_names_are_taken_off(tmp_path: Path, prefix: str) -> None:
    model, source = (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)) for _ in range(2))
    state = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    torch.save(state | {"classifier.weight": torch.zeros(3)}, tmp_path / "w.pth")
    checkpoints.load_weights(model, tmp_path / "w.pth", ignore=("classifier", "fc"))
    assert equal(model.state_dict(), source.state_dict())


def test_of_teacher_and_student_the_teacher_is_read(tmp_path: Path) -> None:
    student = {name: tensor + 1 for name, tensor in WEIGHTS.items()}
    torch.save({"student": student, "teacher": WEIGHTS, "epoch": 3}, tmp_path / "w.pth")
    assert equal(checkpoints.safe_load(tmp_path / "w.pth"), WEIGHTS)
    torch.save({"student": student, "teacher": WEIGHTS, "ema": WEIGHTS}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="expected one entry of named tensors"):
        checkpoints.safe_load(tmp_path / "w.pth")
