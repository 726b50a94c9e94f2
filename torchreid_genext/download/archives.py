"""Archives that were fetched, unpacked by what Python has: zip and tar, compressed or not."""

from __future__ import annotations

import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

__all__ = ["unpack"]

_OTHERS = {b"Rar!": "RAR", b"7z\xbc\xaf": "7z"}  # by the beginnings of their files
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError)


def unpack(archive: str | Path, folder: str | Path) -> None:
    """Unpack an archive, all of it or nothing; one that was unpacked before is passed over.

    Args:
        archive: a zip or tar file of any name; stays.
        folder: gets what is in it; files of the same names are replaced.

    Raises:
        ValueError: if it is of another kind or damaged.
        OSError: if the folder cannot be written, or the disk is full.
    """
    archive, folder = Path(archive), Path(folder)
    mark = archive.with_name(f"{archive.name}.unpacked")
    if mark.exists() and mark.stat().st_mtime_ns >= archive.stat().st_mtime_ns:
        return
    workplace = folder / f".{archive.name}.partial"
    shutil.rmtree(workplace, ignore_errors=True)  # of a call that was interrupted
    try:
        _extract(archive, workplace)
        _move(workplace, folder)
        mark.touch()
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def _extract(archive: Path, workplace: Path) -> None:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                file.extractall(workplace)  # keeps all names below the folder
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as file:
                file.extractall(workplace, filter="data")  # refuses names and links that lead elsewhere
        else:
            raise ValueError(f"expected a zip or tar archive, got {_kind(archive)}")
    except _BROKEN as error:
        raise ValueError(f"expected a whole archive, got {archive}: {error}") from error


def _kind(archive: Path) -> str:
    with open(archive, "rb") as file:
        head = file.read(4)
    cure = f"unpack it with `7z x {archive}`"
    return f"one of {_OTHERS[head]} in {archive}; {cure}" if head in _OTHERS else f"{archive}; try to {cure}"


def _move(workplace: Path, folder: Path) -> None:
    for path in sorted(path for path in workplace.rglob("*") if path.is_file()):
        target = folder / path.relative_to(workplace)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
