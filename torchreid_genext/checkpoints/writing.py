"""Files that appear under their name in one step, complete, or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import stat
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNKNOWN = (errno.EINVAL, errno.ENOTSUP)  # some mounted folders know no flushing


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; on leaving, what stands there becomes `path` in one step.

    The temporary name ends like `path`, so writers that go by the suffix work. After an error nothing
    is left behind and an earlier file at `path` is untouched. A file that is replaced keeps its permissions;
    of a symbolic link the file that it leads to is replaced.

    Raises:
        OSError: if the folder cannot be made or written, or the disk is full; the message names `path`.
    """
    path = Path(os.path.expanduser(path))
    path = Path(os.path.realpath(path)) if os.path.islink(path) else path
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    _create(temporary, path)
    mode = (path if os.path.exists(path) else temporary).stat().st_mode
    try:
        with _full_disk_named(path):
            yield temporary
            _flush(temporary, mode)
            os.replace(temporary, path)
            _flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _create(temporary: Path, path: Path) -> None:
    """Make an empty file, so that a folder that cannot be written is told before the work is done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
    except OSError as error:
        reason = f"expected a folder that can be written, got one with '{error.strerror}'"
        raise type(error)(error.errno, reason, str(path)) from error


@contextlib.contextmanager
def _full_disk_named(path: Path) -> Iterator[None]:
    """An error of a full disk would name the temporary file."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise OSError(error.errno, f"expected space to write, got '{error.strerror}'", str(path)) from error


def _flush(path: Path, mode: int) -> None:
    with contextlib.suppress(PermissionError):  # mounted folders may know no permissions
        path.chmod(stat.S_IMODE(mode))  # safetensors makes files that nobody else may read
    with open(path, "r+b") as file:  # Windows flushes only what may be written
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in _UNKNOWN:
                raise


def _flush_folder(folder: Path) -> None:
    """A power cut could take back the new name; not all systems can keep it, and the file is whole anyway."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file atomically, with its folders; returns its path."""
    path = Path(os.path.expanduser(path))
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return path


def write_text(path: str | Path, text: str) -> Path:
    r"""Write a UTF-8 file atomically, with its folders; returns its path.

    Bytes of file names that are no UTF-8 are written as Python shows them, such as ``\udcc8``.
    """
    return write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: str | Path, content: Any) -> Path:
    """Write indented JSON atomically; NaN and infinities become null, since JSON has none."""
    return write_text(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
