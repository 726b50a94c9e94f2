"""How every command ends: well, in one sentence, or stopped in order."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType

__all__ = ["check_failures", "run"]

_PACKAGE = str(Path(__file__).resolve().parents[1])
_BROKEN_PIPE = 128 + 13  # as a shell tells of the signal, which Python turns into an error


def run(tool: Callable[[], object]) -> None:
    """Do what the command line asks; what users can mend ends in one line, and signals end it in order.

    What the tool has begun is undone, or kept for the next run, as exceptions do it.

    Raises:
        SystemExit: 1 after an error, 128 and the signal's number after Ctrl-C (130) and SIGTERM (143).
    """
    for stream in (sys.stdout, sys.stderr):  # names of files may be no text
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    with _signals_end() as stopped:
        try:
            tool()
            sys.stdout.flush()  # here a reader that has gone is noticed
        except BaseException as error:
            _end(error, stopped)
            raise


def check_failures(failures: Mapping[str, str]) -> None:
    """Let a command end badly, after it has told all that went well.

    Args:
        failures: what failed -> why.

    Raises:
        RuntimeError: if something did.
    """
    if failures:
        reasons = "; ".join(f"{what}: {why}" for what, why in failures.items())
        raise RuntimeError(f"expected every chain to be measured, got {len(failures)} that failed: {reasons}")


def _end(error: BaseException, stopped: list[int]) -> None:
    """Leave in the way that fits an error; return if it is a fault of this package, to be seen in full."""
    if stopped or isinstance(error, KeyboardInterrupt):
        number = stopped[0] if stopped else signal.SIGINT
        print("stopped; what is finished is kept", file=sys.stderr)
        raise SystemExit(128 + number) from None
    if isinstance(error, BrokenPipeError):  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(_BROKEN_PIPE) from None
    if _can_be_mended(error):
        raise SystemExit(f"error: {' '.join(str(error).split()) or type(error).__name__}") from None


def _can_be_mended(error: BaseException) -> bool:
    """Whether a sentence is enough: errors of values, files, libraries, and what this package raises."""
    if isinstance(error, (ValueError, OSError, ImportError, MemoryError)):
        return True
    if not isinstance(error, RuntimeError):
        return False
    ours = traceback.extract_tb(error.__traceback__)[-1].filename.startswith(_PACKAGE)
    return ours or type(error).__name__ == "OutOfMemoryError" or "DataLoader worker" in str(error)


@contextlib.contextmanager
def _signals_end() -> Iterator[list[int]]:
    """Turn Ctrl-C and SIGTERM into an exception that ends the process; gives the number that came first."""
    stopped: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    process = os.getpid()

    def end(number: int, _: FrameType | None) -> None:
        if os.getpid() == process:
            stopped.append(number)
            sys.unraisablehook = lambda _: None  # what is cleaned up late may miss processes that have ended
        elif number == signal.SIGINT:
            return  # a terminal sends it to all processes, of which this one will be told by its parent
        raise SystemExit(128 + number)

    former = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
