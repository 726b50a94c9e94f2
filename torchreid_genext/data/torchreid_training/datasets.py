"""Image data sets with generated images of their training people: ``market1501_ipg`` and the like.

``<dataset>_ipg`` is the named data set with pictures appended to ``train``, each with the label of the real
image that it was made from; query and gallery are the same. ``_pg2`` and ``_deformable`` have those of other
generators; in ``<dataset>_camstyle`` these are pictures in the style of other cameras. torchreid opens
data sets by name and hands them nothing but its own options, so `augmenting` says which pictures are wanted::

    with augmenting(root="log/pictures", ratio=0.5):
        datamanager = torchreid.data.ImageDataManager(root="reid-data", sources="market1501_ipg")
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from torchreid_genext import compat
from torchreid_genext.data.store.camstyle_folder import style_files
from torchreid_genext.data.torchreid_training.selection import (
    Augmentation,
    Picture,
    find_additions,
    pose_files,
)

__all__ = [
    "KINDS", "Augmented", "GeneratedImage", "augmented", "augmented_datasets", "augmenting",
    "generated_folder", "is_augmented", "plain_name",
]  # fmt: skip

_POSED = ("ipg", "pg2", "deformable")
# Kind -> who tells the files of real images.
_FINDS = {**dict.fromkeys(_POSED, pose_files), "camstyle": style_files}
KINDS = tuple(_FINDS)

_wanted: ContextVar[Augmentation] = ContextVar("augmentation")


class GeneratedImage(str):
    """The path of a generated image.

    torchreid adds data sets up and hands samples on as bare tuples, of which only the path stays as it is.
    """

    __slots__ = ()


@contextmanager
def augmenting(**options: Any) -> Iterator[None]:
    """Let data sets that are opened inside append the pictures that `options` of `Augmentation` ask for.

    Raises:
        ValueError: as `Augmentation`.
    """
    token = _wanted.set(Augmentation(**options))
    try:
        yield
    finally:
        _wanted.reset(token)


def augmented_datasets(known: Mapping[str, Any]) -> dict[str, type]:
    """Data sets with generated images, for all that torchreid knows.

    Args:
        known: name to class, without those of this module.

    Returns:
        ``<name>_<kind>`` to class. A name that belongs to another data set is left to it.
    """
    classes = {name: dataset for name, dataset in known.items() if isinstance(dataset, type)}
    names = {f"{name}_{kind}": (dataset, name, kind) for name, dataset in classes.items() for kind in KINDS}
    return {name: augmented(*parts) for name, parts in names.items() if name not in known}


def is_augmented(dataset: Any) -> bool:
    """Whether what torchreid has registered is a class of this module."""
    return isinstance(dataset, type) and issubclass(dataset, Augmented)


@functools.cache
def augmented(dataset: type, name: str, kind: str) -> type[Augmented]:
    """The class of ``<name>_<kind>``; the same arguments give the same class.

    Args:
        dataset: a torchreid image data set.
        name: under which torchreid knows it.
        kind: of generated images, one of `KINDS`.
    """
    members = {"plain_name": name, "kind": kind, "_plain": dataset, "__module__": __name__}
    return type(f"{dataset.__name__}_{kind}", (Augmented, dataset), members)


def plain_name(name: str) -> str:
    """The name of the data set that one with generated images extends; of others their own."""
    dataset = compat.image_datasets().get(name)
    return dataset.plain_name if is_augmented(dataset) else name


def generated_folder(name: str, root: str | Path, kind: str = "ipg") -> Path:
    """Where ``<name>_<kind>`` looks for its pictures if nobody says: ``<root>/<folder>_generated/<kind>``.

    Args:
        name: of the data set that is extended.
        root: holds the data sets.
        kind: one of `KINDS`.

    Raises:
        ValueError: if the name is unknown; the message lists the choices.
    """
    folder = compat.image_dataset_folder(name, root)
    # A class need not name a folder.
    own = folder if folder != Path(os.path.expanduser(root)) else folder / name
    return own.with_name(f"{own.name}_generated") / kind


class Augmented:
    """What `augmented` puts before the constructor of a torchreid data set.

    Only a data set for training (torchreid's ``mode``) looks for pictures: testing needs none.
    """

    plain_name: str
    kind: str
    _plain: type

    def __init__(self, root: str = "", *, mode: str = "train", **options: Any) -> None:
        """Args: root: holds the data set's own folder; mode, options: torchreid's own.

        Raises:
            ValueError: as `find_additions`.
        """
        if mode == "train":
            self._open_for_training(root, **options)
        else:
            super().__init__(root=root, mode=mode, **options)

    def _open_for_training(
        self, root: str, *, combineall: bool = False, verbose: bool = True, **options: Any
    ) -> None:
        super().__init__(root=root, mode="train", combineall=False, verbose=False, **options)
        wanted = _wanted.get(Augmentation())
        pictures = self._pictures(root, wanted) if wanted.ratio else []
        self.combineall, self.verbose = combineall, verbose
        if combineall:  # not earlier: test images have no pictures to learn from
            self.combine_all()
        if pictures:
            self._append(pictures, wanted)
        self.data = self.train
        if verbose:
            self.show_summary()

    def _pictures(self, root: str, wanted: Augmentation) -> list[Picture]:
        place = Path(wanted.root or generated_folder(self.plain_name, root, self.kind))
        options = {"ratio": wanted.ratio, "seed": wanted.seed, "find": _FINDS[self.kind]}
        return find_additions(self.train, place, self.plain_name, **options)

    def _append(self, pictures: Sequence[Picture], wanted: Augmentation) -> None:
        cameras = wanted.cameras(pictures, free=1 + max(item[2] for item in self.train))
        self.train = self.train + [
            (GeneratedImage(picture.path), picture.item[1], camera, *picture.item[3:])
            for picture, camera in zip(pictures, cameras)
        ]
        self.num_train_cams = self.get_num_cams(self.train)

    def __reduce__(self) -> tuple[Any, ...]:
        """Processes that load get a copy. Its class stands in no module, so it is made again there."""
        return _blank, (self._plain, self.plain_name, self.kind), vars(self)


def _blank(dataset: type, name: str, kind: str) -> Augmented:
    made = augmented(dataset, name, kind)
    return made.__new__(made)
