"""Features in files: npz, npy with a CSV of the labels beside it, mat, and parquet.

An npz has the arrays ``features`` (N, D), ``pids`` (N,) and, if they are known, ``camids``, ``frames``,
``generated`` (N, P, D) and ``paths``; so has a mat. A npy has features, and ``<name>.csv`` beside it, of which
each line tells an image in their order, has columns of the other names. A parquet has a row for each image, with
its feature as a list in one column or as numbers in ``f0``, ``f1``, ... ``pid`` and ``pids`` mean the same, as
``feature`` and ``features`` do, and ``names`` and ``paths``.
"""

from __future__ import annotations

import csv
import importlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from torchreid_genext.checkpoints import atomic_path
from torchreid_genext.checkpoints.kinds import text_in
from torchreid_genext.retrieval.sets import RetrievalSet

__all__ = ["SUFFIXES", "full_name", "load_sets", "save_set"]

_LABELS = ("pids", "camids", "frames")
_COLUMNS = ("features", *_LABELS, "generated", "paths")
_SHORT = {
    "pid": "pids",
    "camid": "camids",
    "frame": "frames",
    "path": "paths",
    "names": "paths",
    "feature": "features",
}


def save_set(images: RetrievalSet, file: str | Path, *, labelled: bool = True) -> Path:
    """Write a set as npz, whole or not at all; without its pids if it is not labelled.

    Raises:
        ValueError: if the file is not called ``.npz``.
    """
    file = Path(os.path.expanduser(file))
    if file.suffix.lower() != ".npz":
        raise ValueError(f"expected a file called .npz, got {file}")
    names = [name for name in _COLUMNS if labelled or name != "pids"]
    columns = {name: _array(getattr(images, name)) for name in names if getattr(images, name) is not None}
    with atomic_path(file) as temporary, open(temporary, "wb") as written:
        np.savez(written, **columns)
    return file


def load_sets(*files: str | Path, labelled: bool = True) -> list[RetrievalSet]:
    """Read sets that belong together, such as query and gallery.

    Names of people or cameras are numbered over all of the files.

    Args:
        files: of the forms above.
        labelled: whether the identities must be known; if not, all are 0.

    Raises:
        ValueError: naming the file, what is expected, and what is there.
        OSError: if a file is not there.
    """
    found = [_read(Path(os.path.expanduser(file))) for file in files]
    for name in _LABELS:
        _number(found, name)
    return [_set(columns, file, labelled) for columns, file in zip(found, files)]


def _set(columns: dict[str, Any], file: str | Path, labelled: bool) -> RetrievalSet:
    for needed in ("features", "pids") if labelled else ("features",):
        if needed not in columns:
            there = ", ".join(columns) or "nothing"
            raise ValueError(f"expected {needed} in {file}, got {there}; {_cure(file)}")
    if not labelled:
        columns["pids"] = np.zeros(len(columns["features"]), dtype=np.int64)
    try:
        return RetrievalSet(**columns)
    except ValueError as error:
        raise ValueError(f"{error}, in {file}") from error


def _cure(file: str | Path) -> str:
    file = Path(file)
    if file.suffix.lower() == ".npy":
        return f"labels belong in {file.with_suffix('.csv')}"
    return f"call arrays {', '.join(_COLUMNS)}"


def _why(file: Path, error: Exception) -> str:
    """NumPy advises to load any file unsafely, whatever it is."""
    pickled = "allow_pickle" in str(error)
    if text := text_in(file):
        return text.replace("not weights", "not features")
    return "it holds Python objects, or is of another kind than its name says" if pickled else str(error)


def _read(file: Path) -> dict[str, Any]:
    if file.suffix.lower() not in _READERS:
        raise ValueError(f"expected features in {', '.join(_READERS)}, got {file}")
    if not file.is_file():
        raise FileNotFoundError(f"expected a file of features, got {file}, which does not exist")
    try:
        found = _READERS[file.suffix.lower()](file)
    except (ImportError, PermissionError):
        raise
    except Exception as error:  # of the readers' own kinds, of which there are many
        why = _why(file, error)
        raise ValueError(f"expected features in {file}, got a file that cannot be read: {why}") from error
    known = [name for name in found if full_name(name) in _COLUMNS]
    columns = {full_name(name): found[name] for name in known}
    if len(columns) < len(known):
        twice = next(name for name in columns if sum(full_name(each) == name for each in known) > 1)
        both = " and ".join(name for name in known if full_name(name) == twice)
        raise ValueError(f"expected one array of {twice} in {file}, got {both}")
    columns = columns or found
    if "paths" in columns:
        columns["paths"] = [_text(path) for path in np.ravel(columns["paths"])]
    return columns


def full_name(name: str) -> str:
    """Of a column, whatever of its names it has, in small or large letters."""
    name = name.strip().lower()
    return _SHORT.get(name, name)


