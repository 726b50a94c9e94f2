"""Whole data sets in memory: any torchreid image data set by name, as one tensor of pixels.

Generators of people look at small pictures, and many times: Market-1501 at 64x32 is 80 MB, read once in a few
seconds. What cannot be read is left out and said.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from torchreid_genext import checkpoints, compat
from torchreid_genext.data.filenames import has_frames, parse
from torchreid_genext.data.folders.names import PREFIX as FOLDER
from torchreid_genext.data.images.reading import readable_images
from torchreid_genext.processes import usable_cores

__all__ = ["SPLITS", "ImageTensor", "channel_statistics", "load_images"]

SPLITS = ("train", "query", "gallery")
_BATCH = 32  # images that travel together from a process that reads
_COUNTED_TOGETHER = 1024  # images
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ImageTensor:
    """Images of one split, all of one size, with their labels.

    Attributes:
        images: (N, 3, H, W) uint8, RGB.
        pids: person (N,) int64 as the data set numbers them; torchreid counts training people from 0.
        camids: camera (N,) int64, from 0.
        paths: file of each image.
        raw_pids: person (N,) int64 as the file names have it; None where these are of an unknown pattern.
        unreadable: path -> reason, of the images that were left out.
    """

    images: Tensor
    pids: Tensor
    camids: Tensor
    paths: tuple[str, ...]
    raw_pids: Tensor | None = None
    unreadable: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def averages(self) -> tuple[Tensor, Tensor]:
        """People (P,) int64 in ascending order, and the mean image of each, (P, 3, H, W) float in [0, 1]."""
        people, counts = self.pids.unique(return_counts=True)
        rows = self.pids.argsort(stable=True).split(counts.tolist())
        return people, torch.stack([self.images[each].float().mean(0) for each in rows]) / 255

    def select(self, rows: slice | Sequence[int] | Tensor) -> ImageTensor:
        """Some of the images: a slice, positions, or one truth value an image."""
        positions = torch.arange(len(self))[rows if isinstance(rows, slice) else torch.as_tensor(rows).cpu()]
        columns = {name: values[positions.to(values.device)] for name, values in self._tensors().items()}
        return replace(self, paths=tuple(self.paths[row] for row in positions.tolist()), **columns)

    def to(self, device: torch.device | str) -> ImageTensor:
        """The same with its tensors on a device."""
        return replace(self, **{name: values.to(device) for name, values in self._tensors().items()})

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


def load_images(
    name: str,
    root: str | Path,
    *,
    height: int = 64,
    width: int = 32,
    split: str = "train",
    workers: int | None = None,
    progress: bool = True,
    cache_dir: str | Path | None = None,
) -> ImageTensor:
    """Read one split of a data set into memory; images that cannot be read are left out, with one warning.

    Args:
        name: data set as torchreid knows it, ours included once registered.
        root: folder that holds the data set's own.
        height: of the images, in pixels; they are resized as torchreid does, bilinear and antialiased.
        width: likewise.
        split: ``train``, ``query`` or ``gallery``.
        workers: processes that read; 0 reads in this one, None takes one a core.
        progress: show a progress bar on a terminal.
        cache_dir: folder for the pixels, which are read from there the next time unless name, size or time of
            a file has changed; None neither reads nor writes any.

    Raises:
        ValueError: if the data set or the split is unknown or not there, a size is below 1, or no image can
            be read.
        OSError: if `cache_dir` cannot be written.
    """
    if height < 1 or width < 1:
        raise ValueError(f"expected height and width >= 1, got {height} and {width}")
    paths, pids, camids = _records(name, root, split)
    store = _Store.of(cache_dir, f"{name}_{split}", paths, (height, width))
    kept = store.load()
    read = _again(*kept, paths) if kept else _read(paths, (height, width), workers, progress)
    pixels, faults = read if kept else store.save(*read)
    whole = ImageTensor(pixels, torch.tensor(pids), torch.tensor(camids), paths, _raw_pids(paths, name))
    return _readable(whole, faults, f"{name} {split}")


def _records(name: str, root: str | Path, split: str) -> tuple[tuple, tuple, tuple]:
    """Paths, pids and camids of a split."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
    records = getattr(compat.init_image_dataset(name, root=str(root), verbose=False), split)
    if not records:
        where = f"; add a folder {split}" if name.startswith(FOLDER) else f" in {str(root)!r}"
        raise ValueError(f"expected images in the split {split} of {name}, got none{where}")
    paths, pids, camids = zip(*(record[:3] for record in records))
    return paths, pids, camids


def _raw_pids(paths: Sequence[str], dataset: str) -> Tensor | None:
    if not has_frames(dataset):
        return None
    try:
        return torch.tensor([parse(path, dataset).pid for path in paths])
    except ValueError:  # torchreid's own patterns are looser than the published names
        return None


def _readable(whole: ImageTensor, faults: dict[int, str], what: str) -> ImageTensor:
    """Without the images that could not be read, of which only the labels are true."""
    if not faults:
        return whole
    unreadable = {whole.paths[position]: reason for position, reason in faults.items()}
    some = "; ".join(f"{path}: {reason}" for path, reason in list(unreadable.items())[:3])
    if len(faults) == len(whole):
        raise ValueError(f"expected a readable image among {len(whole)} of {what}, got none; {some}")
    _log.warning("%s: %d of %d images cannot be read and are left out: %s%s",
                 what, len(faults), len(whole), some, "; ..." if len(faults) > 3 else "")  # fmt: skip
    kept = [position for position in range(len(whole)) if position not in faults]
    return replace(whole.select(kept), unreadable=unreadable)


