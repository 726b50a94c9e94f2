"""Image data sets of the host that name a damaged file; the host itself tries to read it for ever."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from torchreid_genext import compat
from torchreid_genext.data.images.reading import UNREADABLE, in_rgb

__all__ = ["Pictures", "naming_damaged_files", "tolerant_loader"]

Batch = tuple[dict[str, Any], dict[str, str]]  # what the host's loader gives, and file -> reason of the rest


def naming_damaged_files(dataset: Any) -> Any:
    """Let an image data set of the host raise an error that names a damaged file; it is changed in place.

    Data sets that read images in a way of their own stay as they are.
    """
    if type(dataset).__getitem__ is compat.ImageDataset.__getitem__:
        dataset.__class__ = type(type(dataset).__name__, (_Naming, type(dataset)), {})
    return dataset


class _Naming:
    """Reads as the host does, but a file once."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, pid, camid, dataset = self.data[index]
        image = _read(path)
        if self.transform is not None:
            image = self._transform_image(self.transform, self.k_tfm, image)
        return {"img": image, "pid": pid, "camid": camid, "impath": path, "dsetid": dataset}

    def __reduce__(self) -> tuple[Any, ...]:
        """For processes that get the data set as bytes, since its class has no name in any module."""
        return _restored, (type(self).__bases__[1], vars(self))


def _restored(kind: type, state: dict[str, Any]) -> Any:
    dataset = object.__new__(kind)
    vars(dataset).update(state)
    return naming_damaged_files(dataset)


def _read(path: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            return in_rgb(image)
    except UNREADABLE as error:
        reason = _reason(error)
        raise ValueError(f"expected an image in {path!r}, got {reason}; replace it, or move it away") from error


class Pictures(_Naming, Dataset):
    """Image files that no data set of the host knows, read and transformed like its test images."""

    k_tfm = 1
    __reduce__ = object.__reduce__

    def __init__(self, paths: Sequence[str], transform: Callable[[Image.Image], Tensor]) -> None:
        self.data = [(path, 0, 0, 0) for path in paths]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.data)

    def _transform_image(
        self, transform: Callable[[Image.Image], Tensor], times: int, image: Image.Image
    ) -> Tensor:
        return transform(image)


def tolerant_loader(loader: DataLoader, dataset: Dataset | None = None) -> DataLoader:
    """A loader like one of the host's for tests, whose batches (``Batch``) leave out what cannot be read.

    Args:
        loader: the host's.
        dataset: what is read, in the same batches; the loader's own unless given.
    """
    dataset = naming_damaged_files(copy.copy(loader.dataset)) if dataset is None else dataset
    return DataLoader(
        _Tolerant(dataset),
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        multiprocessing_context=loader.multiprocessing_context,
        collate_fn=_sorted_out,
    )


class _Tolerant(Dataset):
    """Items of a data set, or the file and the reason where there is none."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any] | tuple[str, str]:
        try:
            return self.dataset[index]
        except ValueError as error:
            if not isinstance(error.__cause__, UNREADABLE):
                raise
            return self.dataset.data[index][0], _reason(error.__cause__)


def _sorted_out(items: Sequence[dict[str, Any] | tuple[str, str]]) -> Batch:
    faults = dict(item for item in items if isinstance(item, tuple))
    read = [item for item in items if isinstance(item, dict)]
    return default_collate(read) if read else {}, faults


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
