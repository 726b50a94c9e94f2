"""Pictures brought to the size that a network sees."""

from __future__ import annotations

from PIL import Image, ImageOps

__all__ = ["INTERPOLATIONS", "RESIZES", "resized"]

INTERPOLATIONS = tuple(name.lower() for name in Image.Resampling.__members__)
RESIZES = ("stretch", "letterbox")  # to the size whatever the shape; or whole, between black bars


def resized(
    image: Image.Image, height: int, width: int, interpolation: str = "bilinear", resize: str = "stretch"
) -> Image.Image:
    """The picture in another size.

    Args:
        image: in any mode.
        height, width: in pixels.
        interpolation: one of `INTERPOLATIONS`.
        resize: one of `RESIZES`.
    """
    method = Image.Resampling[interpolation.upper()]
    if resize == "letterbox":
        return ImageOps.pad(image, (width, height), method, color=0)
    return image.resize((width, height), method)
