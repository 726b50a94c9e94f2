"""A store of generated images: a folder that says of each picture whom it shows and how it was made.

    <root>/store.json                     marks the folder as a store and tells its version
    <root>/images/<2 hex>/<key>.png       a picture; the folder is called as its key begins
    <root>/images/<2 hex>/<key>.json      its entry: split, reference, pose, provenance
    <root>/images/<2 hex>/<key>.mark.json what a judge said of it, if any did (`judgements`)
    <root>/index.jsonl                    all entries once more, so that they are read quickly (`index`)

The reference is the file name of the real image, with folders where images share it (`references`). The key is
the hash of the entry: 32 hexadecimal digits of SHA-256 over its canonical JSON (sorted keys, no spaces, ASCII).
So all who are asked for the same picture write the same files, and stores are merged by copying ``images`` of
one into the other; a copy that was cut off is to be repeated (`generation.merging` looks whether what is there
is whole, too).

The picture is written first, then the entry, both atomically, then its line in the index. A picture without
its entry, as after a kill in between, or an entry without its picture counts as not there; so does an entry
that is not what its name says, unless the index knows better.
A picture that was cut off, or that a judge could not read, is written again when it is added again. Pictures
that were dropped by a judge are there, so that they are not made again, but are left out unless asked for.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import logging
import math
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from torchreid_genext import checkpoints
from torchreid_genext.data.store.index import Index, Judged, Row, canonical
from torchreid_genext.data.store.judgements import DAMAGED, Mark, mark_file, read_mark, write_mark

__all__ = ["SPLITS", "Answers", "Entry", "ImageStore", "check_writable", "has_end", "is_store", "pose_order"]

SPLITS = ("query", "gallery", "train")

_MARK = "store.json"
_CONTENT = {"content": "generated images", "version": 1}
_ROOM = 2**16  # bytes; with less a disk is as good as full
_STRAY = re.compile(r"\.[0-9a-f]{8}-[0-9a-f]{32}(\.png|\.json|\.mark\.json)")  # of `checkpoints.atomic_path`
_END = b"IEND\xaeB`\x82"  # of every whole PNG
_log = logging.getLogger(__name__)

# Pictures by split, reference and pose: their keys, with why a judge dropped them, if any did.
Answers = dict[tuple[str, str, str], dict[str, tuple[str, ...]]]


@dataclass(frozen=True)
class Entry:
    """What a picture in a store is.

    Attributes:
        split: ``query``, ``gallery`` or ``train``.
        reference: name of the real image, by `references.reference_names`.
        pose: a name; numbers in it count as such when poses are put in order.
        provenance: how the picture was made, such as weights, sampler and seed: anything that JSON can say.

    Raises:
        ValueError: if the split is unknown, a name is none, or JSON would not give back the provenance.
    """

    split: str
    reference: str
    pose: str
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        _check_split(self.split)
        _check_name("pose", self.pose)
        _check_reference(self.reference)
        _check_provenance(self.provenance)

    @property
    def key(self) -> str:
        """32 hexadecimal digits, of everything above."""
        return hashlib.sha256(canonical(vars(self)).encode()).hexdigest()[:32]


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")


def _check_name(what: str, name: Any) -> None:
    if not isinstance(name, str) or name in ("", ".", "..") or set("/\\") & set(name):
        raise ValueError(f"expected a {what} that is a name without folders, got {name!r}")


def _check_reference(name: Any) -> None:
    if not isinstance(name, str) or "\\" in name or {"", ".", ".."} & {*name.split("/")}:
        raise ValueError(f"expected a reference that is a name, below folders if need be, got {name!r}")


def _check_provenance(provenance: Any) -> None:
    """Whether the key of what is read will be the key of what was written: JSON makes numbered keys names."""
    try:
        text = canonical(provenance)
        kept = isinstance(provenance, dict) and canonical(json.loads(text)) == text
    except (TypeError, ValueError):
        kept = False
    if not kept:
        raise ValueError(f"expected a dict as provenance that JSON gives back unchanged, got {provenance!r}")


def is_store(root: str | Path) -> bool:
    """Whether a folder says that it is a store; `ImageStore` tells whether it is one of ours."""
    return Path(os.path.expanduser(root), _MARK).is_file()


def check_writable(root: str | Path) -> None:
    """Refuse a folder, or the one in which it is to be made, where nothing can be written.

    Raises:
        OSError: if the folder is read-only, or its disk is full.
    """
    place = Path(os.path.expanduser(root)).absolute()
    place = next(folder for folder in (place, *place.parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(_ROOM))
            file.flush()
    except OSError as error:
        rule = f"expected a folder that can be written, got one with '{error.strerror}'"
        raise type(error)(error.errno, rule, str(place)) from error


class ImageStore:
    """Generated images in a folder, laid out as the module says.

    Args:
        root: a folder that `create` made.

    Raises:
        ValueError: if it is no store, or one of another version.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(os.path.expanduser(root))
        if not is_store(root):
            raise ValueError(f"expected a store of generated images, got {str(root)!r} without {_MARK}")
        if (found := _read_json(self.root / _MARK)) != _CONTENT:
            raise ValueError(f"expected a store with {_CONTENT} in {_MARK}, got {str(root)!r} with {found}")
        self._index = Index(self.root / "index.jsonl")

    @classmethod
    def create(cls, root: str | Path) -> ImageStore:
        """Make a store in a new or empty folder; one that is there is opened.

        Raises:
            ValueError: if the folder holds other things, or a store of another version.
        """
        # Listed before the mark is looked for: another process may be creating and filling the same store.
        others = [path for path in Path(os.path.expanduser(root)).glob("*") if not path.name.startswith(".")]
        if not is_store(root):
            if others:
                raise ValueError(f"expected a new or empty folder, got {str(root)!r} with {others[0].name}")
            checkpoints.write_json(Path(root, _MARK), _CONTENT)
        return cls(root)

    def add(
        self, image: Image.Image, *, split: str, reference: str, pose: str, provenance: dict[str, Any]
    ) -> Path:
        """Write a picture, as RGB, with its entry; what is there already is left as it is.

        Args:
            image: of any size and mode.
            split, reference, pose, provenance: as in `Entry`.

        Returns:
            The file of the picture.

        Raises:
            ValueError: as `Entry`.
        """
        entry = Entry(split, reference, pose, provenance)
        path = self.path(entry)
        if not self._holds(entry):
            with checkpoints.atomic_path(path) as temporary:
                image.convert("RGB").save(temporary, "PNG")
            mark_file(path).unlink(missing_ok=True)  # it was said of what was there before
            checkpoints.write_json(path.with_suffix(".json"), vars(entry))
            self._index.append({entry.key: _row(entry)}, {})
        return path

    def has(self, *, split: str, reference: str, pose: str, provenance: dict[str, Any]) -> bool:
        """Whether a picture is there with its entry, as far as is known undamaged; arguments as in `Entry`.

        Raises:
            ValueError: as `Entry`.
        """
        return self._holds(Entry(split, reference, pose, provenance))

    def entries(self, split: str | None = None, *, dropped: bool = False) -> Iterator[Entry]:
        """All that are there with their pictures, in the order of their keys, one by one.

        Args:
            split: of which; None for all.
            dropped: also those that a judge has dropped.

        Raises:
            ValueError: if the split is unknown.
        """
        if split is not None:
            _check_split(split)
        found = self._listed()
        return (
            self.entry(key) for key, row, judged in found
            if split in (None, row.split) and (dropped or not (judged and judged.reasons))
        )  # fmt: skip

    def entry(self, key: str) -> Entry:
        """The entry of a picture that is there.

        Raises:
            ValueError: if there is none.
        """
        image = self._file(key)
        row = self._index.rows.get(key)
        if entry := (row and _entry(row)) or self._read(image):
            return entry
        raise ValueError(f"expected the key of a picture of {self.root}, got {key!r}")

    def answers(self) -> Answers:
        """All pictures by what they show, with those that are dropped; one that is not is as it should be."""
        found: Answers = {}
        for key, row, judged in self._listed():
            found.setdefault(row[:3], {})[key] = judged.reasons if judged else ()
        return found

    def added(self) -> dict[str, tuple[str, str, str]]:
        """What any process added since this store was last listed: split, reference and pose by key."""
        return {key: self._index.rows[key][:3] for key in self._index.refresh()}

    def poses(self, split: str, *, dropped: bool = False) -> list[str]:
        """The poses of a split by `pose_order`; arguments as in `entries`.

        Raises:
            ValueError: if the split is unknown.
        """
        return sorted({row.pose for _, row in self._rows(split, dropped)}, key=pose_order)

    def files(self, split: str, *, dropped: bool = False) -> dict[str, dict[str, str]]:
        """The pictures of a split: by pose, in the order of `poses`, then by reference; arguments as there.

        Raises:
            ValueError: if the split is unknown, or different pictures of one reference in one pose are there.
        """
        found: dict[str, dict[str, str]] = {}
        for key, row in self._rows(split, dropped):
            path = str(self._file(key))
            first = found.setdefault(row.pose, {}).setdefault(row.reference, path)
            if first != path and not filecmp.cmp(first, path, shallow=False):
                rule = f"expected one picture of {row.reference} in pose {row.pose}"
                cure = f"torchreid-genext store list {self.root} tells more"
                told = f"got {first} and {path}, made differently as their entries tell"
                raise ValueError(f"{rule}, {told}; {cure}")
        return {pose: found[pose] for pose in sorted(found, key=pose_order)}

    def _rows(self, split: str, dropped: bool) -> Iterator[tuple[str, Row]]:
        _check_split(split)
        return (
            (key, row) for key, row, judged in self._listed()
            if row.split == split and (dropped or not (judged and judged.reasons))
        )  # fmt: skip

    def mark(self, entry: Entry, mark: Mark) -> None:
        """Say of a picture that it is kept or dropped, and why, in place of what was said before.

        Raises:
            ValueError: if the picture is not there, or a number in the mark is not finite.
        """
        path = self.path(entry)
        if not (has_end(path) and self._says(path, entry)):
            raise ValueError(f"expected a picture of the store, got {entry}")
        write_mark(path, mark)
        self._index.append({}, {entry.key: Judged(_stamp(mark_file(path)), mark.reasons)})

    def mark_of(self, entry: Entry) -> Mark | None:
        """What was said of a picture, or None if nothing was."""
        return read_mark(self.path(entry))

    def remove(self, entry: Entry) -> None:
        """Delete a picture with its entry and mark, if it is there; nothing else is touched.

        Raises:
            OSError: if the folder cannot be written.
        """
        path = self.path(entry)
        for file in (path.with_suffix(".json"), path, mark_file(path)):  # without its entry it is not there
            file.unlink(missing_ok=True)

    def sweep(self, older_than: float) -> int:
        """Delete what killed processes were writing, if it is so many seconds old; returns how many files."""
        stray = [file for file in self.root.glob("images/??/.*") if _STRAY.fullmatch(file.name)]
        if not stray:
            return 0
        latest = self.clock() - older_than
        old = [file for file in stray if _time(file) < latest]
        for file in old:
            file.unlink(missing_ok=True)
        return len(old)

    def clock(self) -> float:
        """The present time as the file system tells it, in seconds; clocks of machines may differ.

        Raises:
            OSError: if the folder cannot be written.
        """
        with tempfile.NamedTemporaryFile(dir=self.root, prefix=".") as now:
            return os.stat(now.name).st_mtime

    def is_entry(self, key: str) -> bool:
        """Whether the file of an entry says what its name is the hash of, whatever the index knows."""
        return self._read(self._file(key)) is not None

    def is_whole(self, key: str) -> bool:
        """Whether the file of a picture has its end; a copy that was interrupted has not."""
        return has_end(self._file(key))

    def path(self, entry: Entry) -> Path:
        """Where the picture of an entry lies, or would lie."""
        return self._file(entry.key)

    def _file(self, key: str) -> Path:
        return self.root / "images" / key[:2] / f"{key}.png"

    def _holds(self, entry: Entry) -> bool:
        image = self.path(entry)
        if not (has_end(image) and self._says(image, entry)):
            return False
        mark = read_mark(image)
        return mark is None or DAMAGED not in mark.reasons

    def _says(self, image: Path, entry: Entry) -> bool:
        """Whether the entry beside a picture is this."""
        try:
            return _read_json(image.with_suffix(".json")) == vars(entry)
        except OSError:
            return False

    def _listed(self) -> list[tuple[str, Row, Judged | None]]:
        """All that are there, in the order of their keys, with what was said of them."""
        self._index.refresh()
        rows: dict[str, Row] = {}  # what the index did not know
        judged: dict[str, Judged] = {}
        found = []
        for folder in sorted(self.root.glob("images/[0-9a-f][0-9a-f]")):
            place, names = str(folder), {*os.listdir(folder)}
            for key in sorted(_keys(names)):
                if row := self._row(key, place, rows):
                    said = self._said(key, place, judged) if key + ".mark.json" in names else None
                    found.append((key, row, said))
        self._index.append(rows, judged)
        self._index.refresh()
        self._index.compact(key for key, _, _ in found)
        return found

    def _row(self, key: str, place: str, news: dict[str, Row]) -> Row | None:
        row = self._index.rows.get(key)
        if row and place.endswith(key[:2]):
            return row
        if entry := self._read(Path(place, f"{key}.png")):
            news[key] = self._index.rows[key] = _row(entry)
            return news[key]
        return None

    def _said(self, key: str, place: str, news: dict[str, Judged]) -> Judged | None:
        said, stamp = self._index.judged.get(key), _stamp(f"{place}/{key}.mark.json")
        if said and said.stamp == stamp:
            return said
        if (mark := read_mark(Path(place, f"{key}.png"))) is None:
            return None
        news[key] = self._index.judged[key] = Judged(stamp, mark.reasons)
        return news[key]

    def _read(self, image: Path) -> Entry | None:
        """The entry beside a picture, unless it is another's or none."""
        file = image.with_suffix(".json")
        try:
            entry = Entry(**_read_json(file))
            if self.path(entry) == image:
                return entry
        except (OSError, TypeError, ValueError):
            pass
        _log.warning("left out, since it is not the entry of its name: %s", file)
        return None


