"""COCO's JSON of keypoints: annotations, and results of detectors.

    {"images": [{"id": 1, "file_name": "a.jpg", "height": 128, "width": 64}, ...],
     "annotations": [{"image_id": 1, "keypoints": [x0, y0, v0, x1, ...], ...}, ...]}

    [{"image_id": "a.jpg", "category_id": 1, "keypoints": [x0, y0, v0, x1, ...], "score": 0.9}, ...]

v is 0 where the joint is missing. Ids of images are numbers in COCO itself; in results, which do not tell
what they mean, they have to be file names, as AlphaPose writes them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from torchreid_genext import checkpoints
from torchreid_genext.data.poses.joints import (
    COCO_JOINTS,
    Person,
    are_shares,
    chosen_pose,
    from_coco,
    single_pose,
    to_coco,
)
from torchreid_genext.data.poses.names import check_names, image_name
from torchreid_genext.data.poses.openpose import numbers

__all__ = ["read_coco", "write_coco"]

_PERSON = 1  # COCO's category
_Sizes = dict[str, tuple[float, float] | None]


def read_coco(
    content: Any, where: str, *, confidence: float = 0.0
) -> dict[str, tuple[np.ndarray, tuple[float, float] | None]]:
    """The person of each image with the best score; the sum of confidences where no score is given.

    Crowds, and what is of another category than people, are passed over. Places that are shares of the images
    become pixels.

    Args:
        content: of the file.
        where: names it in errors.
        confidence: joints with no more than this are missing.

    Returns:
        File name, without folders, to the pose (18, 2) of (y, x) pixels, without any joint where nobody is,
        and the (height, width) of the image, None where it is not told.

    Raises:
        ValueError: if a part is malformed, an image is not known, or places are shares of an image whose size
            is not told; it is named.
    """
    names, sizes, entries = _parts(content, where)
    people = [_found(entry, names, place, confidence) for place, entry in _people(content, entries, where)]
    everything = [each.points[each.points[:, 2] > 0, :2] for each in people]
    shares = bool(people) and are_shares(np.concatenate(everything), where)
    found: dict[str, list[Person]] = {name: [] for name in sizes}
    for each in people:
        found.setdefault(each.name, []).append(each.person(_unit(sizes.get(each.name), each.place, shares)))
    return {name: (chosen_pose(everyone), sizes.get(name)) for name, everyone in found.items()}


def write_coco(path: str | PathLike[str], poses: Mapping[str, ArrayLike]) -> None:
    """Write poses as results, in which file names are the ids of images; the neck is lost.

    Args:
        path: the JSON file.
        poses: file name to (18, 2) array of (y, x) pixels, -1 missing. The score is the share of joints that
            are there.

    Raises:
        ValueError: if a pose is not (18, 2) or not finite, or a name has folders.
    """
    check_names(poses)
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
        names = {image["id"]: image_name(image["file_name"]) for image in images}
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
        return image_name(image)
    if names is not None and isinstance(image, str | int) and image in names:
        return names[image]
    rule = "the id of an image" if names is not None else "a file name"
    raise ValueError(f"expected {rule} as image_id in {where}, got {image!r}")


def _people(content: Any, entries: list[Any], where: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Place and entry of all that may be the person of an image."""
    named = [(f"{where}, person {number}", entry) for number, entry in enumerate(entries, start=1)]
    for place, entry in named:
        if not isinstance(entry, Mapping):
            raise ValueError(f"expected keypoints in {place}, got {type(entry).__name__}")
    results = isinstance(content, list)
    shown = [(place, entry) for place, entry in named if results or "keypoints" in entry]
    single = [(place, entry) for place, entry in shown if not entry.get("iscrowd")]
    category = _category(content)
    people = [(place, entry) for place, entry in single if entry.get("category_id", category) == category]
    if single and not people:
        other = single[0][1]["category_id"]
        raise ValueError(f"expected people, of category_id {category}, in {where}, got only {other!r}")
    return people


def _category(content: Any) -> Any:
    """The id of people, whom files of a category of their own need not call so."""
    known = content.get("categories") if isinstance(content, Mapping) else None
    ids = {str(each.get("name")): each.get("id") for each in known or [] if isinstance(each, Mapping)}
    return ids.get("person", next(iter(ids.values())) if len(ids) == 1 else _PERSON)


@dataclass(frozen=True)
class _Found:
    """Somebody in the image `name`: keypoints (17, 3), before it is known whether they are shares of it."""

    name: str
    place: str
    points: np.ndarray
    score: float
    confidence: float

    def person(self, unit: Sequence[float]) -> Person:
        return Person(from_coco(self.points * unit, confidence=self.confidence), self.score)


def _found(entry: Mapping[str, Any], names: dict[Any, str] | None, place: str, confidence: float) -> _Found:
    name = _name(entry, names, place)
    points = numbers(entry.get("keypoints"), (len(COCO_JOINTS),), place)
    return _Found(name, place, points, _score(entry.get("score", points[:, 2].sum()), place), confidence)


def _score(score: Any, place: str) -> float:
    # NaN is not equal to itself, and larger than nothing: it would win or lose by its place in the file.
    if isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) < sys.float_info.max:
        raise ValueError(f"expected a finite number as score in {place}, got {score!r}")
    return float(score)


def _unit(size: tuple[float, float] | None, place: str, shares: bool) -> tuple[float, float, float]:
    """What x, y and confidence are multiplied by."""
    if not shares:
        return 1, 1, 1
    if size is None:
        raise ValueError(f"expected pixels, or height and width of the image, in {place}, got only shares")
    return size[1], size[0], 1
