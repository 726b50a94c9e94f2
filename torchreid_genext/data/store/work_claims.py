"""Work claimed without a server, by files in a folder that all workers see, on one machine or on many.

    <folder>/<name>            a claim: its holder's token, machine and process; it is as old as its heartbeat
    <folder>/<name>.<token>    the claim of whoever took over from the holder of that token

A claim appears complete and in one step, as a hard link, so of all who try at once one succeeds. Where there
are no hard links, as on exFAT and mounted drives, it is made empty, as one of all can, and then written; until
then someone unknown holds it. While it is held its time is renewed. Once that has stopped for the time-out, or
the holder's process is known to be gone, it may be taken over, and since that, too, makes a file of one name,
by one. Tokens are never used twice.

Ages are differences of what the file system tells, so clocks of machines need not agree. A holder who was
suspended for longer than the time-out may find that another did the same work: what is done under a claim
should do no harm if done twice.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from torchreid_genext import checkpoints

__all__ = ["TIMEOUT", "Claims"]

TIMEOUT = 180.0  # seconds; shared file systems may show times that are a minute old
_BEATS = 6  # in a time-out
# What file systems without hard links, and those who mount them, answer to the wish for one.
_LINKLESS = {
    errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV
}  # fmt: skip
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Holder:
    token: str
    machine: str
    process: int


_UNWRITTEN = _Holder("unwritten", "", 0)


class Claims:
    """Claims of this process in a folder; all are released on leaving the context.

    Args:
        folder: is made if need be.
        timeout: seconds after which a claim without heartbeat may be taken over; the same for all workers.

    Raises:
        ValueError: if the time-out is not positive.
    """

    def __init__(self, folder: str | Path, *, timeout: float = TIMEOUT) -> None:
        if not timeout > 0:
            raise ValueError(f"expected timeout > 0, got {timeout}")
        self.folder = Path(folder)
        self.timeout = timeout
        self._held: dict[str, tuple[str, Path]] = {}  # name -> token and file
        self._left = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat of claims", daemon=True)

    def __enter__(self) -> Claims:
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._heart.join()
        for name in [*self._held]:
            self.release(name)

    def take(self, name: str) -> bool:
        """Claim a piece of work; tells whether it is ours now, or someone's, even ours, already.

        Args:
            name: of the work, without dots and folders.

        Raises:
            ValueError: if the name has dots or folders.
            OSError: if the folder cannot be written.
        """
        if not name or set("./\\") & set(name):
            raise ValueError(f"expected a name without dots and folders, got {name!r}")
        with self._ticket() as (ticket, token):
            line, free = self._line(name)
            if line and not self._is_abandoned(*line[-1], ticket):
                return False
            if not _is_linked(ticket, free):
                return False
            # Whom we took over from may have been gone before we came: then others may have claimed since.
            if line and _read(line[0][0]) != line[0][1]:
                free.unlink(missing_ok=True)
                return False
        self._held[name] = (token, free)
        return True

    def release(self, name: str) -> None:
        """Let others claim a piece of work that `take` gave us; what was taken over stays as it is.

        An error of the file system, such as a full disk, is logged: the claim will be taken over.

        Raises:
            KeyError: if it is not held.
        """
        token, _ = self._held.pop(name)
        try:
            line, _ = self._line(name)
            if line and line[-1][1].token == token:
                for path in (self.folder / name, *self.folder.glob(f"{name}.*")):
                    path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("a claim is left to be taken over: %s", error)

    def sweep(self) -> None:
        """Remove what processes that were killed have left behind, as far as it may be taken over."""
        with self._ticket() as (ticket, _):
            for path in [path for path in self.folder.glob(".*") if self._age(path, ticket) > self.timeout]:
                path.unlink(missing_ok=True)
        for name in {path.name.split(".")[0] for path in self.folder.glob("[!.]*")}:
            if self.take(name):
                self.release(name)

    @contextlib.contextmanager
    def _ticket(self) -> Iterator[tuple[Path, str]]:
        """A claim without a name, made this moment, and its token."""
        holder = _Holder(uuid.uuid4().hex, _machine(), os.getpid())
        path = self.folder / f".{holder.token}"
        try:
            yield checkpoints.write_json(path, asdict(holder)), holder.token
        finally:
            path.unlink(missing_ok=True)

    def _line(self, name: str) -> tuple[list[tuple[Path, _Holder]], Path]:
        """All who held a claim, one having taken over from the other, and where the next one would stand."""
        line: list[tuple[Path, _Holder]] = []
        path = self.folder / name
        while (holder := _read(path)) is not None:
            line.append((path, holder))
            path = self.folder / f"{name}.{holder.token}"
        return line, path

    def _is_abandoned(self, path: Path, holder: _Holder, ticket: Path) -> bool:
        return self._age(path, ticket) > self.timeout or _is_gone(holder)

    def _age(self, path: Path, ticket: Path) -> float:
        """Seconds from the last heartbeat of a file to the making of a ticket; 0 if it was removed."""
        with contextlib.suppress(FileNotFoundError):
            return ticket.stat().st_mtime - path.stat().st_mtime
        return 0.0

    def _beat(self) -> None:
        while not self._left.wait(self.timeout / _BEATS):
            for _, path in [*self._held.values()]:
                try:
                    os.utime(path)
                except OSError as error:
                    _log.warning("a claim cannot be renewed: %s", error)


def _read(path: Path) -> _Holder | None:
    """Who holds a claim; None if there is none.

    Raises:
        ValueError: if it is no claim.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return _Holder(**json.loads(text)) if text else _UNWRITTEN
    except FileNotFoundError:
        return None
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected a claim, got other content in {path}") from error


def _is_linked(ticket: Path, path: Path) -> bool:
    """Whether a ticket has become a claim; false if there is one already."""
    try:
        os.link(ticket, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _LINKLESS:
            raise
        return _is_written(ticket, path)
    return True


def _is_written(ticket: Path, path: Path) -> bool:
    """As `_is_linked`, in two steps; a reader finds the claim empty or whole, since it is one small write."""
    try:
        file = open(path, "xb", buffering=0)
    except FileExistsError:
        return False
    try:
        with file:
            file.write(ticket.read_bytes())
    except OSError:
        path.unlink(missing_ok=True)  # of a full disk
        raise
    return True


def _machine() -> str:
    """Where process numbers mean what they mean here: a host, and on Linux its boot and a container's own."""
    known = [socket.gethostname()]
    with contextlib.suppress(OSError):
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        known.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(known)


def _is_gone(holder: _Holder) -> bool:
    """Whether the holder is known to have died; of other machines nothing is known."""
    if os.name != "posix" or holder.machine != _machine():
        return False
    try:
        os.kill(holder.process, 0)  # sends nothing, but fails without a receiver
    except ProcessLookupError:
        return True
    except OSError:
        pass  # another user's
    return False
