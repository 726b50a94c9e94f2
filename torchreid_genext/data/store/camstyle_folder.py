"""Images in the style of other cameras: in the authors' folder, and in a store.

CamStyle (Zhong et al., CVPR 2018) keeps its images, "fakes", in one folder::

    <root>/bounding_box_train_camstyle/0002_c1s1_000451_03_fake_1to2.jpg

which is the image 0002_c1s1_000451_03 of camera 1 as camera 2 would have taken it. The authors read the
person and camera 1 from such names, and number the people of the folder on their own, which is right only if
everybody is in it. Here a fake has the label of its real image, and both cameras are known. In a store the
style is the name of the pose, ``camera2``. In names cameras count from 1, everywhere else from 0.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from torchreid_genext.data.filenames import parse
from torchreid_genext.data.images.reading import UNREADABLE, is_image, open_image
from torchreid_genext.data.store.image_store import ImageStore, is_store
from torchreid_genext.data.store.pose2id_folders import write_picture
from torchreid_genext.data.store.references import without_suffix

__all__ = [
    "FOLDER", "Fake", "export_fakes", "fake_name", "import_fakes", "parse_fake", "style_camera",
    "style_files", "style_pose",
]  # fmt: skip

FOLDER = "bounding_box_train_camstyle"

_FAKE = re.compile(r"(.+)_fake_([1-9]\d*)to([1-9]\d*)")
_PERSON = re.compile(r"(-?\d+)_c(\d+)")  # as the authors read names
_POSE = re.compile(r"camera([1-9]\d*)")
_log = logging.getLogger(__name__)


class Fake(NamedTuple):
    """What the name of a fake says.

    Attributes:
        real: name of the real image.
        pid: person, -1 for junk.
        camid: camera of the real image, from 0.
        style: camera that it looks like, from 0.
    """

    real: str
    pid: int
    camid: int
    style: int


def parse_fake(path: str | PathLike[str], dataset: str = "market1501") -> Fake:
    """Read the name of a fake.

    Args:
        path: file, with or without folders.
        dataset: whose names real images have, see `data.filenames.parse`.

    Raises:
        ValueError: if the name is not the authors', or tells two cameras of the real image.
    """
    stem, source, style = _parts(Path(path))
    record = parse(stem, dataset)
    if record.camid != source:
        rule = f"expected a fake of camera {record.camid + 1}, as the real image's name tells"
        raise ValueError(f"{rule}, got {Path(path).name!r}")
    return Fake(stem + Path(path).suffix, record.pid, record.camid, style)


def _parts(path: Path) -> tuple[str, int, int]:
    """Name of the real image without extension, its camera, and that of the style, both from 0."""
    found = _FAKE.fullmatch(path.stem)
    if found is None:
        example = "0002_c1s1_000451_03_fake_1to2.jpg"
        raise ValueError(f"expected a name such as {example}, got {path.name!r}")
    return found[1], int(found[2]) - 1, int(found[3]) - 1


def fake_name(real: str, source: int, style: int) -> str:
    """The name of a fake.

    Args:
        real: name of the real image, whose extension stays.
        source: its camera, from 0. style: the camera that the fake looks like.
    """
    return f"{Path(real).stem}_fake_{source + 1}to{style + 1}{Path(real).suffix}"


def style_pose(camera: int) -> str:
    """What a store calls the style of a camera (from 0): ``camera1`` and so on."""
    return f"camera{camera + 1}"


def style_camera(pose: str) -> int:
    """The camera, from 0, that `style_pose` made a name of.

    Raises:
        ValueError: if it is no such name.
    """
    if not (found := _POSE.fullmatch(pose)):
        raise ValueError(f"expected pictures in the style of a camera, such as camera2, got pose {pose!r}")
    return int(found[1]) - 1


def style_files(place: Path, name: str, cameras: Mapping[str, int]) -> dict[str, dict[str, str]]:
    """Fakes of training images, in a store or the authors' folder.

    Args:
        place: a store, the authors' folder, or what holds it.
        name: of the data set, for messages.
        cameras: name without extension of each real image -> its camera.

    Returns:
        By pose, in the order of cameras: name of the real image without extension -> file. Fakes of junk
        (pid -1) are left out; what is missing, as after an interruption, is reported in the log.

    Raises:
        ValueError: if there are no fakes, a name does not tell the camera of its real image, or some are of
            people without a training image.
    """
    found = _of_store(place) if is_store(place) else _of_folder(_folder(place), cameras)
    if not any(found.values()):
        rule = f"expected images of {name} in the style of other cameras in genext.augmented.root"
        raise ValueError(
            f"{rule}, a store or a folder with {FOLDER}/<name>_fake_1to2.jpg, got none in {str(place)!r}"
        )
    found = {pose: _without_junk(found[pose]) for pose in sorted(found, key=style_camera)}
    _check_people(found, cameras, name)
    _report_gaps(found, cameras, name)
    return found


def _folder(place: Path) -> Path:
    place = place.expanduser()
    return place if place.name == FOLDER else place / FOLDER


def _of_store(place: Path) -> dict[str, dict[str, str]]:
    listings = ImageStore(place).files("train")
    return {
        pose: {without_suffix(real): path for real, path in files.items()} for pose, files in listings.items()
    }


def _of_folder(folder: Path, cameras: Mapping[str, int]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for path in _pictures(folder):
        stem, source, style = _parts(path)
        if cameras.get(stem, source) != source:
            rule = f"expected a fake of camera {cameras[stem] + 1}, where the real image is from"
            raise ValueError(f"{rule}, got {path.name!r}")
        found.setdefault(style_pose(style), {})[stem] = str(path)
    return found


def _pictures(folder: Path) -> list[Path]:
    """Whole files, in the order of their names; what begins with a dot was being written."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if is_image(path))
    return sorted(path for path in found if not path.name.startswith("."))


