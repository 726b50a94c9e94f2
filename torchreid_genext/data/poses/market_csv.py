"""Annotation files of Deformable GANs and PG2 on Market-1501: a line an image, 18 joints in it.

Siarohin et al., CVPR 2018; Ma et al., NIPS 2017. Files of other programs are in `reading`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from torchreid_genext import checkpoints
from torchreid_genext.data.poses.joints import JOINTS, are_shares, single_pose
from torchreid_genext.data.poses.names import check_names, image_name

__all__ = ["read_market_annotations", "read_visibility", "write_market_annotations"]

_HEADER = "name:keypoints_y:keypoints_x"
_Row = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # y, x, and which are seen


def read_market_annotations(path: str | PathLike[str], *, folders: bool = False) -> dict[str, NDArray[Any]]:
    """Read the joints of every image of an annotation file.

    Args:
        path: lines of ``name: [18 y]: [18 x]`` under the header ``name:keypoints_y:keypoints_x``, in UTF-8; a
            fourth field is allowed.
        folders: give the names as they stand there.

    Returns:
        File name, without folders unless names repeat, to (18, 2) array of (y, x) pixels, -1 where the joint is missing; int64,
        but float64 where a line has fractions. In a file with a fourth field (SynthReID's
        ``poses_full.csv``) hidden joints have their true position, which may lie outside the image.

    Raises:
        ValueError: if the header or a line is malformed, an image is there twice with different joints, or
            joints are shares of their image; the message names the line or the file.
    """
    rows = _rows(path, folders)
    found = {name: np.stack([y, x], axis=1) for name, (y, x, _) in rows.items()}
    fractions = [pose[(pose != -1).all(axis=1)] for pose in found.values() if pose.dtype.kind == "f"]
    if fractions and are_shares(np.concatenate(fractions), os.fspath(path)):
        what = "shares of the image; multiply by its size"
        raise ValueError(f"expected pixels in {os.fspath(path)}, got {what}")
    return found


def read_visibility(path: str | PathLike[str]) -> dict[str, NDArray[np.bool_]]:
    """Read which joints of every image can be seen.

    Args:
        path: as in `read_market_annotations`.

    Returns:
        File name, without folders, to (18,) array: the fourth field where there is one, else whether the
        joint is annotated.

    Raises:
        ValueError: as in `read_market_annotations`, but for shares.
    """
    return {
        name: seen.astype(bool) if seen is not None else (y >= 0) & (x >= 0)
        for name, (y, x, seen) in _rows(path).items()
    }


def write_market_annotations(
    path: str | PathLike[str], poses: Mapping[str, ArrayLike], visible: Mapping[str, ArrayLike] | None = None
) -> None:
    """Write an annotation file that `read_market_annotations` reads back, whole or not at all.

    Args:
        path: file to write.
        poses: file name to (18, 2) array of (y, x) pixels; rounded to whole pixels. A joint just outside of
            the image, which would become the -1 of missing ones, is written one pixel further out.
        visible: file name to (18,) flags; with it a fourth field ``[18 flags]`` is written.

    Raises:
        ValueError: if a pose is not (18, 2) or not finite, or a line of the file cannot hold a name.
    """
    check_names(poses, folders=True)
    header = _HEADER if visible is None else _HEADER + ":visible"
    lines = [_line(name, pose, None if visible is None else visible[name]) for name, pose in poses.items()]
    checkpoints.write_text(os.fspath(path), "\n".join([header, *lines]) + "\n")


def _rows(path: str | PathLike[str], folders: bool = False) -> dict[str, _Row]:
    """Every image of a file: y, x, and the fourth field or None."""
    found: dict[str, _Row] = {}
    for where, line, fields in _lines(os.path.expanduser(path)):
        name, row = _row(line, where, fields)
        if not _same(found.setdefault(name, row), row):
            raise ValueError(f"expected each image once, got other joints of {name} again in {where}")
    bare = {image_name(name): row for name, row in found.items()}
    if twice := [name for name, row in found.items() if not _same(found.get(image_name(name), row), row)]:
        rule = f"expected each image once, got other joints of {image_name(twice[0])} again, as {twice[0]}"
        raise ValueError(f"{rule}, in {os.fspath(path)}")
    return found if folders or len(bare) < len(found) else bare


def _lines(path: str) -> Iterator[tuple[str, str, int]]:
    """Place, text and number of fields of every line below the header."""
    with open(path, encoding="utf-8-sig") as file:  # Excel begins files with a mark of their encoding
        try:
            header = file.readline().strip()
            if header not in (_HEADER, _HEADER + ":visible"):
                raise ValueError(f"expected the header {_HEADER!r} in {path}, got {header!r}")
            for number, line in enumerate(file, start=2):
                if line.strip():
                    yield f"{path}, line {number}", line, header.count(":") + 1
        except UnicodeDecodeError as error:
            raise ValueError(f"expected UTF-8 in {path}, got {error}; save it as UTF-8") from error


def _row(line: str, where: str, fields: int) -> tuple[str, _Row]:
    name, *lists = line.rstrip("\n").rsplit(":", fields - 1)  # names may have colons
    if len(lists) != fields - 1 or name.endswith("]"):  # of a list
        raise ValueError(f"expected {fields} fields in {where}, got {line.count(': ') + 1}")
    y, x, *seen = (_numbers(field.strip(), where) for field in lists)
    return name.replace("\\", "/"), (y, x, seen[0] if seen else None)


def _same(one: _Row, other: _Row) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other))


def _numbers(field: str, where: str) -> np.ndarray:
    try:
        values = json.loads(field)
    except (ValueError, RecursionError):
        values = None
    fit = isinstance(values, list) and all(type(v) in (int, float) and abs(v) < 2**53 for v in values)
    if not fit or len(values) != len(JOINTS):
        raise ValueError(f"expected a list of {len(JOINTS)} finite numbers in {where}, got {field[:200]!r}")
    return np.array(values)


def _line(name: str, pose: ArrayLike, seen: ArrayLike | None) -> str:
    joints = single_pose(name, pose)
    whole = np.rint(joints).astype(np.int64)
    whole[(whole == -1) & (joints != -1)] = -2
    fields = [name, *(json.dumps(axis.tolist()) for axis in whole.T)]
    if seen is not None:
        fields.append(json.dumps(np.asarray(seen).astype(int).tolist()))
    return ": ".join(fields)
