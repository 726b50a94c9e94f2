from __future__ import annotations

import base64
import io
import struct
import zlib

import pytest
from PIL import Image

from torchreid_genext.explore.uploads import MOST_BYTES, read_upload


def uri(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def bomb(side: int) -> bytes:
    """A small file that says it holds side x side pixels."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP"])
def test_a_picture_is_read(kind: str) -> None:
    image = read_upload(uri(encoded(Image.new("RGB", (30, 60), "red"), kind)))
    assert image.size == (30, 60) and image.mode == "RGB" and image.getpixel((9, 9))[0] > 240


def test_what_is_transparent_shows_white() -> None:
    image = read_upload(uri(encoded(Image.new("RGBA", (30, 60), (255, 0, 0, 0)))))
    assert image.mode == "RGB" and image.getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (bomb(10_000), "at most 16 megapixels, got 10000 x 10000"),
        (bomb(60_000), "expected a picture"),
        (b"This is a text, whatever it is called.", "got another file"),
        (encoded(Image.new("P", (30, 60)), "GIF"), "got another file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "got another file"),
        (b"", "got an empty file"),
        (encoded(Image.effect_noise((90, 90), 80))[:900], "got a damaged one"),
        (encoded(Image.new("RGB", (3, 60))), "sides of at least 8 pixels, got 3 x 60"),
        (bytes(MOST_BYTES + 9), "at most 5 MB"),
    ],
    ids=["bomb", "larger bomb", "text", "gif", "svg", "empty", "cut", "thin", "long"],
)
def test_anything_else_is_told_in_a_sentence(content: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_upload(uri(content))


@pytest.mark.parametrize(
    "text", ["/etc/passwd", "http://127.0.0.1/a.png", "", None, 3, {"path": "/etc/passwd"}]
)
def test_names_of_files_are_no_pictures(text: object) -> None:
    with pytest.raises(ValueError, match="expected a picture, got none"):
        read_upload(text)


def test_text_that_is_not_base64_is_refused() -> None:
    with pytest.raises(ValueError, match="base64"):
        read_upload("data:image/png;base64,/etc/pass wd!")
