"""What a store holds, in numbers: pictures by split and pose, and how they were made."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchreid_genext import checkpoints
from torchreid_genext.data.store import Entry, ImageStore, pose_order

__all__ = ["manifest", "write_manifest"]

_MANY = 32  # values of a name in the provenance; those with more, such as seeds, are not listed


def manifest(store: ImageStore) -> dict[str, Any]:
    """A summary that JSON can say.

    Returns:
        ``splits``: for each its ``pictures``, how many are there, how many of these are ``dropped``, how many
        ``references`` they have, and by pose ``poses``, how many there are. ``provenance``: for each name in
        it the values, as JSON, with how many pictures have them, or ``many`` if there are more than 32.
    """
    splits: dict[str, _Split] = {}
    provenance: dict[str, Counter[str] | None] = {}
    answers = (each for some in store.answers().values() for each in some.items())
    for entry, reasons in ((store.entry(key), reasons) for key, reasons in answers):
        splits.setdefault(entry.split, _Split()).add(entry, dropped=bool(reasons))
        for name, value in entry.provenance.items():
            provenance[name] = _counted(provenance.get(name, Counter()), value)
    return {
        "splits": {name: splits[name].summary() for name in sorted(splits)},
        "provenance": {name: provenance[name] or "many" for name in sorted(provenance)},
    }


def write_manifest(store: ImageStore) -> Path:
    """Write `manifest` as ``manifest.json`` into the store; returns its path."""
    return checkpoints.write_json(store.root / "manifest.json", manifest(store))


@dataclass
class _Split:
    dropped: int = 0
    poses: Counter[str] = field(default_factory=Counter)
    references: set[str] = field(default_factory=set)

    def add(self, entry: Entry, *, dropped: bool) -> None:
        self.dropped += dropped
        self.poses[entry.pose] += 1
        self.references.add(entry.reference)

    def summary(self) -> dict[str, Any]:
        poses = {pose: self.poses[pose] for pose in sorted(self.poses, key=pose_order)}
        counts = {"pictures": self.poses.total(), "dropped": self.dropped, "references": len(self.references)}
        return {**counts, "poses": poses}


def _counted(counts: Counter[str] | None, value: Any) -> Counter[str] | None:
    """With one more of a value; None if there are too many different ones."""
    if counts is None:
        return None
    counts[value if isinstance(value, str) else json.dumps(value, sort_keys=True)] += 1
    return counts if len(counts) <= _MANY else None