def _read_npz(file: Path) -> dict[str, Any]:
    with np.load(file, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _read_npy(file: Path) -> dict[str, Any]:
    labels = file.with_suffix(".csv")
    features = np.load(file, allow_pickle=False)
    return {"features": features, **(_read_csv(labels) if labels.is_file() else {})}


def _read_csv(file: Path) -> dict[str, Any]:
    with open(file, encoding="utf-8-sig", newline="") as lines:
        first = lines.readline()
        lines.seek(0)
        reader = csv.DictReader(lines, delimiter=max(",;\t", key=first.count))
        names, rows = reader.fieldnames or (), list(reader)
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise ValueError(f"expected {len(names)} values in line {number} of {file}")
        for name in [name for name, value in row.items() if full_name(name) in _LABELS and not value.strip()]:
            cure = f"fill it in; a table without the column {name} is one of which nothing is known"
            raise ValueError(f"expected a {name} in line {number} of {file}, got none; {cure}")
    return {name.strip(): [row[name].strip() for row in rows] for name in names}


def _read_mat(file: Path) -> dict[str, Any]:
    found = _needed("scipy", "io").loadmat(file)
    return {name: values for name, values in found.items() if not name.startswith("__")}


def _read_parquet(file: Path) -> dict[str, Any]:
    table = _needed("pyarrow", "parquet").read_table(file)
    known = [name for name in table.column_names if full_name(name) in _COLUMNS]
    whole = "features" in map(full_name, known)  # beside which f1 is something else, such as a score
    numbers = [] if whole else [name for name in table.column_names if re.fullmatch(r"f\d+", name)]
    found = {name: _column(name, table[name].combine_chunks()) for name in [*known, *numbers]}
    if numbers:
        ordered = sorted(numbers, key=lambda name: int(name[1:]))
        found["features"] = np.stack([found.pop(name) for name in ordered], axis=1)
    return found or dict.fromkeys(table.column_names)


def _column(name: str, values: Any) -> np.ndarray:
    """(N,), or (N, D) where a row is a list."""
    if values.null_count:
        raise ValueError(f"expected {name} in all rows, got none in {values.null_count}")
    if hasattr(values, "dictionary_decode"):
        values = values.dictionary_decode()
    if not hasattr(values, "value_lengths"):
        return values.to_numpy(zero_copy_only=False)
    lengths = {*values.value_lengths().to_pylist()} or {0}
    if len(lengths) > 1:
        raise ValueError(f"expected {name} of one length in all rows, got {min(lengths)} .. {max(lengths)}")
    inner = _column(name, values.flatten())
    return inner.reshape(len(values), *lengths, *inner.shape[1:])


def _needed(package: str, part: str) -> Any:
    """A part of a package that few have a use for, and that takes a while to import."""
    try:
        return importlib.import_module(f"{package}.{part}")
    except ModuleNotFoundError as error:
        rule = f"files of this kind need the module '{package}', which is missing"
        raise ImportError(f"{rule}; install it with `pip install {package}`") from error


_READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".npz": _read_npz, ".npy": _read_npy, ".mat": _read_mat, ".parquet": _read_parquet
}  # fmt: skip
SUFFIXES = tuple(_READERS)


def _number(sets: list[dict[str, Any]], name: str) -> None:
    """Turn texts into whole numbers: as they are read, or names, numbered from 1."""
    texts = [np.ravel(columns[name]) for columns in sets if _is_text(columns.get(name))]
    if not texts:
        return
    known = sorted({_label(value) for values in texts for value in values})
    whole = all(value.removeprefix("-").isdecimal() for value in known)
    if name == "frames" and not whole:
        raise ValueError(f"expected frames to be whole numbers, got {known[-1]!r}")
    numbers = {value: int(value) if whole else number for number, value in enumerate(known, start=1)}
    for columns in sets:
        if _is_text(columns.get(name)):
            columns[name] = np.array([numbers[_label(value)] for value in np.ravel(columns[name])])
        elif name in columns and not whole:
            rule = f"expected {name} to be names in all files or numbers in all"
            raise ValueError(f"{rule}, got {known[-1]!r} and {np.ravel(columns[name])[0]}; write both alike")


def _is_text(values: Any) -> bool:
    return values is not None and np.asarray(values).dtype.kind in "USO"


def _label(value: Any) -> str:
    """Tables write whole numbers as 3.0 where one is missing elsewhere."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", _text(value))


def _text(value: Any) -> str:
    """Of a cell of a mat, which is an array itself, what is in it."""
    return _text(value.flat[0]) if isinstance(value, np.ndarray) and value.size else str(value).rstrip()


def _array(values: Any) -> np.ndarray:
    return values.cpu().numpy() if hasattr(values, "cpu") else np.array(values, dtype=np.str_)
