"""The CSV that tells who is on the images of a folder: ``path,pid`` and, if wanted, ``camid,frame,split``."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torchreid_genext.data.folders.names import SPLITS
from torchreid_genext.data.images.reading import SUFFIXES, is_image

__all__ = ["Row", "find_table", "read_table"]

_COLUMNS = ("path", "pid", "camid", "frame", "split")
_NEEDED = {"path", "pid"}
_USUAL = "labels.csv"
_LARGEST = 2**63


class Row(NamedTuple):
    """A line; split, camera and frame are None where the table has no such column."""

    split: str | None
    path: str
    person: str
    camera: str | None
    frame: int | None


def find_table(folder: Path) -> Path | None:
    """The CSV of a folder: ``labels.csv``, or the one whose first line has ``path`` and ``pid``.

    Raises:
        ValueError: if there are several, or ``labels.csv`` lacks a column.
    """
    usual = folder / _USUAL
    if usual.is_file():
        return usual
    files = sorted(folder.glob("*.csv")) if folder.is_dir() else []
    found = [path for path in files if {*_columns(path)} >= _NEEDED]
    if len(found) > 1:
        raise ValueError(
            f"expected one CSV with path and pid in {folder}, got {found[0].name} and {found[1].name}"
        )
    return found[0] if found else None


def read_table(file: Path) -> list[Row]:
    """Read a CSV, in UTF-8, with commas, semicolons or tabs; paths are relative to its folder.

    Raises:
        ValueError: naming the file and line, if it lacks a column, a value is missing or none of its kind, an
            image is not there, or is there twice.
    """
    columns = _columns(file)
    if not {*columns} >= _NEEDED:
        cure = "name them in the first line"
        raise ValueError(f"expected the columns path and pid in {file}, got {', '.join(columns) or 'none'}; {cure}")
    if len({*columns}) < len(columns):
        raise ValueError(f"expected each column once in {file}, got {', '.join(columns)}")
    rows, seen = [], set()
    for line, values in _lines(file, columns):
        row = _row(values, file, f"line {line} of {file}")
        if (row.split, row.path) in seen:
            raise ValueError(f"expected each image once, got {row.path} again in line {line} of {file}")
        seen.add((row.split, row.path))
        rows.append(row)
    if not rows:
        raise ValueError(f"expected images in {file}, got none")
    return rows


def _text(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"expected UTF-8 in {file}, got {error}; save it as UTF-8") from error


def _delimiter(first: str) -> str:
    return max(",;\t", key=first.count)


def _columns(file: Path) -> list[str]:
    try:
        first = (_text(file) or [""])[0]
    except ValueError:
        if file.name == _USUAL:
            raise
        return []
    return [name.strip().strip('"').lower() for name in first.split(_delimiter(first))] if first else []


def _lines(file: Path, columns: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    lines = _text(file)
    reader = csv.reader(lines[1:], delimiter=_delimiter(lines[0]))
    for values in reader:
        if not any(value.strip() for value in values):
            continue
        if len(values) != len(columns):
            where = f"line {reader.line_num + 1} of {file}"
            raise ValueError(f"expected {len(columns)} values in {where}, got {len(values)}")
        yield reader.line_num + 1, dict(zip(columns, map(str.strip, values)))


def _row(values: dict[str, str], file: Path, where: str) -> Row:
    for column in [column for column in _COLUMNS if column in values and not values[column]]:
        cure = "fill it in" if column in _NEEDED else f"fill it in, or leave out the column {column}"
        raise ValueError(f"expected a {column} in {where}, got none; {cure}")
    split = values.get("split")
    split = split and split.lower()
    if split not in (None, *SPLITS):
        raise ValueError(f"expected a split of {', '.join(SPLITS)} in {where}, got {split!r}")
    path = os.path.normpath(file.parent.absolute() / os.path.expanduser(values["path"]))
    if not is_image(path):
        raise ValueError(f"expected an image ({', '.join(SUFFIXES)}) in {where}, got {values['path']!r}")
    if not os.path.isfile(path):
        raise ValueError(f"expected an image that exists in {where}, got {path}")
    return Row(split, path, values["pid"], values.get("camid"), _frame(values.get("frame"), where))


def _frame(text: str | None, where: str) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) >= _LARGEST:
        raise ValueError(f"expected a frame that is a whole number from 0 in {where}, got {text!r}")
    return int(text)
