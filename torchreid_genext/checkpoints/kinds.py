"""What a file is, told from its content: people give weights any suffix, and downloads other things."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

_READ = 512  # bytes that tell formats apart
_AGAIN = "download it again"
_BEGINNINGS = (
    (b"version https://git-lfs", "it is a Git LFS pointer: run `git lfs pull`"),
    (b"\x89HDF", "it is an HDF5 file, as Keras writes them, or the beginning of one"),
    (b"\x1f\x8b", "it is a gzip archive: unpack it first"),
)


def is_safetensors(path: str | Path) -> bool:
    """Whether a file begins as safetensors do: the length of a header (8 bytes), and its brace."""
    head = _head(path)
    return head[4:9] == b"\0\0\0\0{"


def text_in(path: str | Path) -> str | None:
    """What a file is that should hold no text, in words that name the cure; None if it holds none."""
    head = _head(path)
    text = _of_text(head) if head else None
    return text and (_of_beginning(head) or text)


def reason(path: str | Path, error: Exception) -> str:
    """Why a file could not be read, in words that name the cure; `error` is what its reader said."""
    if isinstance(error, PermissionError):
        return error.strerror
    head = _head(path)
    if not head:
        return f"it is empty: {_AGAIN}"
    return _of_beginning(head) or _of_text(head) or _of_binary(path, head) or _of_code(error)


def _of_beginning(head: bytes) -> str | None:
    return next((words for beginning, words in _BEGINNINGS if head.startswith(beginning)), None)


def _head(path: str | Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_READ)


def _of_text(head: bytes) -> str | None:
    text = head.decode("utf-8-sig", errors="ignore").strip()
    if any(not (letter.isprintable() or letter.isspace()) for letter in text):
        return None
    if text.startswith("<"):
        return f"it is a web page, not weights: {_AGAIN} in a browser"
    kind = "JSON" if text.startswith(("{", "[")) else "text"
    return f"it is {kind}, not weights ({' '.join(text.split())[:60]!r}): {_AGAIN}"


def _of_binary(path: str | Path, head: bytes) -> str | None:
    if head[257:262] == b"ustar":
        return "it is a tar archive: unpack it first"
    if is_safetensors(path):
        return f"it is cut short or damaged: {_AGAIN}"
    return _of_zip(path) if head.startswith(b"PK") else None


def _of_zip(path: str | Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {os.path.basename(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError):
        return f"it is cut short or damaged: {_AGAIN}"
    if "data.pkl" not in names:
        return "it is a zip archive, not weights: unpack it first"
    scripted = "it is a TorchScript program, which is code: save its state_dict() where it can be run"
    return scripted if "constants.pkl" in names else None


def _of_code(error: Exception) -> str:
    """Of a pickle; torch's own words propose to run the code in it."""
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"it holds code ({found[1]}): save only the state_dict() where it was made"
    return f"it is cut short or damaged, or is no file of weights: {_AGAIN}"
