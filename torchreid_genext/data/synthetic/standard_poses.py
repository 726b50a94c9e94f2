"""The oracle of pose-guided generation: every test person of SynthReID, drawn again in eight standard poses.

Pose2ID (Yuan et al., CVPR 2025) generates each test image anew in eight standard poses, about one from each
side. Here the renderer does it, which knows who is meant: an upper bound for generators, not a method. As a
generator would, it keeps what a reference shows besides the pose: the clothes and the camera's place, light
and sharpness. The background's window, the exposure and the noise are each picture's own, nothing stands in
front, and distractors and junk get no pictures, as in Pose2ID's downloads.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from torchreid_genext import checkpoints
from torchreid_genext.data.filenames import parse
from torchreid_genext.data.store.lookup import FOLDERS
from torchreid_genext.data.synthetic.body import Pose, View
from torchreid_genext.data.synthetic.render import Rendering
from torchreid_genext.data.synthetic.world import GALLERY, QUERY, Shot, shots
from torchreid_genext.data.synthetic.writing import Manifest, draw_shot, read_manifest

STANDARD_POSES = tuple((Pose(phase=0.375 * i % 1, stride=0.9), View(yaw=45.0 * i)) for i in range(8))

_SPLITS = {QUERY: FOLDERS["query"], GALLERY: FOLDERS["gallery"]}
_MANIFEST = "manifest.json"
_JPEG_QUALITY = 90  # the dataset's own
_GAP, _HEADER = 2, 13


def references(manifest: Manifest, *, swapped: bool = False) -> list[Shot]:
    """The shots of which the oracle draws others: queries and gallery, without distractors and junk.

    Args:
        manifest: of the dataset.
        swapped: put another of these people, by chance, into each shot: a control, since pictures of the
            wrong person must not help.
    """
    plan = shots(manifest.size, manifest.seed, manifest.mode)
    people = [shot for shot in plan if shot.folder in _SPLITS and parse(shot.name, "synthreid").pid > 0]
    if not swapped:
        return people
    order = np.random.default_rng([15, manifest.seed]).permutation(len(people))
    return [replace(shot, person=people[other].person) for shot, other in zip(people, order)]


def draw_standard_pose(reference: Shot, number: int) -> Image.Image:
    """The person of a shot in a standard pose, before the same camera.

    Args:
        reference: a shot that shows somebody.
        number: of the pose, from 0.

    Returns:
        An RGB image; equal arguments give equal pixels.
    """
    return render_standard_pose(reference, number).image


def render_standard_pose(reference: Shot, number: int) -> Rendering:
    """The same, with the joints of the person."""
    pose, view = STANDARD_POSES[number]
    seed = (14, number, *reference.seed)
    return draw_shot(replace(reference, pose=pose, view=view, occluder=None, seed=seed))


def write_standard_poses(
    dataset: str | PathLike[str],
    folder: str | PathLike[str],
    *,
    swapped: bool = False,
    workers: int = 0,
    progress: bool = True,
) -> int:
    """Draw the standard poses of all test people, in the layout of Pose2ID's downloads (`data.store.lookup`).

    Files appear whole or not at all, and those that are there are kept, so an interrupted run goes on from
    where it was.

    Args:
        dataset: a complete SynthReID, see `write_dataset`.
        folder: for the pictures; must not exist, be empty, or hold this dataset's.
        swapped: draw the wrong people, see `references`.
        workers: processes that draw; 0 draws in this one.
        progress: show a progress bar on a terminal.

    Returns:
        How many pictures were drawn now.

    Raises:
        ValueError: if the dataset is not complete, or the folder holds something else.
        OSError: if the folder cannot be written.
    """
    manifest, target = read_manifest(dataset), Path(folder)
    poses = [asdict(pose) | asdict(view) for pose, view in STANDARD_POSES]
    _claim(target, {"dataset": asdict(manifest), "poses": poses, "swapped": swapped})
    missing = _Missing(references(manifest, swapped=swapped), target)
    drawn = DataLoader(missing, batch_size=None, num_workers=workers)
    hidden = None if progress else True  # None shows the bar on a terminal alone
    return sum(tqdm(drawn, desc="standard poses", unit="reference", disable=hidden))


def _claim(target: Path, content: dict[str, Any]) -> None:
    """Write down whose pictures the folder is for, or refuse one that is for others."""
    file, content = target / _MANIFEST, json.loads(json.dumps(content))  # tuples become lists, as read back
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
        if found != content:
            rule = f"expected standard poses of this dataset in {target}"
            raise ValueError(f"{rule}, got others; choose another folder")
    elif target.exists() and any(target.iterdir()):
        raise ValueError(f"expected an empty folder or standard poses in {target}, got other files")
    else:
        checkpoints.write_json(file, content)


class _Missing(Dataset):
    """Item i draws those pictures of reference i that are not there, and is their number."""

    def __init__(self, people: list[Shot], target: Path) -> None:
        self.people = people
        self.target = target

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, index: int) -> int:
        reference = self.people[index]
        return sum(_write(reference, number, path) for number, path in self._missing(reference))

    def _missing(self, reference: Shot) -> Iterator[tuple[int, Path]]:
        for number in range(len(STANDARD_POSES)):
            path = self.target / _SPLITS[reference.folder] / f"pose{number + 1}" / reference.name
            if not path.exists():
                yield number, path


def _write(reference: Shot, number: int, path: Path) -> int:
    content = io.BytesIO()
    draw_standard_pose(reference, number).save(content, "JPEG", quality=_JPEG_QUALITY)
    checkpoints.write_bytes(path, content.getvalue())
    return 1


def standard_pose_sheet(manifest: Manifest, people: int = 4) -> Image.Image:
    """References in the first column, then their standard poses; every row is another person and camera.

    Args:
        manifest: of the dataset whose queries are shown.
        people: rows, in 1 .. number of cameras.

    Raises:
        ValueError: if there are not so many queries of different people and cameras.
    """
    shown = _different([shot for shot in references(manifest) if shot.folder == QUERY], people)
    rows = [
        [draw_shot(s).image, *(draw_standard_pose(s, n) for n in range(len(STANDARD_POSES)))] for s in shown
    ]
    width, height = (side + _GAP for side in rows[0][0].size)
    sheet = Image.new("RGB", (len(rows[0]) * width, _HEADER + people * height), "white")
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            sheet.paste(image, (column * width, _HEADER + row * height))
    _label(sheet, width)
    return sheet


def _different(queries: list[Shot], people: int) -> list[Shot]:
    """The first query of each camera, of people who are not yet among them."""
    chosen: dict[int, Shot] = {}
    for shot in queries:
        if shot.camera not in chosen and all(shot.person != other.person for other in chosen.values()):
            chosen[shot.camera] = shot
    if not 1 <= people <= len(chosen):
        raise ValueError(f"expected people in 1..{len(chosen)}, got {people}")
    return list(chosen.values())[:people]


def _label(sheet: Image.Image, step: int) -> None:
    draw = ImageDraw.Draw(sheet)
    for column in range(len(STANDARD_POSES) + 1):
        text = f"pose {column}" if column else "reference"
        draw.text((column * step + step / 2, 1), text, "black", anchor="ma")
