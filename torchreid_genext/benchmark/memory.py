"""How much memory a piece of work took, from the operating system's own accounting."""

from __future__ import annotations

import ctypes
import sys

try:
    import resource
except ImportError:  # not on Windows
    resource = None

import torch

__all__ = ["PeakMemory"]


class PeakMemory:
    """Growth of the resident memory's peak since this object was made, in bytes.

    On Linux the kernel's peak counter is set back first, and what the allocator keeps of freed memory is
    given back, so that earlier work does not hide what later work takes; elsewhere only growth beyond the
    process's highest peak is seen. On a GPU its own allocator is asked too.
    """

    def __init__(self) -> None:
        _give_back_freed()
        self._resettable = _reset_peak()
        self._before = _resident() if self._resettable else _peak()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._device_before = _device_peak()

    def growth(self) -> int:
        """Bytes above the start, 0 at least."""
        host = (_status("VmHWM") if self._resettable else _peak()) - self._before
        return max(0, host) + max(0, _device_peak() - self._device_before)


def _give_back_freed() -> None:
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # not the GNU C library
        return


def _reset_peak() -> bool:
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        return True
    except OSError:
        return False


def _status(field: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))


def _resident() -> int:
    return _status("VmRSS")


def _peak() -> int:
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _device_peak() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
