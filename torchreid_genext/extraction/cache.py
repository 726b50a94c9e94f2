"""Features on disk by the content of their images: no date and no name of an image is trusted.

Files are only added. Each holds up to 2,000 images of one encoder, so that another order or selection of
images, or some more of them, finds again what is known. Small files are now and then merged into larger ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchreid_genext import checkpoints

__all__ = ["SHARD", "FeatureCache", "Known", "Part"]

SHARD = 2000  # images in a cache file, and at most lost by an interruption
_SMALL_FILES = 16  # of less than half a shard; more are merged
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """What came out of some images.

    Attributes:
        features: (n, D) float32 of the readable ones.
        faults: position -> reason, of the others.
        digests: of each image's content, "" where not even bytes could be read.
    """

    features: Tensor
    faults: dict[int, str]
    digests: Sequence[str]

    def pin_memory(self) -> Part:
        """In memory that an accelerator reads by itself; DataLoader asks for it."""
        return replace(self, features=self.features.pin_memory())


@dataclass(frozen=True)
class Known:
    """What the cache has of some images: digest -> row of `features` (K, D), or why there is none."""

    features: Tensor
    rows: dict[str, int] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)

    def __contains__(self, digest: str) -> bool:
        return digest in self.rows or digest in self.faults


class FeatureCache:
    """The features of one encoder in a folder that several processes may use at once.

    Args:
        folder: of the cache files; it need not exist.
        key: names all that features depend on besides the images.
    """

    def __init__(self, folder: str | Path, key: str) -> None:
        self.folder = Path(folder).expanduser()
        self.key = key
        self._heads: dict[Path, dict[str, Any]] = {}  # file -> its metadata; a file of a name never changes
        self._damaged: set[Path] = set()

    def of(self, variant: str) -> FeatureCache:
        """That of the encoder's features under a further condition, such as a camera it is told."""
        key = hashlib.sha256(f"{self.key} {variant}".encode()).hexdigest()
        return FeatureCache(self.folder, key)

    def known(self, digests: Iterable[str]) -> Known:
        """What can be trusted of the cached features of images of these contents; nothing is written."""
        return _joined(self._loaded(self._read_heads(), set(digests)))

    def _loaded(
        self, heads: dict[Path, dict[str, Any]], wanted: set[str]
    ) -> list[tuple[Tensor, dict[str, Any]]]:
        """Features and metadata of those files that have one of the images and are whole."""
        found, wanted = [], set(wanted)
        for file, head in heads.items():
            new = wanted.intersection(itertools.chain(head["images"], head["unreadable"]))
            if new and (features := self._load(file, head)) is not None:
                found.append((features, head))
                wanted -= new
        return found

    def _read_heads(self) -> dict[Path, dict[str, Any]]:
        heads = {}
        for file in sorted(self.folder.glob(f"{self.key[:32]}-*.safetensors")):
            with self._watching(file):
                heads[file] = self._heads.get(file) or _head(file, self.key)
        self._heads = heads
        return dict(heads)

    def _load(self, file: Path, head: dict[str, Any]) -> Tensor | None:
        with self._watching(file):
            features = checkpoints.safe_load(file).get("features")
            if features is None or head["sha256"] != _digest(features, head["images"], head["unreadable"]):
                raise ValueError(f"expected the features that were saved, got other content in {file}")
            return features
        return None

    @contextlib.contextmanager
    def _watching(self, file: Path) -> Iterator[None]:
        """Goes on after a fault of a file, and remembers those that are damaged."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            self._heads.pop(file, None)
            if file.exists():  # else another process has merged it just now
                _log.warning("cached features are extracted again: %s", error)
                if isinstance(error, ValueError):
                    self._damaged.add(file)

    def prepare(self) -> None:
        """Make the folder, mark it as a cache for backup programs, and drop damaged files.

        Raises:
            OSError: if the folder cannot be written.
        """
        checkpoints.write_text(self.folder / "CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n")
        self._drop(self._damaged)
        self._damaged.clear()

    def add(self, part: Part) -> None:
        """Keep a part, whole or not at all; of faults those that come from an image's content."""
        readable = [digest for i, digest in enumerate(part.digests) if i not in part.faults]
        faults = {part.digests[i]: reason for i, reason in part.faults.items() if part.digests[i]}
        if readable or faults:
            self._save(readable, part.features, faults)

    def _save(self, images: Sequence[str], features: Tensor, faults: dict[str, str]) -> Path:
        name = hashlib.sha256("".join([*images, *faults]).encode()).hexdigest()
        digest = _digest(features, images, faults)
        head = {"key": self.key, "sha256": digest, "images": list(images), "unreadable": faults}
        file = self.folder / f"{self.key[:32]}-{name[:16]}.safetensors"
        self._heads.pop(file, None)
        return checkpoints.save(file, {"features": features}, head)

    def merge(self) -> None:
        """Put small files together, if they are many. A row is always in a file: new ones come first."""
        heads = self._read_heads()
        small = {file: head for file, head in heads.items() if len(head["images"]) < SHARD // 2}
        if len(small) <= _SMALL_FILES:
            return
        read = {
            file: (features, head)
            for file, head in small.items()
            if (features := self._load(file, head)) is not None
        }
        if read:
            self._drop(read.keys() - set(self._write_large(_joined(list(read.values())))))

    def _write_large(self, found: Known) -> list[Path]:
        faults, files = found.faults, []
        digests = list(found.rows)
        for start in range(0, max(len(digests), 1), SHARD):
            part = digests[start : start + SHARD]
            files.append(self._save(part, found.features[[found.rows[digest] for digest in part]], faults))
            faults = {}
        return files

    def _drop(self, files: Iterable[Path]) -> None:
        for file in files:
            with contextlib.suppress(OSError):  # another process may read it, or have dropped it
                file.unlink()


def _joined(files: Sequence[tuple[Tensor, dict[str, Any]]]) -> Known:
    """The content of files as one."""
    starts = itertools.accumulate((len(features) for features, _ in files), initial=0)
    rows: dict[str, int] = {}
    faults: dict[str, str] = {}
    for start, (_, head) in zip(starts, files):
        rows.update(zip(head["images"], itertools.count(start)))
        faults.update(head["unreadable"])
    whole = [features for features, _ in files if len(features)]
    return Known(torch.cat(whole) if whole else torch.empty(0, 0), rows, faults)


def _head(file: Path, key: str) -> dict[str, Any]:
    """The metadata of a cache file, if it is one of this key."""
    head = checkpoints.read_metadata(file)
    kinds = {"key": str, "sha256": str, "images": list, "unreadable": dict}
    if head.get("key") != key or not all(isinstance(head.get(name), kind) for name, kind in kinds.items()):
        raise ValueError(f"expected features of this model, got other content in {file}")
    return head


def _digest(features: Tensor, images: Sequence[str], faults: dict[str, str]) -> str:
    digest = hashlib.sha256(features.contiguous().numpy())
    digest.update(repr((tuple(features.shape), list(images), sorted(faults.items()))).encode())
    return digest.hexdigest()
