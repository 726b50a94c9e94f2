"""Which images make up a step of training: pure functions of seed, step, rank and world.

Nothing is remembered from step to step, so training that resumes at step n sees what it would have seen, and
so does training on another number of processes: a batch is one for all of them, and each takes its share.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Generator, Tensor

from torchreid_genext.data.images.in_memory import ImageTensor

__all__ = [
    "Batch", "IdentityBalanced", "Order", "PairedBatch", "Partners", "Shuffled", "alike", "batches",
    "generator_of", "share",
]  # fmt: skip

_ORDER, _IDENTITIES, _IMAGES, _PARTNERS = range(4)  # what a generator is for


class Order(Protocol):
    """What `batches` needs to know: the images of each step.

    Attributes:
        batch_size: images of a step, of all processes together.
        steps_per_epoch: after how many steps the data has been seen.
    """

    batch_size: int
    steps_per_epoch: int

    def indices(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """Positions (batch_size / world,) int64 of the images that process `rank` of `world` takes."""


def generator_of(*key: int) -> Generator:
    """A CPU generator of its own for each key: a few numbers >= 0, such as a seed, a purpose and a step."""
    (state,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return Generator().manual_seed(int(state))


def share(batch: Tensor, rank: int, world: int, *, unit: int = 1) -> Tensor:
    """The consecutive part of a batch (B, ...) that is a process's own.

    Args:
        batch: one for all processes.
        rank: of the process, from 0.
        world: how many processes there are.
        unit: images that must stay together.

    Raises:
        ValueError: if the rank is not in 0..world - 1, or the batch has no equal parts of whole units.
    """
    if not 0 <= rank < world:
        raise ValueError(f"expected a rank in 0..{world - 1}, got {rank}")
    if len(batch) % (world * unit):
        whole = f"{len(batch)} images in groups of {unit}" if unit > 1 else f"{len(batch)} images"
        raise ValueError(f"expected a batch that {world} processes can share equally, got {whole}")
    size = len(batch) // world
    return batch[rank * size : (rank + 1) * size]


class Shuffled:
    """All images in a new order every epoch; the incomplete last batch is left out.

    Attributes:
        batch_size: images of a step, of all processes together.
        steps_per_epoch: whole batches in the data.
    """

    def __init__(self, count: int, batch_size: int, seed: int, *, shuffle: bool = True) -> None:
        """An order of `count` images; without `shuffle` they come as they stand, every epoch the same.

        Raises:
            ValueError: if the batch is empty or larger than the data.
        """
        if not 1 <= batch_size <= count:
            raise ValueError(f"expected batch_size in 1..{count}, the number of images, got {batch_size}")
        self.batch_size, self.steps_per_epoch = batch_size, count // batch_size
        self._order = _Permutation(count, (seed, _ORDER)) if shuffle else lambda epoch: torch.arange(count)

    def indices(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """Positions of the images of a step, see `Order.indices`.

        Raises:
            ValueError: if step or rank are out of range, or the batch cannot be shared equally.
        """
        epoch, place = _place(step, self.steps_per_epoch)
        start = place * self.batch_size
        return share(self._order(epoch)[start : start + self.batch_size], rank, world)


class IdentityBalanced:
    """Several images of several people in each batch, one person's beside each other.

    Everyone has been seen before anyone comes again: in the order of an epoch, everyone stands once, and its
    last batch is filled up from its beginning.

    Attributes:
        batch_size: images of a step, of all processes together.
        steps_per_epoch: after how many steps everyone has been seen.
    """

    def __init__(self, pids: ArrayLike, identities: int, images: int, seed: int) -> None:
        """An order of images by person.

        Args:
            pids: person of each image, integers (N,).
            identities: people in a batch, 2 at least.
            images: of each; a person with fewer has all of them, some more than once.
            seed: of the order and of the choice of images.

        Raises:
            ValueError: if a batch would hold fewer than two people, more than there are, or no images.
        """
        self._rows = _rows_by_person(pids)
        if len(self._rows) < 2:
            raise ValueError(f"expected images of at least 2 people, got {len(self._rows)}")
        if not 2 <= identities <= len(self._rows) or images < 1:
            raise ValueError(
                f"expected identities in 2..{len(self._rows)}, as many as there are people, and images >= 1, "
                f"got {identities} and {images}"
            )
        self._identities, self._images, self._seed = identities, images, seed
        self._order = _Permutation(len(self._rows), (seed, _IDENTITIES))
        self.batch_size, self.steps_per_epoch = identities * images, -(-len(self._rows) // identities)

    def indices(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """Positions of the images of a step, see `Order.indices`; a person's stay in one process.

        Raises:
            ValueError: if step or rank are out of range, or the people cannot be shared equally.
        """
        epoch, place = _place(step, self.steps_per_epoch)
        positions = torch.arange(place * self._identities, (place + 1) * self._identities)
        people = self._order(epoch)[positions % len(self._rows)].tolist()
        generator = generator_of(self._seed, _IMAGES, step)
        batch = torch.cat([_some(self._rows[person], self._images, generator) for person in people])
        return share(batch, rank, world, unit=self._images)


class _Permutation:
    """The order of each epoch; the last one asked for is kept, since the next steps ask for it again."""

    def __init__(self, count: int, key: tuple[int, ...]) -> None:
        self._count, self._key = count, key
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def __call__(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            self._order = torch.randperm(self._count, generator=generator_of(*self._key, epoch))
            self._epoch = epoch
        return self._order


def _place(step: int, steps_per_epoch: int) -> tuple[int, int]:
    """Epoch, and step within it."""
    if step < 0:
        raise ValueError(f"expected a step >= 0, got {step}")
    return divmod(step, steps_per_epoch)


def _rows_by_person(pids: ArrayLike) -> tuple[Tensor, ...]:
    pids = torch.as_tensor(pids).cpu()
    _, counts = pids.unique(return_counts=True)
    return pids.argsort(stable=True).split(counts.tolist())


def _some(rows: Tensor, number: int, generator: Generator) -> Tensor:
    """A choice (number,) of the rows, none of them twice while there are others."""
    rounds = [torch.randperm(len(rows), generator=generator) for _ in range(-(-number // len(rows)))]
    return rows[torch.cat(rounds)[:number]]


class Partners:
    """Another image of the same person, for each image."""

    def __init__(self, pids: ArrayLike, camids: ArrayLike | None = None) -> None:
        """Who can stand for whom.

        Args:
            pids: person of each image, integers (N,).
            camids: camera of each image (N,); with them, partners are from another camera where there are
                any. Without, any other image will do.

        Raises:
            ValueError: if there are not as many cameras as people.
        """
        pids = torch.as_tensor(pids).cpu()
        camids = torch.arange(len(pids)) if camids is None else torch.as_tensor(camids).cpu()
        if pids.shape != camids.shape:
            raise ValueError(f"expected as many camids as pids, got {len(camids)} and {len(pids)}")
        self._rows = torch.from_numpy(np.lexsort((camids.numpy(), pids.numpy())))
        order = self._rows.argsort()  # where each image stands among all, sorted by person and camera
        person = _block(pids[self._rows][:, None])
        camera = _block(torch.stack([pids, camids], dim=1)[self._rows])
        self._first, self._end = (ends[order] for ends in person)
        self._skip, self._resume = (ends[order] for ends in camera)
        alone = (self._first == self._skip) & (self._end == self._resume)  # under one camera only
        self._skip[alone], self._resume[alone] = order[alone], order[alone] + 1

    def another(self, indices: Tensor, generator: Generator) -> Tensor:
        """A partner of each of these images, all possible ones alike; the image itself if it is the only one.

        Args:
            indices: positions of images (B,) int64.
            generator: on the CPU; gives one draw an image.

        Returns:
            Positions (B,) int64.
        """
        first, end, skip, resume = (
            ends[indices] for ends in (self._first, self._end, self._skip, self._resume)
        )
        possible = (end - first) - (resume - skip)
        draws = torch.rand(len(indices), generator=generator, dtype=torch.float64)
        places = first + (draws * possible).long()
        places = places + torch.where(places >= skip, resume - skip, 0)
        return torch.where(possible > 0, self._rows[places.clamp(max=len(self._rows) - 1)], indices)


def _block(sorted_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Beginning and end (N,) of the stretch of equal rows in which each row (N, L) stands."""
    _, counts = torch.unique_consecutive(sorted_labels, dim=0, return_counts=True)
    ends = counts.cumsum(0)
    return (ends - counts).repeat_interleave(counts), ends.repeat_interleave(counts)


