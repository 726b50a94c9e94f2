"""Annotation files of Deformable GANs and PG2 on Market-1501: a line an image, 18 joints in it.

Siarohin et al., CVPR 2018; Ma et al., NIPS 2017. Files of other programs are in `reading`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from os import PathLike

import numpy as np
from numpy.typing import ArrayLike, NDArray

from torchreid_genext import checkpoints
from torchreid_genext.data.poses.joints import JOINTS, checked_pose

__all__ = ["read_market_annotations", "read_visibility", "write_market_annotations"]

_HEADER = "name:keypoints_y:keypoints_x"


def read_market_annotations(path: str | PathLike[str]) -> dict[str, NDArray[np.int64]]:
    """Read the joints of every image of an annotation file.

    Args:
        path: lines of ``name: [18 y]: [18 x]`` under the header ``name:keypoints_y:keypoints_x``; a fourth
            field is allowed.

    Returns:
        File name to (18, 2) array of (y, x) pixels, -1 where the joint is missing. In a file with a fourth
        field (SynthReID's ``poses_full.csv``) hidden joints have their true position, which may lie outside
        the image.

    Raises:
        ValueError: if the header or a line is malformed; the message names the line.
    """
    return {name: np.stack([y, x], axis=1) for name, y, x, _ in _rows(path)}


def read_visibility(path: str | PathLike[str]) -> dict[str, NDArray[np.bool_]]:
    """Read which joints of every image can be seen.

    Args:
        path: as in `read_market_annotations`.

    Returns:
        File name to (18,) array: the fourth field where there is one, else whether the joint is annotated.

    Raises:
        ValueError: as in `read_market_annotations`.
    """
    return {
        name: seen.astype(bool) if seen is not None else (y >= 0) & (x >= 0)
        for name, y, x, seen in _rows(path)
    }


def write_market_annotations(
    path: str | PathLike[str], poses: Mapping[str, ArrayLike], visible: Mapping[str, ArrayLike] | None = None
) -> None:
    """Write an annotation file that `read_market_annotations` reads back, whole or not at all.

    Args:
        path: file to write.
        poses: file name to (18, 2) array of (y, x) pixels; rounded to whole pixels.
        visible: file name to (18,) flags; with it a fourth field ``[18 flags]`` is written.

    Raises:
        ValueError: if a pose is not (18, 2).
    """
    header = _HEADER if visible is None else _HEADER + ":visible"
    lines = [
        header,
        *(_line(name, pose, None if visible is None else visible[name]) for name, pose in poses.items()),
    ]
    checkpoints.write_text(os.fspath(path), "\n".join(lines) + "\n")


def _rows(path: str | PathLike[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray | None]]:
    with open(path, encoding="utf-8") as file:
        header = file.readline().strip()
        if header not in (_HEADER, _HEADER + ":visible"):
            raise ValueError(f"expected the header {_HEADER!r} in {os.fspath(path)}, got {header!r}")
        for number, line in enumerate(file, start=2):
            if line.strip():
                yield _row(line, f"{os.fspath(path)}, line {number}", header.count(":") + 1)


def _row(line: str, where: str, fields: int) -> tuple[str, np.ndarray, np.ndarray, np.ndarray | None]:
    name, *lists = (field.strip() for field in line.split(":"))
    if len(lists) != fields - 1:
        raise ValueError(f"expected {fields} fields in {where}, got {len(lists) + 1}")
    y, x, *seen = (_integers(field, where) for field in lists)
    return name, y, x, seen[0] if seen else None


def _integers(field: str, where: str) -> np.ndarray:
    try:
        values = json.loads(field)
    except json.JSONDecodeError:
        values = None
    if not isinstance(values, list) or len(values) != len(JOINTS) or not all(type(v) is int for v in values):
        raise ValueError(f"expected a list of {len(JOINTS)} whole numbers in {where}, got {field!r}")
    return np.array(values, np.int64)


def _line(name: str, pose: ArrayLike, seen: ArrayLike | None) -> str:
    whole = np.rint(checked_pose(pose)).astype(np.int64)
    fields = [name, *(json.dumps(axis.tolist()) for axis in whole.T)]
    if seen is not None:
        fields.append(json.dumps(np.asarray(seen).astype(int).tolist()))
    return ": ".join(fields)
