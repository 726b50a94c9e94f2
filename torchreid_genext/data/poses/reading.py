"""Poses from files of any known kind: Market annotations, OpenPose, DWPose and COCO.

Each kind is described where it is read: `poses`, `openpose`, `coco`. A pose is an (18, 2) array of (y, x)
pixels, -1 where a joint is missing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from torchreid_genext.data.poses.coco import read_coco, write_coco
from torchreid_genext.data.poses.joints import from_coco, to_coco
from torchreid_genext.data.poses.market_csv import read_market_annotations, write_market_annotations
from torchreid_genext.data.poses.openpose import image_of, read_openpose, write_openpose
from torchreid_genext.data.poses.skeletons import scaled

__all__ = [
    "from_coco", "read_poses", "to_coco", "write_coco", "write_market_annotations", "write_openpose"
]  # fmt: skip

_Found = dict[str, tuple[np.ndarray, tuple[float, float] | None]]


def read_poses(
    path: str | PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    confidence: float = 0.0,
    extension: str = ".jpg",
) -> dict[str, np.ndarray]:
    """Read the pose in every image from a file or folder, whose kind is recognised.

    Of several people in an image the one counts of whom the file is most sure: whose joints have the most
    confidence together, in COCO results the best score; among equals, the largest. An image in which nobody
    was found has a pose all of whose joints are missing: such a file is no fault, only of no use.

    Args:
        path: a Market annotation CSV, a JSON file of OpenPose, DWPose or COCO, or a folder of JSON files.
        size: (height, width) of the images. Joints of files that tell another one are scaled to it, such as
            those of programs that enlarge images first; None leaves all as they are.
        confidence: joints with no more than this are missing; of JSON files only.
        extension: of the images whose files do not tell it, as OpenPose's; ``a.png_keypoints.json`` does.

    Returns:
        File name, without folders, to (18, 2) array of (y, x) pixels, -1 missing.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if the kind is unknown, a file is malformed (it is named, with line or person), places are
            shares of an image whose size is not told, an image is there twice, or a folder has no file.
    """
    path = Path(os.path.expanduser(path))
    if not path.exists():
        raise FileNotFoundError(f"expected a file or folder of poses, got {path}, which does not exist")
    if path.suffix.lower() == ".csv":
        return dict(read_market_annotations(path))
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files or files[0].suffix.lower() != ".json":
        raise ValueError(f"expected poses in .csv, .json or a folder of .json, got {path}")
    found = _united((file, _read(file, confidence, extension)) for file in files)
    return {name: _fitted(pose, told, size) for name, (pose, told) in found.items()}


def _united(parts: Iterable[tuple[Path, _Found]]) -> _Found:
    whole: _Found = {}
    for file, part in parts:
        if twice := sorted(whole.keys() & part):
            raise ValueError(f"expected each image once, got {twice[0]} again in {file}")
        whole |= part
    return whole


def _read(file: Path, confidence: float, extension: str) -> _Found:
    content = _content(file)
    if isinstance(content, list) and content and _is_openpose(content[0]):
        if len(content) > 1:
            raise ValueError(f"expected one image a file of OpenPose, got {len(content)} in {file}")
        content = content[0]
    if _is_openpose(content):
        return {image_of(file, extension): read_openpose(content, str(file), confidence=confidence)}
    if isinstance(content, list) or (isinstance(content, dict) and "annotations" in content):
        return read_coco(content, str(file), confidence=confidence)
    keys = sorted(content) if isinstance(content, dict) else type(content).__name__
    raise ValueError(f"expected people (OpenPose, DWPose) or annotations (COCO) in {file}, got {keys}")


def _is_openpose(content: Any) -> bool:
    return isinstance(content, dict) and "people" in content


def _content(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON in {file}, got a file with the fault: {error}") from error


def _fitted(pose: np.ndarray, told: tuple[float, float] | None, size: tuple[int, int] | None) -> np.ndarray:
    return pose if size is None or told is None or told == tuple(size) else scaled(pose, told, size)
