"""A folder as a torchreid image data set."""

from __future__ import annotations

import copyreg
import functools
import os
from typing import Any

from torchreid_genext.compat import ImageDataset
from torchreid_genext.data.folders.names import FolderName
from torchreid_genext.data.folders.reading import Folder, read_folder
from torchreid_genext.data.torchreid_training.datasets import KINDS, augmented

__all__ = ["FolderDataset", "folder_datasets"]


class _Kind(type(ImageDataset)):
    """The class of classes that stand in no module, which processes that load make again by name."""


class FolderDataset(ImageDataset, metaclass=_Kind):
    """What classes of folders have in common; `folder_datasets` makes them."""

    name = ""
    place: FolderName
    _junk_pids = [-1]

    def __init__(self, root: str = "", **options: Any) -> None:
        """Args: root: not used, the folder has a path; options: torchreid's own (transform, mode, ...)."""
        folder = self.read()
        self.frames, self.has_cameras = folder.frames, folder.has_cameras
        splits = [folder.train, folder.query, folder.gallery]
        # The host looks at the first image of each split; which of them a user needs, others know.
        with_cells = [[(*image, 0) for image in split] for split in splits]
        some = next(split for split in with_cells if split)[:1]
        verbose, combineall, mode = (options.pop(key, default) for key, default in _HELD)
        super().__init__(*(split or some for split in with_cells), verbose=False, mode=mode, **options)
        self.train, self.query, self.gallery = with_cells
        self.num_train_pids, self.num_train_cams = (
            self.get_num_pids(self.train),
            self.get_num_cams(self.train),
        )
        self.verbose, self.combineall = verbose, combineall
        if combineall:
            self.combine_all()
        self.data = getattr(self, mode)
        if verbose:
            self.show_summary()

    @classmethod
    def read(cls) -> Folder:
        """The folder as it is now; raises as `read_folder`."""
        return read_folder(cls.place)

    @classmethod
    def cameras_known(cls) -> bool:
        """Whether the folder tells cameras."""
        return cls.read().has_cameras

    @classmethod
    def check_training(cls) -> None:
        """Raise ValueError if there is nobody to train on."""
        if not cls.read().train:
            raise ValueError(f"expected images for training in {cls.name}, got none; add a train folder")


_HELD = (("verbose", True), ("combineall", False), ("mode", "train"))


@functools.cache
def _dataset(name: str, working_folder: str) -> type[FolderDataset]:
    """The class of a name; the same for the same name, to which paths are relative."""
    place = FolderName.parse(name)
    members = {"name": name, "place": place, "dataset_dir": str(place.root), "__module__": __name__}
    return _Kind("Folder", (FolderDataset,), members)


def _again(kind: _Kind) -> str | tuple[Any, ...]:
    return "FolderDataset" if kind is FolderDataset else (_dataset, (kind.name, os.getcwd()))


copyreg.pickle(_Kind, _again)


def folder_datasets(name: str) -> dict[str, type]:
    """Classes by name for a name that begins with ``folder:``: the folder, and it with generated images.

    Raises:
        ValueError: as `FolderName.parse`.
    """
    plain = next((name.removesuffix(f"_{kind}") for kind in KINDS if _extends(name, kind)), name)
    dataset = _dataset(plain, os.getcwd())
    return {plain: dataset, **{f"{plain}_{kind}": augmented(dataset, plain, kind) for kind in KINDS}}


def _extends(name: str, kind: str) -> bool:
    """Whether generated images of a folder are meant, and not a folder that is called so."""
    return name.endswith(f"_{kind}") and not FolderName.parse(name).root.is_dir()