def _read(
    paths: Sequence[str], size: tuple[int, int], workers: int | None, progress: bool
) -> tuple[Tensor, dict[int, str]]:
    """Pixels (N, 3, H, W) of all files, black where one has a fault, and position -> fault."""
    pixels, faults = torch.zeros(len(paths), 3, *size, dtype=torch.uint8), {}
    hidden = None if progress else True  # None shows the bar on a terminal alone
    with tqdm(total=len(paths), unit="img", desc="images", disable=hidden) as bar:
        for start, (some, reasons) in zip(range(0, len(paths), _BATCH), _batches(paths, size, workers)):
            pixels[start : start + len(some)] = some
            faults |= {start + position: reason for position, reason in reasons.items()}
            bar.update(len(some))
    return pixels, faults


def _again(pixels: Tensor, faults: dict[int, str], paths: Sequence[str]) -> tuple[Tensor, dict[int, str]]:
    """Files that could not be read once are tried again: a disk or network may have failed for a moment."""
    still: dict[int, str] = {}
    for position in faults:
        some, reasons = _Files([paths[position]], tuple(pixels.shape[2:]))[0]
        pixels[position] = some[0]
        still |= {position: reason for reason in reasons.values()}
    return pixels, still


def _batches(
    paths: Sequence[str], size: tuple[int, int], workers: int | None
) -> Iterator[tuple[Tensor, dict[int, str]]]:
    files = _Files(paths, size)
    wanted = usable_cores() if workers is None else workers
    return iter(DataLoader(files, batch_size=None, num_workers=min(wanted, len(files) - 1)))


class _Files(Dataset):
    """Item i is batch i of the files: pixels, black where one has a fault, and position -> fault."""

    def __init__(self, paths: Sequence[str], size: tuple[int, int]) -> None:
        self.batches = [paths[start : start + _BATCH] for start in range(0, len(paths), _BATCH)]
        self.size = size

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[int, str]]:
        paths, faults = self.batches[index], {}
        pixels = np.zeros((len(paths), *self.size, 3), dtype=np.uint8)
        for position, image in readable_images(paths, faults):
            pixels[position] = image.resize(self.size[::-1], Image.Resampling.BILINEAR)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2), faults


@dataclass(frozen=True)
class _Store:
    """The file of pixels that were read before, named by all that they depend on; None keeps nothing."""

    file: Path | None
    key: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, folder: str | Path | None, what: str, paths: Sequence[str], size: tuple[int, int]) -> _Store:
        shape = (len(paths), 3, *size)
        if folder is None:
            return cls(None, "", shape)
        content = json.dumps([what, size, [(os.path.abspath(path), *_times(path)) for path in paths]])
        key = hashlib.sha256(content.encode()).hexdigest()
        name = f"{what}_{size[0]}x{size[1]}_{key[:12]}.safetensors"
        return cls(Path(os.path.expanduser(folder), name), key, shape)

    def load(self) -> tuple[Tensor, dict[int, str]] | None:
        """Pixels and faults, or None if there are none that can be trusted."""
        if self.file is None or not self.file.exists():
            return None
        try:
            metadata = checkpoints.read_metadata(self.file)
            pixels = checkpoints.safe_load(self.file).get("images")
            if metadata.get("key") != self.key or pixels is None or pixels.shape != self.shape:
                raise ValueError(f"expected the pixels of these images, got other content in {self.file}")
        except ValueError as error:
            _log.warning("images are read again: %s", error)
            return None
        return pixels, {int(position): reason for position, reason in metadata["unreadable"].items()}

    def save(self, pixels: Tensor, faults: dict[int, str]) -> tuple[Tensor, dict[int, str]]:
        """Keep what was read, unless there is nothing in it; gives it back."""
        if self.file is not None and len(faults) < len(pixels):
            checkpoints.save(self.file, {"images": pixels}, {"key": self.key, "unreadable": faults})
        return pixels, faults


def _times(path: str) -> tuple[int, int]:
    """When a file was changed, in nanoseconds, and its bytes; -1 for a file that is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_mtime_ns, status.st_size


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel over all pixels, exact but for the last rounding.

    Args:
        images: (N, 3, H, W) uint8, on any device.

    Returns:
        Mean (3,) and population variance (3,), float64 on the CPU, of values in [0, 1].

    Raises:
        ValueError: if the images are not of that kind, or none.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or not images.numel():
        raise ValueError(f"expected uint8 images (N, 3, H, W), got {images.dtype} {tuple(images.shape)}")
    mean, variance = zip(*(_moments(_histogram(images[:, channel])) for channel in range(images.shape[1])))
    return torch.tensor(mean, dtype=torch.float64), torch.tensor(variance, dtype=torch.float64)


def _histogram(channel: Tensor) -> list[int]:
    """How often each of the 256 values occurs in (N, H, W)."""
    parts = channel.split(_COUNTED_TOGETHER)
    return sum(torch.bincount(part.flatten(), minlength=256).cpu() for part in parts).tolist()


def _moments(counts: Sequence[int]) -> tuple[float, float]:
    """Mean and variance in [0, 1], from whole numbers of any length."""
    number = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value**2 * count for value, count in enumerate(counts))
    return first / (255 * number), (number * second - first**2) / (255 * number) ** 2
