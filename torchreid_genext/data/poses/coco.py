"""COCO's JSON of keypoints: annotations, and results of detectors.

    {"images": [{"id": 1, "file_name": "a.jpg", "height": 128, "width": 64}, ...],
     "annotations": [{"image_id": 1, "keypoints": [x0, y0, v0, x1, ...], ...}, ...]}

    [{"image_id": "a.jpg", "category_id": 1, "keypoints": [x0, y0, v0, x1, ...], "score": 0.9}, ...]

v is 0 where the joint is missing. Ids of images are numbers in COCO itself; in results, which do not tell
what they mean, they have to be file names, as AlphaPose writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from torchreid_genext import checkpoints
from torchreid_genext.data.poses.joints import (
    COCO_JOINTS,
    Person,
    chosen_pose,
    from_coco,
    single_pose,
    to_coco,
)
from torchreid_genext.data.poses.openpose import numbers

__all__ = ["read_coco", "write_coco"]

_Sizes = dict[str, tuple[float, float] | None]


def read_coco(
    content: Any, where: str, *, confidence: float = 0.0
) -> dict[str, tuple[np.ndarray, tuple[float, float] | None]]:
    """The person of each image with the best score; the sum of confidences where no score is given.

    Args:
        content: of the file.
        where: names it in errors.
        confidence: joints with no more than this are missing.

    Returns:
        File name, without folders, to the pose (18, 2) of (y, x) pixels, without any joint where nobody is,
        and the (height, width) of the image, None where it is not told.

    Raises:
        ValueError: if a part is malformed, or an image is not known; it is named.
    """
    names, sizes, people = _parts(content, where)
    found: dict[str, list[Person]] = {name: [] for name in sizes}
    for number, entry in enumerate(people, start=1):
        place = f"{where}, person {number}"
        if not isinstance(entry, Mapping):
            raise ValueError(f"expected keypoints in {place}, got {type(entry).__name__}")
        if "keypoints" in entry or names is None:
            found.setdefault(_name(entry, names, place), []).append(_person(entry, place, confidence))
    return {name: (chosen_pose(everyone), sizes.get(name)) for name, everyone in found.items()}


def write_coco(path: str | PathLike[str], poses: Mapping[str, ArrayLike]) -> None:
    """Write poses as results, in which file names are the ids of images; the neck is lost.

    Args:
        path: the JSON file.
        poses: file name to (18, 2) array of (y, x) pixels, -1 missing. The score is the share of joints that
            are there.

    Raises:
        ValueError: if a pose is not (18, 2).
    """
    keypoints = {name: to_coco(single_pose(name, pose)) for name, pose in poses.items()}
    results = [
        {
            "image_id": name,
            "category_id": 1,
            "keypoints": points.ravel().tolist(),
            "score": float((points[:, 2] > 0).mean()),
        }
        for name, points in keypoints.items()
    ]
    checkpoints.write_json(Path(path), results)


def _parts(content: Any, where: str) -> tuple[dict[Any, str] | None, _Sizes, list[Any]]:
    """File names by id (None in results, whose ids are names), sizes by name, and people."""
    if isinstance(content, list):
        return None, {}, content
    images, people = (content.get(key) for key in ("images", "annotations"))
    if not isinstance(images, list) or not isinstance(people, list):
        raise ValueError(f"expected lists of images and annotations in {where}, got {sorted(content)}")
    try:
        names = {image["id"]: Path(image["file_name"]).name for image in images}
        sizes = {names[image["id"]]: _size(image) for image in images}
    except (KeyError, TypeError) as error:
        raise ValueError(f"expected id and file_name of each image in {where}, got {error}") from error
    if len(sizes) < len(images):
        raise ValueError(f"expected images of different names in {where}, got {len(sizes)} of {len(images)}")
    return names, sizes, people


def _size(image: Mapping[str, Any]) -> tuple[float, float] | None:
    sides = image.get("height"), image.get("width")
    return sides if all(type(side) in (int, float) and side > 0 for side in sides) else None


def _name(entry: Mapping[str, Any], names: dict[Any, str] | None, where: str) -> str:
    image = entry.get("image_id")
    if names is None and isinstance(image, str) and image:
        return Path(image).name
    if names is not None and isinstance(image, str | int) and image in names:
        return names[image]
    rule = "the id of an image" if names is not None else "a file name"
    raise ValueError(f"expected {rule} as image_id in {where}, got {image!r}")


def _person(entry: Mapping[str, Any], where: str, confidence: float) -> Person:
    points = numbers(entry.get("keypoints"), (len(COCO_JOINTS),), where)
    score = entry.get("score", points[:, 2].sum())
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise ValueError(f"expected a number as score in {where}, got {score!r}")
    return Person(from_coco(points, confidence=confidence), float(score))
