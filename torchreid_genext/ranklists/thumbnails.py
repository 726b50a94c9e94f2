"""Small JPEGs as text, for pages that hold their own pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from torchreid_genext.processes import usable_cores

__all__ = ["thumbnails"]

_BOX = (64, 128)  # pixels; Market-1501's images stay as large as they are
_QUALITY = 80


def thumbnails(paths: Sequence[str]) -> list[str | None]:
    """A data URI for each image file, with nothing of the file but its pixels; None if it cannot be read."""
    # Pillow lets go of the interpreter while it decodes and encodes.
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(_thumbnail, paths))


def _thumbnail(path: str) -> str | None:
    try:
        with Image.open(path) as image:
            image.draft("RGB", _BOX)
            image = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    image.thumbnail(_BOX)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()
