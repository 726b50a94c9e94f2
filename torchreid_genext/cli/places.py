"""What lies on the disk: whole weights, data sets, room and leave to write; each fault with its cure."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from yacs.config import CfgNode

from torchreid_genext import checkpoints, compat
from torchreid_genext.backbones.spec import Backbone
from torchreid_genext.cli.health import FAULT, NOTE, OK, Finding
from torchreid_genext.data.folders.names import PREFIX

__all__ = ["datasets", "folders", "shipped_weights", "weights"]

_SUMS = "SHA256SUMS"
_LEAST_ROOM = 2**30


def shipped_weights(folder: Path) -> Iterator[Finding]:
    """Each file that a folder lists, by its SHA-256, as ``sha256sum -c`` reads the list."""
    cure = "install the package again; in a clone, `git checkout` that file"
    if not (folder / _SUMS).is_file():
        yield Finding("shipped weights", FAULT, f"expected {folder / _SUMS}, got none", cure)
        return
    listed = dict(reversed(line.split("  ", 1)) for line in (folder / _SUMS).read_text().splitlines())
    faults = {name: fault for name, known in listed.items() if (fault := _fault(folder / name, known))}
    for name, fault in faults.items():
        yield Finding("shipped weights", FAULT, f"{folder / name} {fault}", cure)
    if not faults:
        size = sum((folder / name).stat().st_size for name in listed)
        yield Finding("shipped weights", OK, f"{len(listed)} files, {size / 1e6:.1f} MB, all whole")


def _fault(path: Path, known: str) -> str:
    if not path.is_file():
        return "is missing"
    same = hashlib.sha256(path.read_bytes()).hexdigest() == known
    return "" if same else "is damaged: it has another SHA-256 than the one that came with the package"


def weights(cfg: CfgNode) -> Iterator[Finding]:
    """Files that the configuration names, opened as a run opens them."""
    models = [Backbone.parse(text) for text in cfg.genext.benchmark.models]
    named = [model.weights for model in models] or [cfg.model.load_weights]
    for path in filter(None, named):
        yield _weights(path)


def _weights(path: str) -> Finding:
    try:
        if path.endswith(".json"):
            path = Backbone.parse(f"any@{path}").with_card().weights
        tensors = checkpoints.safe_load(path)
    except (OSError, ValueError) as error:
        return Finding("weights", FAULT, str(error))
    return Finding("weights", OK, f"{path}: {len(tensors)} tensors")


def datasets(root: str, wanted: Sequence[str]) -> Iterator[Finding]:
    """Those that are wanted, of which each must be there; of the others all that are below the root.

    Args:
        root: holds the data sets.
        wanted: names in torchreid.
    """
    for name in wanted:
        yield _dataset(name, root, FAULT)
    others = [name for name, kind in compat.image_datasets().items() if not hasattr(kind, "plain_name")]
    there = [name for name in others if name not in wanted and _is_there(name, root)]
    yield from (_dataset(name, root, NOTE) for name in there)
    if not wanted and not there:
        told = f"{os.path.abspath(root)} holds no data set; only SynthReID is written where it is asked for"
        yield Finding("data", NOTE, told, "name the folder that holds yours with --root FOLDER")


def _is_there(name: str, root: str) -> bool:
    kind = compat.image_datasets()[name]
    folder = compat.image_dataset_folder(name, root)
    return bool(getattr(kind, "dataset_dir", "")) and folder.is_dir() and any(folder.iterdir())


def _dataset(name: str, root: str, worst: str) -> Finding:
    """Open a data set that is there; one that is not is only written if it is SynthReID."""
    folder = compat.image_dataset_folder(name, root)
    if not (name.startswith(PREFIX) or _is_there(name, root)):
        return _absent(name, folder, worst)
    try:
        found = compat.init_image_dataset(name, root=root, verbose=False)
    except (ValueError, OSError, RuntimeError) as error:
        return Finding("data", worst, f"{name}: {error}")
    splits = ", ".join(f"{len(getattr(found, split)):,} {split}" for split in ("train", "query", "gallery"))
    return Finding("data", OK, f"{name}: {splits} images in {folder}")


def _absent(name: str, folder: Path, worst: str) -> Finding:
    if name.startswith("synthreid"):
        return Finding("data", OK, f"{name}: will be written to {folder} when it is asked for")
    cure = "put its images there, or name the folder above it with --root FOLDER"
    return Finding("data", worst, f"{name}: expected its images in {folder}, got no such folder", cure)


def folders(named: dict[str, str], least: int = _LEAST_ROOM) -> Iterator[Finding]:
    """Whether one may write to folders that a run writes to, and how much room is there.

    Args:
        named: key of the configuration -> folder, which need not be there.
        least: bytes that must be free.
    """
    for key, path in named.items():
        yield _folder(key, path, least)


def _folder(key: str, path: str, least: int) -> Finding:
    """Of one that is not there yet, the nearest above it counts."""
    folder = Path(os.path.expanduser(path)).absolute()
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    try:
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    except OSError as error:
        told = f"cannot write to {folder}: {error.strerror or error}"
        return Finding("folder", FAULT, told, f"name another one with the key {key}")
    if free < least:
        told = f"{folder}: expected {least / 2**30:.1f} GiB of room or more, got {free / 2**30:.1f} GiB"
        return Finding("folder", FAULT, told, f"make room there, or name another folder with the key {key}")
    return Finding("folder", OK, f"{folder} ({key}): can be written to, {free / 2**30:.1f} GiB free")
