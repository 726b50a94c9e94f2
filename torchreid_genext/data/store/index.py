"""What a store holds, remembered in one file, so that opening it does not mean reading one for each picture.

    <root>/index.jsonl    {"key": ..., "split": ..., "reference": ..., "pose": ..., "provenance": {...}}
                          {"key": ..., "judged": [time and bytes of the mark's file], "reasons": [...]}

Which pictures are there is told by the names of their files, always; this file only tells what the entries of
such names say. Lines are appended, each time in one write, by any number of processes. What is not in it, as
after a kill or a copy by hand, is read from the entries and appended; lines that are cut off, or of pictures
that are gone, are passed over. So the file may be deleted at any time, and costs time only.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torchreid_genext import checkpoints

__all__ = ["Index", "Judged", "Row", "canonical"]

_CUT = b',"provenance":'  # no name can hold it, since JSON writes quotes of names otherwise


class Row(NamedTuple):
    """An entry; its provenance is JSON, which few who list a store look at."""

    split: str
    reference: str
    pose: str
    provenance: bytes


class Judged(NamedTuple):
    """What the mark of a picture says, and of which state of its file: time in nanoseconds, and bytes."""

    stamp: tuple[int, int]
    reasons: tuple[str, ...]


class Index:
    """The lines of a file, as far as they are whole.

    Args:
        path: the file; it need not be there.

    Attributes:
        rows: entries by key.
        judged: marks by key.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Row] = {}
        self.judged: dict[str, Judged] = {}
        self._file, self._end, self._lines = -1, 0, 0

    def refresh(self) -> list[str]:
        """Read what was appended since the last time; returns the keys of entries that are new."""
        before, text = len(self.rows), self._appended()
        # Provenance stays JSON: to read that of all would take longer than all else.
        parts = [line.partition(_CUT) for line in text.split(b"\n") if line]
        heads = [head + b"}" if cut else head for head, cut, _ in parts]
        for said, (_, cut, rest) in zip(_parsed(heads), parts):
            self._take(said, rest if cut else None)
        return [*self.rows][before:]

    def _appended(self) -> bytes:
        """Whole lines; the last one may still be in the making."""
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._file or status.st_size < self._end:
                    self._file, self._end, self._lines = status.st_ino, 0, 0  # it was written anew
                file.seek(self._end)
                text = file.read()
        except OSError:
            return b""
        whole = text[: text.rfind(b"\n") + 1]
        self._end += len(whole)
        return whole

    def _take(self, said: Any, provenance: bytes | None) -> None:
        try:
            key = said["key"]
            if provenance is not None:
                self.rows[key] = Row(said["split"], said["reference"], said["pose"], provenance[:-1])
            else:
                self.judged[key] = Judged(tuple(said["judged"]), tuple(said["reasons"]))
            self._lines += 1
        except (KeyError, TypeError):
            pass  # no line of ours

    def append(self, rows: Mapping[str, Row], judged: Mapping[str, Judged]) -> None:
        """Add lines; where the folder cannot be written there are none, and whoever asks reads entries."""
        if lines := [*_lines(rows, judged)]:
            with contextlib.suppress(OSError), open(self.path, "ab", buffering=0) as file:
                # The first line break ends what a killed process, or a full disk, may have left unfinished.
                file.write(b"\n%s\n" % b"\n".join(lines))

    def compact(self, keys: Iterable[str]) -> None:
        """Write the file anew, if most of its lines are of pictures that are gone or of older judgements."""
        kept = {*keys}
        if self._lines > 4 * len(kept) + 1000:
            rows = {key: row for key, row in self.rows.items() if key in kept}
            judged = {key: said for key, said in self.judged.items() if key in kept}
            with contextlib.suppress(OSError):
                checkpoints.write_bytes(self.path, b"\n".join([*_lines(rows, judged), b""]))


def _parsed(lines: list[bytes]) -> list[Any]:
    """What lines of JSON say, all at once if all are whole; None of one that is not."""
    try:
        found = json.loads(b"[%s]" % b",".join(lines))
        if len(found) == len(lines):
            return found
    except ValueError:
        pass
    return [*map(_read, lines)]


def _read(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _lines(rows: Mapping[str, Row], judged: Mapping[str, Judged]) -> Iterable[bytes]:
    for key, row in rows.items():
        head = {"key": key, "split": row.split, "reference": row.reference, "pose": row.pose}
        yield b"%s%s%s}" % (canonical(head, sort=False)[:-1].encode(), _CUT, row.provenance)
    for key, said in judged.items():
        yield canonical({"key": key, "judged": said.stamp, "reasons": said.reasons}).encode()


def canonical(content: Any, *, sort: bool = True) -> str:
    """JSON in one line: sorted names, no spaces, ASCII.

    Raises:
        TypeError, ValueError: if JSON cannot say it.
    """
    return json.dumps(content, sort_keys=sort, separators=(",", ":"), allow_nan=False)
