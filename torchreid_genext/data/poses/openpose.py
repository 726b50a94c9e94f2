"""OpenPose's JSON, and DWPose's, which is the same with the size of the image.

    {"people": [{"pose_keypoints_2d": [x0, y0, c0, x1, ...]}, ...], "canvas_height": 128, "canvas_width": 64}

c is a confidence, 0 where the joint is missing. OpenPose finds 18 joints or the 25 of its model BODY_25,
whose middle hip and feet are left out here. It writes a file an image, ``<image>_keypoints.json``, in pixels.
Preprocessors of ControlNet write pixels or shares of their canvas, and some put the image into a list.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from torchreid_genext import checkpoints
from torchreid_genext.data.images.reading import SUFFIXES
from torchreid_genext.data.poses.joints import Person, are_shares, chosen_pose, marked, present, single_pose
from torchreid_genext.data.poses.names import check_names

__all__ = ["image_of", "numbers", "read_openpose", "write_openpose"]

# Joints in a file -> where ours are among them.
_LAYOUTS = {18: list(range(18)), 25: [*range(8), *range(9, 19)]}
_KEYS = ("pose_keypoints_2d", "pose_keypoints")  # the second in files before 2018
_ENDING = "_keypoints"
_USUAL = ".jpg"  # extension of images whose files do not tell it


def image_of(file: str | PathLike[str], extension: str) -> str:
    """File name of the image that a file is about; `extension` is given to names without one."""
    stem = Path(file).stem.removesuffix(_ENDING)
    return stem if Path(stem).suffix.lower() in SUFFIXES else stem + extension


def read_openpose(
    content: Mapping[str, Any], where: str, *, confidence: float = 0.0
) -> tuple[np.ndarray, tuple[float, float] | None]:
    """The person of an image whose joints have the most confidence together; among equals, the largest.

    Args:
        content: of the file.
        where: names it in errors.
        confidence: joints with no more than this are missing.

    Returns:
        The pose (18, 2) of (y, x) pixels of the canvas, without any joint if there is nobody, or nothing but
        faces and hands; and the (height, width) of the canvas, None where it is not told.

    Raises:
        ValueError: if a part is malformed (it is named), places are shares of a canvas that is not told, or
            most places are shares and some are not.
    """
    canvas, people = _canvas(content, where), content["people"]
    if not isinstance(people, list):
        raise ValueError(f"expected a list of people in {where}, got {type(people).__name__}")
    found = [_joints(person, f"{where}, person {n}") for n, person in enumerate(people, start=1)]
    keypoints = _in_pixels(np.array([joints for joints in found if joints is not None]), canvas, where)
    everyone = [Person(present(points, confidence), float(points[:, 2].sum())) for points in keypoints]
    return chosen_pose(everyone), canvas


def write_openpose(
    folder: str | PathLike[str],
    poses: Mapping[str, ArrayLike],
    *,
    size: tuple[int, int] | None = None,
    shares: bool = False,
) -> None:
    """Write a file an image, as OpenPose does; with a size, as DWPose's preprocessors do.

    Args:
        folder: of the files ``<image>_keypoints.json``; other extensions than .jpg stay part of the name.
        poses: file name to (18, 2) array of (y, x) pixels, -1 missing; without any joint nobody is written.
        size: (height, width) of the images, written as the canvas.
        shares: give places as shares of the canvas.

    Raises:
        ValueError: if a pose is not (18, 2) or not finite, a name is none of an image, or shares are wanted
            without a size.
    """
    if shares and size is None:
        raise ValueError("expected the size of the images for places as shares of it, got None")
    files = _files(Path(os.path.expanduser(folder)), poses)
    unit = [*size[::-1], 1] if shares else [1, 1, 1]
    canvas = {"canvas_height": size[0], "canvas_width": size[1]} if size else {}
    for name, pose in poses.items():
        content = {"version": 1.3, "people": _people(name, pose, unit), **canvas}
        checkpoints.write_text(files[name], json.dumps(content) + "\n")


def _files(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """Of each image the file whose name leads back to it."""
    check_names(names)
    files = {name: folder / f"{_told(name)}{_ENDING}.json" for name in names}
    for name, file in files.items():
        if image_of(file, _USUAL) != name:
            raise ValueError(f"expected names of images with {', '.join(SUFFIXES)}, got {name!r}; rename it")
    return files


def _told(name: str) -> str:
    """Of an image's name what a file tells; the usual extension only where another would seem to be there."""
    stem = name.removesuffix(_USUAL)
    return name if Path(stem).suffix.lower() in SUFFIXES else stem


def numbers(values: Any, lengths: tuple[int, ...], where: str) -> np.ndarray:
    """Places of joints, (K, 3) float of x, y, confidence, or an error that says where it is."""
    try:
        fit = isinstance(values, list) and all(type(value) in (int, float) for value in values)
        array = np.array(values if fit else [], float)
    except OverflowError:
        array = np.array([])
    if len(array) not in [3 * joints for joints in lengths] or not np.isfinite(array).all():
        counts = " or ".join(str(3 * joints) for joints in lengths)
        got = f"{len(values)} values" if isinstance(values, list) else type(values).__name__
        raise ValueError(f"expected {counts} finite numbers (x, y, confidence) in {where}, got {got}")
    return array.reshape(-1, 3)


def _people(name: str, pose: ArrayLike, unit: list[int]) -> list[dict[str, Any]]:
    points = marked(single_pose(name, pose), 1.0) / unit
    return [{"person_id": [-1], "pose_keypoints_2d": points.ravel().tolist()}] if points.any() else []


def _canvas(content: Mapping[str, Any], where: str) -> tuple[float, float] | None:
    sides = tuple(content.get(f"canvas_{side}") for side in ("height", "width"))
    if sides == (None, None):
        return None
    if not all(type(side) in (int, float) and 0 < side < float("inf") for side in sides):
        raise ValueError(f"expected canvas_height and canvas_width > 0 in {where}, got {sides}")
    return sides


def _joints(person: Any, where: str) -> np.ndarray | None:
    """The 18 joints (18, 3) of a person, None if only face or hands were looked for."""
    if not isinstance(person, Mapping) or not any(key in person for key in _KEYS):
        raise ValueError(f"expected {_KEYS[0]} in {where}, got none")
    values = next(person[key] for key in _KEYS if key in person)
    if values is None or values == []:
        return None
    points = numbers(values, tuple(_LAYOUTS), where)
    return points[_LAYOUTS[len(points)]]


def _in_pixels(keypoints: np.ndarray, canvas: tuple[float, float] | None, where: str) -> np.ndarray:
    """Shares of the canvas turned into pixels; people are (N, 18, 3)."""
    if not len(keypoints) or not are_shares(keypoints[keypoints[..., 2] > 0][:, :2], where):
        return keypoints
    if canvas is None:
        raise ValueError(f"expected pixels, or canvas_height and canvas_width, in {where}, got only shares")
    return keypoints * [canvas[1], canvas[0], 1]
