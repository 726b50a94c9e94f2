"""SynthReID on disk, in Market-1501's layout: all of it or nothing.

Images are written into a hidden folder beside the target, which gets its name in one step when the last
file and the manifest are in it. Whatever is interrupted leaves the target untouched, and two writers cannot
disturb each other: each has a folder of its own, and the first to finish wins.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from torchreid_genext import checkpoints
from torchreid_genext.data.poses import write_market_annotations
from torchreid_genext.data.synthetic.cameras import CAMERAS
from torchreid_genext.data.synthetic.people import random_identity
from torchreid_genext.data.synthetic.render import (
    Rendering,
    render_scene,
    render_with_joints,
)
from torchreid_genext.data.synthetic.world import GALLERY, QUERY, TRAIN, Shot, shots
from torchreid_genext.processes import processes_that_pay

VERSION = "1"  # of the pixels: any change to what is drawn needs another
FOLDERS = (TRAIN, GALLERY, QUERY)
MANIFEST = "manifest.json"

_WORTH_A_PROCESS = 100  # images, a second's work
_IMAGES_PER_SECOND = 150  # a careful guess for the announcement
_JPEG_QUALITY = 90
_ABANDONED_AFTER = 600  # seconds without a new file after which another writer's folder counts as left behind

_logger = logging.getLogger(__name__)
_person = lru_cache(maxsize=4096)(random_identity)


@dataclass(frozen=True)
class Manifest:
    """What a finished folder holds, kept in its ``manifest.json``.

    Attributes:
        version: of the renderer; other versions draw other pixels.
        size, seed, mode: arguments of `write_dataset`.
        counts: images per folder.
        names: SHA-256 over all file names, sorted.
    """

    version: str
    size: str
    seed: int
    mode: str
    counts: dict[str, int]
    names: str


def write_dataset(
    folder: str | PathLike[str],
    *,
    size: str = "small",
    seed: int = 0,
    mode: str = "visible",
    workers: int | None = None,
    progress: bool | Callable[[int, int], None] = True,
) -> Manifest:
    """Draw a whole dataset into a folder, unless it is there already.

    Beside the three image folders it holds ``poses.csv`` (18 joints in the Market annotation format, -1
    where hidden), ``poses_full.csv`` (the same with the true position of hidden joints and a fourth list, 1
    where visible) and the manifest.

    Args:
        folder: becomes the dataset; must not exist, be empty, or hold the same dataset complete.
        size: a name in `world.SIZES`.
        seed: another seed is another world.
        mode: a name in `world.MODES`.
        workers: processes that draw; 0 draws in this one, None in as many as torch has threads, where they
            can be forked. The files are the same.
        progress: a progress bar, or a function that is called with (images done, images in all), or nothing.

    Returns:
        The manifest of the folder.

    Raises:
        ValueError: if size or mode are unknown, or the folder holds something else or a dataset without a
            manifest.
        OSError: if the folder cannot be written.
    """
    target = Path(os.path.expanduser(folder))
    plan = shots(size, seed, mode)
    wanted = _manifest_of(plan, size, seed, mode)
    if _present(target, wanted):
        return wanted
    workers = _usual_workers(len(plan)) if workers is None else workers
    seconds = 1 + len(plan) // (_IMAGES_PER_SECOND * max(1, workers))
    what = f"{size} ({mode}, seed {seed}): {len(plan)} images into {target}, about {seconds} s"
    _logger.info("Drawing SynthReID %s", what)
    workplace = _make_room(target)
    try:
        _draw_all(plan, workplace, workers, progress)
        checkpoints.write_json(workplace / MANIFEST, vars(wanted))
        _move_into_place(workplace, target, wanted)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    return wanted


def read_manifest(folder: str | PathLike[str]) -> Manifest:
    """Read the manifest of a dataset folder and check that the files it tells of are there.

    Args:
        folder: what `write_dataset` wrote.

    Returns:
        The manifest.

    Raises:
        ValueError: if there is no manifest, it cannot be read, or files are missing or too many.
    """
    folder = Path(os.path.expanduser(folder))
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(
            f"expected a complete SynthReID in {folder}, got no {MANIFEST} there: it is none, or not whole; "
            "choose another folder"
        )
    try:
        manifest = Manifest(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"expected a SynthReID manifest in {path}, got {error}") from error
    found = [(name, path.name) for name in FOLDERS for path in (folder / name).glob("*.jpg")]
    if _digest(found) != manifest.names:
        raise ValueError(
            f"expected the {sum(manifest.counts.values())} images of the manifest in {folder}, "
            f"got {len(found)} that differ; move it away and write it anew"
        )
    return manifest


def _present(target: Path, wanted: Manifest) -> bool:
    """Whether the target is the wanted dataset; anything else that is in the way is refused."""
    if not target.exists() or target.is_dir() and not any(target.iterdir()):
        return False
    if not target.is_dir():
        raise ValueError(f"expected a folder, got the file {target}")
    found = read_manifest(target)
    if found != wanted:
        raise ValueError(
            f"expected SynthReID {_label(wanted)} in {target}, got {_label(found)}; "
            "choose another folder"
        )
    return True


def _label(manifest: Manifest) -> str:
    return f"{manifest.size}/{manifest.mode}, seed {manifest.seed}, version {manifest.version}"


def _manifest_of(plan: Sequence[Shot], size: str, seed: int, mode: str) -> Manifest:
    counts = {name: sum(shot.folder == name for shot in plan) for name in FOLDERS}
    return Manifest(VERSION, size, seed, mode, counts, _digest((shot.folder, shot.name) for shot in plan))


def _digest(files: Iterable[tuple[str, str]]) -> str:
    return hashlib.sha256(
        "\n".join(sorted(f"{folder}/{name}" for folder, name in files)).encode()
    ).hexdigest()


def _make_room(target: Path) -> Path:
    """Create a hidden folder beside the target, and clear what killed writers left there."""
    workplace = target.parent / f".{target.name}.{uuid.uuid4().hex[:12]}.partial"
    try:
        for name in FOLDERS:
            (workplace / name).mkdir(parents=True)
    except OSError as error:
        raise OSError(f"cannot write SynthReID to {target}: {error.strerror} ({error.filename})") from error
    for left in target.parent.glob(f".{target.name}.*.partial"):
        if time.time() - _last_touched(left) > _ABANDONED_AFTER:
            _logger.info("Removing %s, left behind by an interrupted run", left)
            shutil.rmtree(left, ignore_errors=True)
    return workplace


def _last_touched(folder: Path) -> float:
    """When something was last created in a folder or its subfolders, in seconds since the epoch."""
    times = []
    for path in (folder, *(folder / name for name in FOLDERS)):
        if path.exists():
            times.append(path.stat().st_mtime)
    return max(times, default=0.0)


def _usual_workers(images: int) -> int:
    processes = processes_that_pay(images, _WORTH_A_PROCESS)
    return processes if processes > 1 else 0


def _draw_all(
    plan: Sequence[Shot], workplace: Path, workers: int, progress: bool | Callable[[int, int], None]
) -> None:
    joints, visible = {}, {}
    report = progress if callable(progress) else _silent
    hidden = None if progress is True else True  # None shows the bar on a terminal alone
    bar = tqdm(plan, desc="SynthReID", unit="img", disable=hidden)
    with closing(_drawn(plan, workplace, workers)) as drawn:  # nobody draws any more when the folder goes
        for done, (shot, (places, seen)) in enumerate(zip(bar, drawn), start=1):
            joints[shot.name], visible[shot.name] = places, seen
            report(done, len(plan))
    shown = {name: np.where(visible[name][:, None], joints[name], -1) for name in joints}
    write_market_annotations(workplace / "poses.csv", shown)
    write_market_annotations(workplace / "poses_full.csv", joints, visible)


def _silent(done: int, total: int) -> None:
    pass


def _drawn(plan: Sequence[Shot], workplace: Path, workers: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What `_draw` gives of each shot, in their order."""
    loader = DataLoader(
        _Shots(plan, workplace), batch_size=None, num_workers=workers, collate_fn=_as_it_is,
        generator=torch.Generator(),  # else torch's own would go on by a number
    )  # fmt: skip
    yield from loader