def alike(pids: Tensor, camids: Tensor, rule: str) -> Tensor:
    """A number for each image (N,); those with the same one can be partners.

    Args:
        pids, camids: person and camera of each image, (N,) int64.
        rule: ``any`` two images of a person, or those of the ``same_camera``.

    Raises:
        ValueError: if the rule is unknown.
    """
    if rule not in ("any", "same_camera"):
        raise ValueError(f"unknown partners {rule!r}; choose from any, same_camera")
    return pids if rule == "any" else pids * (camids.max() + 1) + camids


class Batch(NamedTuple):
    """A step's images for one process.

    Attributes:
        images: (B, 3, H, W) uint8.
        labels: person (B,) int64, from `ImageTensor.pids`.
        camids: camera (B,) int64.
        indices: positions (B,) int64 in the whole set, on the CPU.
    """

    images: Tensor
    labels: Tensor
    camids: Tensor
    indices: Tensor


class PairedBatch(NamedTuple):
    """The same, with a second image of each person.

    Attributes:
        images: (B, 3, H, W) uint8.
        labels: person (B,) int64, from `ImageTensor.pids`.
        camids: camera (B,) int64, of `images`.
        indices: positions (B,) int64 of `images` in the whole set, on the CPU.
        others: (B, 3, H, W) uint8.
    """

    images: Tensor
    labels: Tensor
    camids: Tensor
    indices: Tensor
    others: Tensor


def batches(
    images: ImageTensor, order: Order, *, partners: Partners | None = None, seed: int = 0
) -> Callable[[int, int, int], Iterator[Batch | PairedBatch]]:
    """What a training loop asks for its data.

    Args:
        images: all of them, on any device; batches are on the same.
        order: which of them make up a step.
        partners: gives each image another of the same person; None makes plain batches.
        seed: of the choice of partners.

    Returns:
        ``batches(first, rank, world)``: the endless batches of one process from step `first` on; with
        partners each is a `PairedBatch`.
    """

    def some(step: int, rank: int, world: int) -> Batch | PairedBatch:
        own = order.indices(step, rank, world)
        rows = own.to(images.images.device)
        batch = Batch(images.images[rows], images.pids[rows], images.camids[rows], own)
        if partners is None:
            return batch
        whole = partners.another(order.indices(step), generator_of(seed, _PARTNERS, step))
        others = share(whole, rank, world).to(images.images.device)
        return PairedBatch(*batch, images.images[others])

    def since(first: int, rank: int = 0, world: int = 1) -> Iterator[Batch | PairedBatch]:
        return (some(step, rank, world) for step in itertools.count(first))

    return since