def _without_junk(files: Mapping[str, str]) -> dict[str, str]:
    return {stem: path for stem, path in files.items() if _person(stem) != -1}


def _person(stem: str) -> int | None:
    """The person that a name tells, or None if it tells none."""
    found = _PERSON.match(stem)
    return int(found[1]) if found else None


def _check_people(found: Mapping[str, Mapping[str, str]], real: Iterable[str], name: str) -> None:
    """A fake of somebody who is not trained on has no label."""
    known = {_person(stem) for stem in real}
    of_others = {_person(stem): path for files in found.values() for stem, path in files.items()}
    if unknown := sorted(person for person in of_others if person is not None and person not in known):
        some = ", ".join(f"{person:04d}" for person in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        rule = f"expected fakes of people in the training images of {name}"
        raise ValueError(f"{rule}, got {len(unknown)} others: {some}; such as {of_others[unknown[0]]}")


def _report_gaps(found: Mapping[str, Mapping[str, str]], cameras: Mapping[str, int], name: str) -> None:
    """Every image has a fake in each style but its own camera's, if the folder was written to its end."""
    styles = {style_camera(pose): files for pose, files in found.items()}
    wanted = [
        (stem, style) for stem, own in cameras.items() for style in styles if style != own
    ]  # fmt: skip
    if missing := [(stem, style) for stem, style in wanted if stem not in styles[style]]:
        _log.warning(
            "%s: half-written: %d of %d images in the style of other cameras are missing, such as %s of %s",
            name, len(missing), len(wanted), style_pose(missing[0][1]), missing[0][0],
        )  # fmt: skip


def export_fakes(store: ImageStore, folder: str | Path, cameras: Mapping[str, int]) -> int:
    """Write a store's training pictures, without the dropped ones, as the authors' folder.

    Args:
        store: is read; its poses are those of `style_pose`.
        folder: gets ``bounding_box_train_camstyle``; files of the same names are replaced.
        cameras: name of each real image -> its camera, from 0.

    Returns:
        How many pictures were written.

    Raises:
        ValueError: if there are none, a pose is no camera's, a picture is of none of the real images, or the
            name of a real image tells no format.
        OSError: if the folder cannot be written.
    """
    plan = []
    for pose, files in store.files("train").items():
        style = style_camera(pose)
        for real, path in files.items():
            if real not in cameras:
                raise ValueError(f"expected pictures of the real images that are given, got one of {real}")
            plan.append((path, Path(folder, FOLDER, fake_name(real, cameras[real], style))))
    if not plan:
        raise ValueError(f"expected a store with pictures of train, got {str(store.root)!r} without")
    for path, file in plan:
        write_picture(path, file)
    return len(plan)


def import_fakes(folder: str | Path, store: ImageStore, provenance: Mapping[str, Any]) -> int:
    """Add the authors' folder to a store, pixel for pixel; what is there is left alone.

    Args:
        folder: ``bounding_box_train_camstyle``, or what holds it.
        store: is added to, under the names of real images.
        provenance: what is known of how they were made; ``file_sha256`` is added.

    Returns:
        How many files were read; those that cannot be are left out, with a warning.

    Raises:
        ValueError: if there are none, or a name is not the authors'.
        OSError: if the store cannot be written.
    """
    if not (found := _pictures(_folder(Path(folder)))):
        raise ValueError(f"expected fakes as {FOLDER}/<name>_fake_1to2.jpg, got none in {str(folder)!r}")
    count = 0
    for path in found:
        stem, _, style = _parts(path)
        try:
            image = open_image(path)
        except UNREADABLE as error:
            _log.warning("left out, since it cannot be read: %s: %s", path, error)
            continue
        made = {**provenance, "file_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        name = stem + path.suffix
        store.add(image, split="train", reference=name, pose=style_pose(style), provenance=made)
        count += 1
    return count
