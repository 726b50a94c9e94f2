"""Pictures that somebody sends: the picture's own bytes and nothing else, within limits, or one sentence.

A page sends a data URI. A name or a path is never taken from it, so nobody can ask for files of this machine.
"""

from __future__ import annotations

import base64
import binascii
import io

from PIL import Image

from torchreid_genext.data.images.reading import FORMATS, UNREADABLE, image_size, open_image

__all__ = ["MOST_BYTES", "MOST_PIXELS", "read_upload"]

MOST_BYTES = 5_000_000
MOST_PIXELS = 16_000_000  # crops of people are far smaller; whole photographs of telephones are still taken
_LEAST_SIDE = 8  # pixels


def read_upload(uri: str | None) -> Image.Image:
    """The picture in a data URI, in RGB and upright, as `open_image` gives it.

    Its size is read from its head; pixels are decoded only if there are not too many.

    Raises:
        ValueError: naming the rule that it breaks.
    """
    content = _content(uri)
    try:
        height, width = image_size(io.BytesIO(content))
    except UNREADABLE:
        raise ValueError(f"expected a picture ({', '.join(FORMATS)}), got another file") from None
    if height * width > MOST_PIXELS:
        limit = f"{MOST_PIXELS / 1e6:.0f} megapixels"
        raise ValueError(f"expected a picture of at most {limit}, got {width} x {height}; send a crop")
    if min(height, width) < _LEAST_SIDE:
        raise ValueError(f"expected sides of at least {_LEAST_SIDE} pixels, got {width} x {height}")
    try:
        return open_image(io.BytesIO(content))
    except UNREADABLE:
        raise ValueError("expected a whole picture, got a damaged one; save it anew") from None


def _content(uri: str | None) -> bytes:
    if not isinstance(uri, str) or not uri.startswith("data:"):
        raise ValueError("expected a picture, got none; choose a file")
    text = uri.partition(",")[2]
    if len(text) > MOST_BYTES * 4 / 3 + 4:
        raise ValueError(
            f"expected a file of at most {MOST_BYTES / 1e6:.0f} MB, got a larger one; send a crop"
        )
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("expected a picture in base64, got other text") from None
    if not content:
        raise ValueError("expected a picture, got an empty file")
    return content
