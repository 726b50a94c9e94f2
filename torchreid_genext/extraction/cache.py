"""Features on disk, in files named by all that they depend on: no date and no name of an image is trusted."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from torchreid_genext import checkpoints

__all__ = ["Part", "Shard", "mark_as_cache", "shards"]

_SHARD = 2000  # images in a cache file, and at most lost by an interruption
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """What came out of some images: features (n, D) of the readable, position -> reason of the others."""

    features: Tensor
    faults: dict[int, str]


@dataclass(frozen=True)
class Shard:
    """Consecutive images whose features share a cache file, named by all that these features depend on."""

    paths: tuple[str, ...]
    key: str
    file: Path | None

    def load(self) -> Part | None:
        """The cached part, or None if there is none that can be trusted."""
        if self.file is None or not self.file.exists():
            return None
        try:
            return self._verified(checkpoints.read_metadata(self.file), checkpoints.safe_load(self.file))
        except ValueError as error:
            _log.warning("cached features are extracted again: %s", error)
            return None

    def _verified(self, metadata: dict[str, Any], tensors: dict[str, Tensor]) -> Part:
        features = tensors.get("features")
        if features is None or metadata.get("key") != self.key or metadata["sha256"] != _digest(features):
            raise ValueError(
                f"expected features of these images and this model, got other content in {self.file}"
            )
        return Part(features, {int(position): reason for position, reason in metadata["unreadable"].items()})

    def save(self, part: Part) -> None:
        """Write the part to the cache, whole or not at all."""
        if self.file is not None:
            metadata = {"key": self.key, "sha256": _digest(part.features), "unreadable": part.faults}
            checkpoints.save(self.file, {"features": part.features}, metadata)


def shards(encoder_key: str, paths: Sequence[str], cache_dir: str | Path | None) -> list[Shard]:
    """Cut a list of images into shards.

    Args:
        encoder_key: names model, preprocessing and precision.
        paths: image files; their contents are read for the key, their names do not count.
        cache_dir: folder of the cache files; None makes shards that neither load nor save.
    """
    return [_shard(encoder_key, paths[i : i + _SHARD], cache_dir) for i in range(0, len(paths), _SHARD)]


def _shard(encoder_key: str, paths: Sequence[str], cache_dir: str | Path | None) -> Shard:
    if cache_dir is None:
        return Shard(tuple(paths), "", None)
    key = _content_key(encoder_key, paths)
    return Shard(tuple(paths), key, Path(cache_dir, f"{key[:32]}.safetensors"))


def _content_key(encoder_key: str, paths: Sequence[str]) -> str:
    digest = hashlib.sha256(encoder_key.encode())
    for path in paths:
        try:
            digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
        except OSError:
            digest.update(b"unreadable")
    return digest.hexdigest()


def _digest(features: Tensor) -> str:
    return hashlib.sha256(features.numpy().tobytes()).hexdigest()


def mark_as_cache(folder: Path) -> None:
    """Mark the folder as a cache for backup programs; fails, before the work, if it cannot be written."""
    checkpoints.write_text(folder / "CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n")
