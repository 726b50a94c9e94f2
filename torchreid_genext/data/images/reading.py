"""Image files of unknown origin, read by formats that are known, with their faults by name."""

from __future__ import annotations

import struct
from os import PathLike

from PIL import Image

__all__ = ["FORMATS", "UNREADABLE", "open_image"]

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")  # of all that Pillow reads, what people are photographed in
# What Pillow raises when a file is missing, damaged, of another format, or a bomb.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def open_image(path: str | PathLike[str]) -> Image.Image:
    """The picture in a file, in RGB.

    Raises:
        OSError: if the file is missing, truncated, or no JPEG, PNG, BMP or WebP; damaged files may also raise
            the others of `UNREADABLE`.
    """
    with Image.open(path, formats=FORMATS) as image:
        return image.convert("RGB")
