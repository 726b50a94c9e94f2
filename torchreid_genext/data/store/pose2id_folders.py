"""Stores from and to the folders in which Pose2ID publishes generated images.

    <root>/query_gen/pose1/<name of the real image>
    <root>/bounding_box_test_gen/pose1/<name of the real image>

`lookup` reads such folders as they are; a store beside them knows how its pictures were made.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from torchreid_genext import checkpoints
from torchreid_genext.data.images.reading import UNREADABLE, is_image, open_image
from torchreid_genext.data.store.image_store import ImageStore, pose_order
from torchreid_genext.data.store.lookup import FOLDERS, numbered_folders

__all__ = ["FORMATS", "export", "import_layout", "write_picture"]

# What files are called decides on what is in them: as good as the format can, or nearly so.
FORMATS: Mapping[str, tuple[str, dict[str, Any]]] = {
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jfif": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".png": ("PNG", {}),
    ".bmp": ("BMP", {}),
    ".webp": ("WEBP", {"lossless": True}),
    ".tif": ("TIFF", {}),
    ".tiff": ("TIFF", {}),
    ".ppm": ("PPM", {}),
    ".pgm": ("PPM", {}),
}
_WRITERS = 4  # threads; Pillow lets go of the interpreter while it decodes and encodes
_log = logging.getLogger(__name__)


def export(store: ImageStore, folder: str | Path, *, progress: bool = True) -> int:
    """Write a store's pictures of queries and galleries, without the dropped ones, in Pose2ID's layout.

    A picture is called as its real image is, and has the format of that name: JPEG of quality 95 under
    ``.jpg``, exact pixels under ``.png``, ``.bmp`` and ``.webp``. Poses that are called 1, 2, ... keep their
    numbers; if any is called otherwise, all are numbered from 1 in their order, which is logged.

    Args:
        store: is read.
        folder: gets ``query_gen`` and ``bounding_box_test_gen``; files of the same names are replaced.
        progress: show a progress bar on a terminal.

    Returns:
        How many pictures were written.

    Raises:
        ValueError: if there are none, the name of a real image tells no format, or different pictures of one
            reference in one pose are there.
        OSError: if the folder cannot be written.
    """
    files = {split: store.files(split) for split in FOLDERS}
    numbers = _numbers({pose for poses in files.values() for pose in poses})
    plan = [
        (Path(path), Path(folder, FOLDERS[split], f"pose{numbers[pose]}", name))
        for split, poses in files.items()
        for pose, names in poses.items()
        for name, path in names.items()
    ]
    _check(store, plan)
    hidden = None if progress else True
    with ThreadPoolExecutor(_WRITERS) as pool:
        written = pool.map(lambda item: write_picture(*item), plan)
        return sum(1 for _ in tqdm(written, total=len(plan), desc="export", unit="img", disable=hidden))


def _numbers(poses: set[str]) -> dict[str, str]:
    """The number of each pose in the names of folders."""
    in_order = sorted(poses, key=pose_order)
    if all(re.fullmatch(r"0|[1-9]\d*", pose) for pose in in_order):
        return {pose: pose for pose in in_order}
    numbers = {pose: str(number) for number, pose in enumerate(in_order, start=1)}
    _log.info("poses are numbered: %s", ", ".join(f"{pose} is {n}" for pose, n in numbers.items()))
    return numbers


def _check(store: ImageStore, plan: Sequence[tuple[Path, Path]]) -> None:
    if not plan:
        rule = f"expected a store with pictures of {' or '.join(FOLDERS)}"
        raise ValueError(f"{rule}, got {str(store.root)!r} without")
    for _, file in plan:
        _check_format(file)
        if file.parent.parent.name not in FOLDERS.values():
            raise ValueError(f"expected real images of different names, got one in a folder, {file.name}")


def _check_format(file: Path) -> None:
    if file.suffix.lower() not in FORMATS:
        raise ValueError(f"expected names of real images with {', '.join(FORMATS)}, got {file.name}")


def write_picture(picture: str | Path, file: Path) -> None:
    """Write a picture again, in the format that the name of the new file tells, one of `FORMATS`.

    Raises:
        ValueError: if it tells none of them.
        OSError: if the file cannot be written, or the picture cannot be read.
    """
    _check_format(file)
    image = open_image(picture)
    kind, options = FORMATS[file.suffix.lower()]
    with checkpoints.atomic_path(file) as temporary:
        image.save(temporary, kind, **options)


def import_layout(
    folder: str | Path, store: ImageStore, provenance: Mapping[str, Any], *, progress: bool = True
) -> int:
    """Add the pictures in Pose2ID's layout to a store, pixel for pixel; those that are there are left alone.

    Args:
        folder: holds ``query_gen``, ``bounding_box_test_gen`` or both.
        store: is added to; a picture in ``pose3`` gets the pose 3.
        provenance: what is known of how they were made; ``file_sha256`` is added, so that files of other
            content are other pictures.
        progress: show a progress bar on a terminal.

    Returns:
        How many files were read; those that cannot be are left out, with a warning.

    Raises:
        ValueError: if the folder has no such pictures, or JSON cannot say the provenance.
        OSError: if the store cannot be written.
    """
    found = [*_pictures(Path(folder).expanduser())]
    if not found:
        layout = f"<root>/{{{','.join(FOLDERS.values())}}}/pose1/<name of the real image>"
        raise ValueError(f"expected generated images as {layout}, got none in {str(folder)!r}")
    hidden, count = None if progress else True, 0
    for split, pose, file in tqdm(found, desc="import", unit="img", disable=hidden):
        if (image := _readable(file)) is not None:
            made = {**provenance, "file_sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
            store.add(image, split=split, reference=file.name, pose=pose, provenance=made)
            count += 1
    return count


def _pictures(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Split, pose and file of every picture, in a fixed order."""
    for split, name in FOLDERS.items():
        for number, place in numbered_folders(folder / name).items():
            yield from ((split, str(number), file) for file in sorted(place.iterdir()) if is_image(file))


def _readable(file: Path) -> Image.Image | None:
    try:
        return open_image(file)
    except UNREADABLE as error:
        _log.warning("left out, since it cannot be read: %s: %s", file, error)
        return None