def _as_it_is(item: Any) -> Any:
    return item


class _Shots(Dataset):
    """Item i draws shot i."""

    def __init__(self, plan: Sequence[Shot], workplace: Path) -> None:
        self.plan, self.workplace = plan, workplace

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return _draw(self.plan[index], self.workplace)


def _draw(shot: Shot, workplace: Path) -> tuple[np.ndarray, np.ndarray]:
    """Draw and save one image; returns its joints and which of them are seen."""
    drawn = draw_shot(shot)
    drawn.image.save(workplace / shot.folder / shot.name, quality=_JPEG_QUALITY)
    return drawn.joints, drawn.visible


def draw_shot(shot: Shot) -> Rendering:
    """The picture of one shot; an empty scene has no joints (all -1)."""
    camera, options = (
        CAMERAS[shot.camera],
        {"occluder": shot.occluder, "infrared": shot.infrared, "seed": shot.seed},
    )
    if shot.person is None:
        return Rendering(render_scene(camera, **options), np.full((18, 2), -1.0), np.zeros(18, bool))
    return render_with_joints(_person(shot.person), shot.pose, shot.view, camera, **options)


def _move_into_place(workplace: Path, target: Path, wanted: Manifest) -> None:
    if hasattr(os, "sync"):  # not on Windows; else a power cut could leave the name with empty images in it
        os.sync()
    try:
        os.replace(workplace, target)
    except OSError:
        # another writer was faster; its dataset is as good, since the pixels depend on size, seed and mode
        # alone
        if not _present(target, wanted):
            raise