def _keys(names: set[str]) -> Iterator[str]:
    """Of pictures that have their entries; what begins with a dot is, or was, being written."""
    images = (name[:-4] for name in names if name[-4:] == ".png" and name[0] != ".")
    return (key for key in images if key + ".json" in names)


def _row(entry: Entry) -> Row:
    return Row(entry.split, entry.reference, entry.pose, canonical(entry.provenance).encode())


def _entry(row: Row) -> Entry | None:
    """Without looking at it again; None if its line in the index was cut off."""
    try:
        provenance = json.loads(row.provenance)
    except ValueError:
        return None
    entry = object.__new__(Entry)
    vars(entry).update(split=row.split, reference=row.reference, pose=row.pose, provenance=provenance)
    return entry


def _time(file: Path) -> float:
    """When a file was written; never, if it is gone."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def _stamp(mark: str | Path) -> tuple[int, int]:
    """When a mark was written, and its bytes."""
    status = os.stat(mark)
    return status.st_mtime_ns, status.st_size


def has_end(picture: Path) -> bool:
    """Whether a picture is there to its end; a copy that was interrupted is not."""
    try:
        with open(picture, "rb") as file:
            file.seek(-len(_END), os.SEEK_END)
            return file.read() == _END
    except OSError:
        return False


def _read_json(path: Path) -> Any:
    """What a file says, or None if it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None


def pose_order(pose: str) -> tuple[list[str | int], str]:
    """To sort poses by: 2 before 10, and numbers before names."""
    parts = re.split(r"(\d+)", pose)  # text and numbers in turn
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], pose
