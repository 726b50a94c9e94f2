"""Features that somebody has extracted already, found by the names of images."""

from __future__ import annotations

import os
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchreid_genext.extraction.files import Extraction

__all__ = ["FeatureTable", "TablePlan"]

_SPLITS = ("train", "query", "gallery")  # files of a folder, as ``extract`` writes them


class FeatureTable:
    """Stands where an `Encoder` does, and reads no image.

    Args:
        path: npz file with ``features`` (N, D), numbers, and ``paths`` (or ``names``) (N,), texts: file names
            of images, with as many folders before them as it takes to tell them apart; or a folder with such
            files for each split, as ``extract`` writes it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if arrays are missing, of other shapes, not finite, or names repeat; names the file.
    """

    precision, camera, device = "fp32", None, torch.device("cpu")

    def __init__(self, path: str | Path) -> None:
        self.path = Path(os.path.expanduser(path))
        self.features, names = _of_folder(self.path) if self.path.is_dir() else _read(self.path)
        self._rows: dict[str, list[tuple[tuple[str, ...], int]]] = defaultdict(list)
        for row, name in enumerate(names):
            parts = _parts(name)
            self._rows[parts[-1]].append((parts, row))
        if len(set(names)) < len(names):
            name = next(name for name in names if list(names).count(name) > 1)
            raise ValueError(
                f"expected each name once in {self.path}, got {name!r} again; put its folder first"
            )

    def to(self, device: torch.device | str) -> FeatureTable:
        """Itself: there is no network to move."""
        return self

    def plan(self, paths: Sequence[str]) -> TablePlan:
        """Rows of images, in order.

        Raises:
            ValueError: if one has no feature, or several; names it and says how many there are.
        """
        rows = [self._row(path) for path in paths]
        if missing := [path for path, row in zip(paths, rows) if row is None]:
            rule = f"expected features of {len(paths)} images by name in {self.path}"
            example = "/".join(next(iter(self._rows.values()))[0][0])
            raise ValueError(f"{rule}, got none of {missing[0]} and {len(missing) - 1} others, but of {example}")
        return TablePlan(self, tuple(paths), tuple(row for row in rows if row is not None))

    def _row(self, path: str) -> int | None:
        """That of the name which agrees with most of the path."""
        parts = _parts(os.path.abspath(path))
        found = [
            (len(name), row) for name, row in self._rows.get(parts[-1], []) if parts[-len(name) :] == name
        ]
        return max(found)[1] if found else None


@dataclass(frozen=True)
class TablePlan:
    """What `Plan` is of an encoder; nothing is left to do."""

    table: FeatureTable
    paths: tuple[str, ...]
    rows: tuple[int, ...]
    to_compute = 0

    def estimated_seconds(self, **options: Any) -> float:
        """None are needed."""
        return 0.0

    def run(self, **options: Any) -> Extraction:
        """The features; options of `Plan.run` concern images."""
        kept = torch.arange(len(self.rows))
        return Extraction(self.table.features[list(self.rows)], kept, {}, 0, 0.0)


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in str(name).replace("\\", "/").split("/") if part not in ("", "."))


def _of_folder(folder: Path) -> tuple[Tensor, list[str]]:
    files = [file for split in _SPLITS if (file := folder / f"{split}.npz").is_file()]
    if not files:
        raise FileNotFoundError(f"expected {', '.join(f'{split}.npz' for split in _SPLITS)} in {folder}, got none")
    tables, names = zip(*map(_read, files))
    if len(widths := {table.shape[1] for table in tables}) > 1:
        raise ValueError(f"expected features of one width in {folder}, got {sorted(widths)}")
    return torch.cat(tables), [name for each in names for name in each]


def _read(path: Path) -> tuple[Tensor, list[str]]:
    if not path.is_file():
        raise FileNotFoundError(f"expected an npz file of features, got {path}, which does not exist")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            called = "names" if "names" in arrays.files else "paths"
            if missing := [name for name in ("features", called) if name not in arrays.files]:
                found = ", ".join(arrays.files) or "none"
                rule = f"expected the arrays features (N, D) and paths (N,) in {path}"
                raise ValueError(f"{rule}, got no {' and no '.join(missing)} among {found}")
            features, names = arrays["features"], arrays[called]
    except (OSError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise ValueError(f"expected an npz file that numpy.savez wrote, got {path}: {error}") from error
    except ValueError as error:
        cure = "; names must be texts: numpy.array(names, dtype=str)" if "pickle" in str(error) else ""
        raise ValueError(
            f"{error}{cure}" if str(path) in str(error) else f"{error}{cure}, in {path}"
        ) from error
    return _checked(path, features, names)


def _checked(path: Path, features: np.ndarray, names: np.ndarray) -> tuple[Tensor, list[str]]:
    if features.ndim != 2 or names.shape != features.shape[:1] or features.dtype.kind not in "fiu":
        shapes = f"{features.dtype} {features.shape} and {names.shape}"
        raise ValueError(f"expected features (N, D), numbers, and names (N,) in {path}, got {shapes}")
    if names.dtype.kind not in "US" or not len(names):
        raise ValueError(f"expected names as texts, one at least, got {names.dtype} {names.shape} in {path}")
    texts = [os.fsdecode(name) if isinstance(name, bytes) else str(name) for name in names.tolist()]
    if not all(map(_parts, texts)):
        raise ValueError(f"expected names that are not empty, got one in {path}")
    if not np.isfinite(features).all():
        row = int((~np.isfinite(features)).any(axis=1).argmax())
        raise ValueError(f"expected finite features, got NaN or infinity for {texts[row]} in {path}")
    return torch.from_numpy(features.astype(np.float32)), texts
