"""A store of generated images: a folder that says of each picture whom it shows and how it was made.

    <root>/store.json                     marks the folder as a store and tells its version
    <root>/images/<2 hex>/<key>.png       a picture; the folder is called as its key begins
    <root>/images/<2 hex>/<key>.json      its entry: split, reference, pose, provenance
    <root>/images/<2 hex>/<key>.mark.json what a judge said of it, if any did (`judgements`)

The reference is the file name of the real image. The key is the hash of the entry: 32 hexadecimal digits of
SHA-256 over its canonical JSON (sorted keys, no spaces, ASCII). So all who are asked for the same picture
write the same files, and stores are merged by copying ``images`` of one into the other; a copy that was cut
off is to be repeated (`generation.merging` looks whether what is there is whole, too).

The picture is written first, then the entry, both atomically. A picture without its entry, as after a kill in
between, or an entry without its picture counts as not there; so does an entry that is not what its name says.
A picture that was cut off is written again when it is added again. Pictures that were dropped by a judge are
there, so that they are not made again, but are left out where nobody asks for them.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from torchreid_genext import checkpoints
from torchreid_genext.data.store.judgements import Mark, mark_file, read_mark, write_mark

__all__ = ["SPLITS", "Entry", "ImageStore", "is_store", "pose_order"]

SPLITS = ("query", "gallery", "train")

_MARK = "store.json"
_CONTENT = {"content": "generated images", "version": 1}
_END = b"IEND\xaeB`\x82"  # of every whole PNG
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """What a picture in a store is.

    Attributes:
        split: ``query``, ``gallery`` or ``train``.
        reference: file name of the real image, without folders.
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
        for what in ("reference", "pose"):
            _check_name(what, getattr(self, what))
        _check_provenance(self.provenance)

    @property
    def key(self) -> str:
        """32 hexadecimal digits, of everything above."""
        return hashlib.sha256(_canonical(vars(self)).encode()).hexdigest()[:32]


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")


def _check_name(what: str, name: Any) -> None:
    if not isinstance(name, str) or name in ("", ".", "..") or set("/\\") & set(name):
        raise ValueError(f"expected a {what} that is a name without folders, got {name!r}")


def _check_provenance(provenance: Any) -> None:
    """Whether the key of what is read will be the key of what was written: JSON makes numbered keys names."""
    try:
        text = _canonical(provenance)
        kept = isinstance(provenance, dict) and _canonical(json.loads(text)) == text
    except (TypeError, ValueError):
        kept = False
    if not kept:
        raise ValueError(f"expected a dict as provenance that JSON gives back unchanged, got {provenance!r}")


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def is_store(root: str | Path) -> bool:
    """Whether a folder says that it is a store; `ImageStore` tells whether it is one of ours."""
    return Path(os.path.expanduser(root), _MARK).is_file()


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
            checkpoints.write_json(path.with_suffix(".json"), vars(entry))
        return path

    def has(self, *, split: str, reference: str, pose: str, provenance: dict[str, Any]) -> bool:
        """Whether a picture is there with its entry; arguments as in `Entry`.

        Raises:
            ValueError: as `Entry`.
        """
        return self._holds(Entry(split, reference, pose, provenance))

    def path(self, entry: Entry) -> Path:
        """Where the picture of an entry lies, or would lie."""
        return self.root / "images" / entry.key[:2] / f"{entry.key}.png"

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
        found = self._entries()
        return (entry for entry, kept in found if split in (None, entry.split) and (kept or dropped))

    def poses(self, split: str, *, dropped: bool = False) -> list[str]:
        """The poses of a split by `pose_order`; arguments as in `entries`.

        Raises:
            ValueError: if the split is unknown.
        """
        return sorted({entry.pose for entry in self.entries(split, dropped=dropped)}, key=pose_order)

    def files(self, split: str, *, dropped: bool = False) -> dict[str, dict[str, str]]:
        """The pictures of a split: by pose, in the order of `poses`, then by reference; arguments as there.

        Raises:
            ValueError: if the split is unknown, or different pictures of one reference in one pose are there.
        """
        found: dict[str, dict[str, str]] = {}
        for entry in self.entries(split, dropped=dropped):
            path = str(self.path(entry))
            first = found.setdefault(entry.pose, {}).setdefault(entry.reference, path)
            if first != path and not filecmp.cmp(first, path, shallow=False):
                rule = f"expected one picture of {entry.reference} in pose {entry.pose}"
                raise ValueError(f"{rule}, got {first} and {path}, made differently as their entries tell")
        return {pose: found[pose] for pose in sorted(found, key=pose_order)}

    def mark(self, entry: Entry, mark: Mark) -> None:
        """Say of a picture that it is kept or dropped, and why, in place of what was said before.

        Raises:
            ValueError: if the picture is not there, or a number in the mark is not finite.
        """
        if not self._holds(entry):
            raise ValueError(f"expected a picture of the store, got {entry}")
        write_mark(self.path(entry), mark)

    def mark_of(self, entry: Entry) -> Mark | None:
        """What was said of a picture, or None if nothing was."""
        return read_mark(self.path(entry))

    def _holds(self, entry: Entry) -> bool:
        image = self.path(entry)
        return _is_whole(image) and image.with_suffix(".json").is_file() and self._entry(image) is not None

    def _entries(self) -> Iterator[tuple[Entry, bool]]:
        """All entries with whether they are kept."""
        for folder in sorted(self.root.glob("images/[0-9a-f][0-9a-f]")):
            names = {path.name for path in folder.iterdir()}
            # What begins with a dot was being written when its process was killed.
            images = [name for name in sorted(names) if name.endswith(".png") and not name.startswith(".")]
            for image in (folder / name for name in images if f"{name[:-4]}.json" in names):
                if entry := self._entry(image):
                    mark = read_mark(image) if mark_file(image).name in names else None
                    yield entry, mark is None or mark.kept

    def _entry(self, image: Path) -> Entry | None:
        """The entry beside a picture, unless it is another's or none."""
        try:
            entry = Entry(**_read_json(image.with_suffix(".json")))
            if self.path(entry) == image:
                return entry
        except (TypeError, ValueError):
            pass
        _log.warning("left out, since it is not the entry of its name: %s", image.with_suffix(".json"))
        return None


def _is_whole(picture: Path) -> bool:
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
