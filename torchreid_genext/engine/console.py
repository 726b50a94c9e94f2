"""What the host prints and this package logs, on the console and in a file."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

__all__ = ["console_copied_to", "show_results"]

_PACKAGE = __package__.partition(".")[0]


def show_results() -> Callable[[], None]:
    """Let results reach the console, as torchreid's own do, in scripts that never set up logging.

    Returns:
        A function that takes this back; the last one that is called leaves the logger as it was.
    """
    logger = logging.getLogger(_PACKAGE)
    if not logger.hasHandlers():
        logger.addHandler(_Stdout(logger.level))
        logger.setLevel(logging.INFO)
    ours = [handler for handler in logger.handlers if isinstance(handler, _Stdout)]
    for handler in ours:
        handler.users += 1

    def hide() -> None:
        for handler in ours:
            handler.users -= 1
            if not handler.users:
                logger.removeHandler(handler)
                logger.setLevel(handler.former_level)

    return hide


class _Stdout(logging.Handler):
    """Writes to what is the standard output now; torchreid's scripts replace it by a log."""

    def __init__(self, former_level: int) -> None:
        super().__init__()
        self.former_level, self.users = former_level, 0

    def emit(self, record: logging.LogRecord) -> None:
        sys.stdout.write(self.format(record) + "\n")


@contextlib.contextmanager
def console_copied_to(path: Path) -> Iterator[None]:
    """Let a log file have what the host prints and what this package logs, besides the console.

    Unlike the host's ``Logger`` it gives the console back and leaves it open.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    logger = logging.getLogger(_PACKAGE)
    level = logger.level
    with (
        open(path, "w", encoding="utf-8", buffering=1) as file,
        contextlib.redirect_stdout(_Copier(sys.stdout, file)),
    ):
        handler = logging.StreamHandler(sys.stdout)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        except Exception:
            traceback.print_exc(file=file)  # the console may be told in one sentence
            raise
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)


class _Copier(io.TextIOBase):
    """A text stream that writes to several."""

    def __init__(self, *streams: TextIO) -> None:
        self._streams = streams

    def write(self, text: str) -> int:
        for stream in self._streams:
            stream.write(text)
        return len(text)

    def flush(self) -> None:
        for stream in self._streams:
            stream.flush()
