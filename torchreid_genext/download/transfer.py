"""A file over the network: goes on where it was broken off, and does not take one file for another."""

from __future__ import annotations

import contextlib
import errno
import http.client
import logging
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from torchreid_genext.download.known import File

try:
    import fcntl
except ImportError:  # Windows: there, two processes are not kept from fetching the same file at a time
    fcntl = None

__all__ = ["Transfer", "check_space", "forget", "part_of", "size_of"]

_BLOCK = 2**20
_SILENCE = 30  # seconds without a byte, after which a connection is taken for broken
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers that may be others a moment later
_log = logging.getLogger(__name__)


class _Refused(Exception):
    """What another attempt would not change."""


def part_of(path: Path) -> Path:
    """Where a file is until it is whole."""
    return path.with_name(f"{path.name}.part")


def size_of(path: Path) -> int:
    """In bytes; 0 if there is none."""
    return path.stat().st_size if path.is_file() else 0


def forget(part: Path) -> None:
    """Take away a part and what was noted of it."""
    part.unlink(missing_ok=True)
    _mark(part).unlink(missing_ok=True)


def _mark(part: Path) -> Path:
    """Where it is noted which version of a file a part is of."""
    return part.with_name(f"{part.name}.version")


def check_space(folder: Path, needed: int) -> None:
    """Raises OSError if fewer bytes are free than needed."""
    if needed > (free := shutil.disk_usage(folder).free):
        raise OSError(errno.ENOSPC, f"expected {needed:,} bytes of free space, got {free:,}", str(folder))


class Transfer:
    """From an address to a part of a file.

    Args:
        file: what is fetched.
        url: from where.
        part: to where.
        progress: whether to show a bar.

    Attributes:
        told: the sum by which the hub knows the file, which it tells before it sends on to a store; or None.
    """

    def __init__(self, file: File, url: str, part: Path, progress: bool) -> None:
        self.file, self.url, self.part, self.progress = file, url, part, progress
        self.told: str | None = None

    def run(self, attempts: int, pause: float, hint: str) -> None:
        """Until the part is as long as the file; `hint` ends what a ConnectionError says."""
        try:
            self._patiently(attempts, pause)
        except (ConnectionError, _Refused) as error:
            reason = f"{error}{self._kept()}. {hint}"
            raise ConnectionError(f"expected {self.file.path} from {self.url}, got {reason}") from error
        except OSError as error:
            reason = f"{error.strerror or error}{self._kept()}"
            raise OSError(error.errno, reason, str(self.part)) from error

    def _kept(self) -> str:
        begun = size_of(self.part)
        return f"; {begun:,} bytes are kept, and the next call goes on from there" if begun else ""

    def _patiently(self, attempts: int, pause: float) -> None:
        failures, best = 0, size_of(self.part)
        while True:
            try:
                return self._from_drive() if self.file.drive else self._from_web()
            except ConnectionError as error:
                failures = failures + 1 if size_of(self.part) <= best else 1
                best = max(best, size_of(self.part))
                if failures >= attempts:
                    raise
                seconds = pause * 2 ** (failures - 1)
                _log.info("%s: %s; trying again in %g s", self.file.path, error, seconds)
                time.sleep(seconds)

    def _from_drive(self) -> None:
        import gdown

        try:
            gdown.download(self.url, str(self.part), quiet=not self.progress, use_cookies=False, resume=True)
        except OSError as error:
            if error.errno is not None:  # of the disk; those of the connection have none
                raise
            raise ConnectionError(str(error)) from error
        except Exception as error:  # gdown's own, which differ between its versions
            raise _Refused(str(error)) from error

    def _from_web(self) -> None:
        hops = _Hops()
        response = self._ask(hops)
        self.told = hops.told
        if response is not None:
            with response:
                self._receive(response)

    def _ask(self, hops: _Hops) -> Any | None:
        """The response with what is not there yet, or with everything; None if nothing is to come."""
        known = _continuation(self.part)
        headers = {"User-Agent": "torchreid_genext", "Accept-Encoding": "identity", **known}
        opener = urllib.request.build_opener(hops)
        with _network():
            try:
                return opener.open(urllib.request.Request(self.url, headers=headers), timeout=_SILENCE)
            except urllib.error.HTTPError as error:
                if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not known:
                    raise
                if error.headers.get("Content-Range") == f"bytes */{size_of(self.part)}":
                    return None
        forget(self.part)  # longer than the file
        return self._ask(hops)

    def _receive(self, response: Any) -> None:
        if response.headers.get_content_type() == "text/html":
            raise _Refused("a web page, as of a login or portal")
        start = _start(response)
        total = _total(response, start)
        if None not in (self.file.size, total) and total != self.file.size:
            raise _Refused(f"a file of {total:,} bytes instead of {self.file.size:,}")
        check_space(self.part.parent, (total or 0) - start)
        with open(self.part, "ab") as disk:
            _reserve(disk, start)
            if not start:
                _note_version(self.part, response.headers)
            self._copy(response, disk, start, total)
        if total is not None and size_of(self.part) != total:
            raise ConnectionError(f"an end after {size_of(self.part):,} of {total:,} bytes")

    def _copy(self, response: Any, disk: IO[bytes], start: int, total: int | None) -> None:
        name, hidden = self.part.stem, not self.progress
        bar = tqdm(desc=name, initial=start, total=total, unit="B", unit_scale=True, disable=hidden)
        with bar:
            while block := _read(response):
                disk.write(block)
                bar.update(len(block))


