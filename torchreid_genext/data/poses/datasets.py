"""Joints of all images of a torchreid data set, from files in its folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from torchreid_genext import compat
from torchreid_genext.data.poses.names import pose_of
from torchreid_genext.data.poses.reading import read_poses
from torchreid_genext.data.store.references import reference_names

__all__ = ["read_dataset_poses"]

_SPLITS = ("train", "query", "gallery")


def read_dataset_poses(name: str, root: str | Path, files: Sequence[str]) -> dict[str, np.ndarray]:
    """Read the joints of a data set's images, whichever files they are in.

    An image is known by its name; where no image has the name, by its name without ending, since files of
    OpenPose do not tell the ending.

    Args:
        name: data set as torchreid knows it, ours included once registered.
        root: folder that holds the data set's own.
        files: in the data set's folder, or paths of others, as `read_poses` reads them.

    Returns:
        File name of the image, with folders only where names repeat, to (18, 2) array of (y, x) pixels, -1 missing.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a file is malformed, an image is in two of them, or none is of an image of the set.
    """
    folder, found = compat.image_dataset_folder(name, root), {}
    for path in (folder / os.path.expanduser(file) for file in files):
        part = read_poses(path)
        if twice := sorted(found.keys() & part):
            raise ValueError(f"expected each image once, got {twice[0]} again in {path}")
        found |= part
    return _by_image(found, _paths(name, root), f"{', '.join(files)} of {name}")


def _paths(name: str, root: str | Path) -> list[str]:
    dataset = compat.init_image_dataset(name, root=str(root), verbose=False)
    return list(dict.fromkeys(record[0] for split in _SPLITS for record in getattr(dataset, split)))


def _by_image(found: Mapping[str, np.ndarray], paths: list[str], where: str) -> dict[str, np.ndarray]:
    names = reference_names(paths)
    if any("/" in name for name in names):
        return _by_path(found, paths, names, where)
    stems = {Path(name).stem: name for name in names if name not in found}
    known = {*names} & found.keys()
    matched = {
        name if name in known else stems.get(Path(name).stem, name): pose for name, pose in found.items()
    }
    if not known and not matched.keys() & {*names}:
        raise ValueError(_nobody(found, names, where))
    return matched


def _by_path(
    found: Mapping[str, np.ndarray], paths: list[str], names: list[str], where: str
) -> dict[str, np.ndarray]:
    """Where file names repeat in a data set, folders tell whose a pose is."""
    keys = {key: key for key in found}
    given = {name: key for name, path in zip(names, paths) if (key := pose_of(keys, path)) is not None}
    if not given:
        raise ValueError(_nobody(found, names, where))
    key, count = Counter(given.values()).most_common(1)[0]
    if count > 1:
        rule = "expected joints under names with folders, since names of images repeat"
        raise ValueError(f"{rule}, got {key}, which {count} images are called: {where}")
    return {name: found[key] for name, key in given.items()}


def _nobody(found: Mapping[str, np.ndarray], names: list[str], where: str) -> str:
    example = f"of images such as {min(names, default='none')}"
    return f"expected joints {example}, got those of {min(found, default='none')}: {where}"
