"""SynthReID as torchreid image datasets, each of which writes itself below the data root on first use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torchreid_genext.compat import ImageDataset
from torchreid_genext.data.filenames import parse
from torchreid_genext.data.synthetic.writing import write_dataset

Item = tuple[str, int, int]  # path, person, camera from 0


class SynthReID(ImageDataset):
    """The `small` world: about 150 people to train on and 150 others to find.

    The protocol is Market-1501's: one query per identity and camera, distractors with pid 0 in the gallery,
    junk (pid -1) left out. Training identities are numbered 0, 1, ... in the order of their pids, on every
    machine the same.
    """

    _junk_pids = [0, -1]
    dataset_dir = "synthreid"
    size, world = "small", "visible"

    def __init__(self, root: str = "", **kwargs: Any) -> None:
        """Args: root: holds the dataset's own folder; kwargs: torchreid's own (transform, mode, ...)."""
        self.root = os.path.abspath(os.path.expanduser(root))
        folder = Path(self.root) / self.dataset_dir
        write_dataset(folder, size=self.size, mode=self.world)
        train, query, gallery = (
            _items(folder / name) for name in ("bounding_box_train", "query", "bounding_box_test")
        )
        super().__init__(_relabelled(train), query, gallery, **kwargs)


class SynthReIDTiny(SynthReID):
    """A dozen people each way, for tests."""

    dataset_dir, size = "synthreid_tiny", "tiny"


class SynthReIDFull(SynthReID):
    """As many people and pictures as Market-1501."""

    dataset_dir, size = "synthreid_full", "full"


class SynthReIDTurning(SynthReID):
    """The people of `SynthReIDFull`, turning before each camera, which shows generators all their sides."""

    dataset_dir, size, world = "synthreid_full_turning", "full", "turning"


class SynthReIDInfrared(SynthReID):
    """Visible-infrared: two infrared cameras film the queries, four others the gallery; all six train."""

    dataset_dir, world = "synthreid_ir", "ir"


class SynthReIDOccluded(SynthReID):
    """Occluded: something stands before every query, nothing before the gallery."""

    dataset_dir, world = "synthreid_occluded", "occluded"


def _items(folder: Path) -> list[Item]:
    records = (parse(path, "synthreid") for path in sorted(folder.glob("*.jpg")))
    return [(record.path, record.pid, record.camid) for record in records if record.pid != -1]


def _relabelled(items: list[Item]) -> list[Item]:
    labels = {pid: label for label, pid in enumerate(sorted({pid for _, pid, _ in items}))}
    return [(path, labels[pid], camid) for path, pid, camid in items]
