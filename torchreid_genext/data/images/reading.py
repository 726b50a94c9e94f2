"""Image files of unknown origin: which they are, how they are read, and their faults by name.

Two ways to look at a file. `open_image` shows it as viewers do: upright, and without what transparency hides;
generators, detectors and strips read so. `open_as_torchreid` gives the pixels that torchreid measures, which
knows neither EXIF nor transparency. Images of the published data sets have neither: for them both are one.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps

__all__ = [
    "FORMATS", "SUFFIXES", "UNREADABLE", "fault_of", "image_files", "image_size", "in_rgb",
    "is_image", "open_as_torchreid", "open_image", "readable_images", "reason",
]  # fmt: skip

# Of all that Pillow reads, what people are photographed in, and of their files the endings in lower case.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# What Pillow raises when a file is missing, damaged, of another format, or a bomb.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
_BEHIND = "white"  # what transparent pixels show
_LYING = 5  # EXIF orientations from here on swap height and width


def is_image(path: str | PathLike[str]) -> bool:
    """Whether a file is called as images are; hidden files, which programs leave beside images, are none."""
    path = Path(path)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def image_files(folder: str | PathLike[str]) -> list[str]:
    """All images of a folder and the folders in it, sorted; linked folders are followed, each once.

    Raises:
        ValueError: if there is no such folder.
    """
    folder = Path(os.path.expanduser(folder))
    if not folder.is_dir():
        raise ValueError(f"expected images in {folder}, got no such folder")
    return sorted(str(path) for path in _files(folder, set()) if is_image(path))


def _files(folder: Path, seen: set[str]) -> Iterator[Path]:
    if (place := os.path.realpath(folder)) in seen:  # a link to a folder above would lead round and round
        return
    seen.add(place)
    # Links last: what is there under its own name keeps it.
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_symlink(), path)):
        if path.is_dir():
            yield from _files(path, seen)
        else:
            yield path


def open_image(path: str | PathLike[str] | IO[bytes]) -> Image.Image:
    """The picture in a file as viewers show it, in RGB.

    It is turned as its EXIF orientation says, and what is transparent shows white.

    Raises:
        OSError: if the file is missing, truncated, or of no kind in `FORMATS`; damaged files may also raise
            the others of `UNREADABLE`.
    """
    with Image.open(path, formats=FORMATS) as image:
        image.load()
        return _opaque(_upright(image))


def open_as_torchreid(path: str | PathLike[str] | IO[bytes]) -> Image.Image:
    """The pixels in a file as torchreid measures them, in RGB: not turned, and with what is transparent.

    Grey images of 16 bits are the exception: torchreid makes them white, here they keep their upper eight.

    Raises:
        OSError: as `open_image`.
    """
    with Image.open(path, formats=FORMATS) as image:
        return in_rgb(image)


def image_size(path: str | PathLike[str] | IO[bytes]) -> tuple[int, int]:
    """Height and width of the picture that `open_image` gives, from the first bytes of its file.

    Raises:
        OSError: as `open_image`.
    """
    with Image.open(path, formats=FORMATS) as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= _LYING else (height, width)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (*UNREADABLE, TypeError):  # viewers pass over damaged EXIF
        return 1


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) if _orientation(image) > 1 else image


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data or _is_deep(image):
        return in_rgb(image)
    back = Image.new("RGBA", image.size, _BEHIND)
    return Image.alpha_composite(back, image.convert("RGBA")).convert("RGB")


def in_rgb(image: Image.Image) -> Image.Image:
    """An image as RGB; of grey levels of 16 bits the upper eight, which Pillow would cut off at 255."""
    if not _is_deep(image):
        return image.convert("RGB")
    upper = np.asarray(image).astype(np.int64) >> 8
    return Image.fromarray(upper.clip(0, 255).astype(np.uint8)).convert("RGB")


def _is_deep(image: Image.Image) -> bool:
    return image.mode == "I" or image.mode.startswith("I;16")


def readable_images(
    files: Iterable[str | PathLike[str] | IO[bytes]], faults: dict[int, str]
) -> Iterator[tuple[int, Image.Image]]:
    """Read images one after the other; those that cannot be read are left out, and told.

    Args:
        files: of images.
        faults: gets position -> reason of those that cannot be read.

    Yields:
        Position and picture, as of `open_image`.
    """
    for position, file in enumerate(files):
        try:
            image = open_image(file)
        except UNREADABLE as error:
            faults[position] = reason(error)
        else:
            yield position, image


def fault_of(file: str | PathLike[str] | IO[bytes]) -> str:
    """Why an image cannot be read; empty if it can."""
    faults: dict[int, str] = {}
    for _ in readable_images([file], faults):
        pass
    return faults.get(0, "")


def reason(error: BaseException) -> str:
    """What is wrong with an image, without the address of its bytes in this process."""
    return re.sub(r" <_io\.BytesIO object at 0x[0-9a-f]+>", "", str(error)) or type(error).__name__