class _Hops(urllib.request.HTTPRedirectHandler):
    """Follows redirections, and reads what the hub tells of a file before it sends on to a store."""

    def __init__(self) -> None:
        self.told: str | None = None

    def redirect_request(
        self, request: Any, body: Any, code: int, message: str, headers: Message, url: str
    ) -> Any:
        digest = headers.get("X-Linked-Etag", "").strip('"')
        self.told = digest if re.fullmatch("[0-9a-f]{64}", digest) else self.told
        return super().redirect_request(request, body, code, message, headers, url)


@contextlib.contextmanager
def _network() -> Iterator[None]:
    """Failures of the network, and of nothing else, become ConnectionErrors, or final ones `_Refused`."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        kind = ConnectionError if error.code in _PASSING else _Refused
        raise kind(f"{error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(str(error) or type(error).__name__) from error


def _read(response: Any) -> bytes:
    with _network():
        return response.read(_BLOCK)


def _continuation(part: Path) -> dict[str, str]:
    """Headers that ask for the rest of a file if it is still that of the part, and else for all of it."""
    if not size_of(part) or not _mark(part).is_file():
        return {}
    return {"Range": f"bytes={size_of(part)}-", "If-Range": _mark(part).read_text(encoding="utf-8")}


def _start(response: Any) -> int:
    """From which byte on a response has the file."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found and response.status == http.HTTPStatus.PARTIAL_CONTENT else 0


def _total(response: Any, start: int) -> int | None:
    """Bytes of the whole file, if the server tells."""
    length = response.headers.get("Content-Length")
    return None if length is None else start + int(length)


def _reserve(disk: IO[bytes], start: int) -> None:
    """Makes sure that nobody else writes to a part, and that it ends where the response begins."""
    try:
        if fcntl is not None:
            fcntl.flock(disk, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _Refused(f"another process, which is writing to {disk.name}") from error
    if not start:
        disk.truncate(0)
    elif disk.tell() != start:
        raise ConnectionError(f"the bytes from {start:,} on, where {disk.tell():,} are there")


def _note_version(part: Path, headers: Message) -> None:
    tag = headers.get("ETag", "")
    version = tag if tag.startswith('"') else headers.get("Last-Modified")  # weak tags say too little
    _mark(part).unlink(missing_ok=True)
    if version:
        _mark(part).write_text(version, encoding="utf-8")
