"""Pairs of images of a person with the joints of both: what generators of people in poses learn from.

As in `orders`, what makes up a step is a function of seed and step, so that training resumes exactly.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from torchreid_genext.data.generator_batches.orders import (
    Order,
    PairedBatch,
    Partners,
    batches,
    generator_of,
    share,
)
from torchreid_genext.data.images.in_memory import ImageTensor
from torchreid_genext.data.images.reading import image_size
from torchreid_genext.data.poses import JOINTS
from torchreid_genext.data.poses.names import pose_of
from torchreid_genext.data.poses.skeletons import scaled

__all__ = ["PosePairs", "PosedImages", "mirrored", "pose_pairs", "with_partners", "with_poses"]

_FLIPS = 4  # what a generator is for; 0 to 3 are those of `orders`
_SIDES = {"right": "left", "left": "right"}
_log = logging.getLogger(__name__)


def _opposite(joint: str) -> str:
    side, _, part = joint.partition("_")
    return f"{_SIDES[side]}_{part}" if side in _SIDES else joint


_MIRROR = [JOINTS.index(_opposite(joint)) for joint in JOINTS]


def mirrored(keypoints: Tensor, width: int, *, swap: bool = True) -> Tensor:
    """Joints of the mirror image.

    Args:
        keypoints: (..., 18, 2) of (y, x) pixels, negative where missing.
        width: of the image.
        swap: the mirror image of a left hand is a right hand; else joints keep their names.

    Returns:
        (..., 18, 2), -1 where missing.
    """
    points = keypoints[..., _MIRROR, :] if swap else keypoints
    y, x = points.unbind(-1)
    turned = torch.stack([y, (width - 1 - x).clamp(min=0)], dim=-1)  # a part of a pixel may lie beyond
    return torch.where((points >= 0).all(dim=-1, keepdim=True), turned, -1.0)


@dataclass(frozen=True, eq=False)
class PosedImages:
    """Images that have joints.

    Attributes:
        images: without those that were left out.
        keypoints: theirs, (N, 18, 2) float32 of (y, x) in pixels of `images`, -1 where missing.
        left_out: path -> reason, of the others.
    """

    images: ImageTensor
    keypoints: Tensor
    left_out: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keypoints)

    def without(self, faults: Mapping[int, str]) -> PosedImages:
        """Leave out some more, position -> reason, and say so.

        Raises:
            ValueError: if nothing remains; the message has one of the reasons.
        """
        if not faults:
            return self
        named = {self.images.paths[row]: reason for row, reason in faults.items()}
        example = "{}: {}".format(*next(iter(named.items())))
        if len(faults) == len(self):
            raise ValueError(f"expected images with joints, got none of {len(self)}, such as {example}")
        _log.warning("%d of %d images are left out, such as %s", len(faults), len(self), example)
        rows = torch.tensor([row not in faults for row in range(len(self))])
        return PosedImages(self.images.select(rows), self.keypoints[rows], self.left_out | named)


def with_poses(
    images: ImageTensor, poses: Mapping[str, ArrayLike], *, required: Sequence[str] = ()
) -> PosedImages:
    """Those of the images that have joints, and which.

    Args:
        images: of one split.
        poses: file name -> (18, 2) joints in pixels of the file, negative where missing; those outside of the
            image count as missing.
        required: joints without which an image is of no use, of `data.poses.JOINTS`; without any, one joint
            will do, whichever.

    Returns:
        Images and joints; what was left out is in `PosedImages.left_out`.

    Raises:
        ValueError: if a required joint is unknown, or no image has what it takes.
    """
    if unknown := [joint for joint in required if joint not in JOINTS]:
        raise ValueError(f"unknown joint {unknown[0]!r}; choose from {', '.join(JOINTS)}")
    keypoints = torch.full((len(images), len(JOINTS), 2), -1.0)
    for row, path in enumerate(images.paths):
        if (pose := pose_of(poses, path)) is not None:
            keypoints[row] = _within(path, pose, images.images.shape[2:])
    shown = (keypoints >= 0).all(dim=-1)
    faults = {row: reason for row, seen in enumerate(shown) if (reason := _fault(seen, required))}
    return PosedImages(images, keypoints).without(faults)


def with_partners(posed: PosedImages, alike: Tensor | None = None) -> PosedImages:
    """Those of the images that are not alone.

    Args:
        posed: images and their joints.
        alike: a number for each image (N,), the same for those that can be partners; by default the person.

    Raises:
        ValueError: if all are alone.
    """
    _, groups, counts = (posed.images.pids if alike is None else alike).unique(
        return_inverse=True, return_counts=True
    )
    alone = (counts[groups] == 1).nonzero()[:, 0].tolist()
    return posed.without(dict.fromkeys(alone, "no other image of the person"))


class PosePairs(NamedTuple):
    """A step's pairs for one process.

    Attributes:
        images: (B, 3, H, W) uint8.
        keypoints: theirs, (B, 18, 2) float32 of (y, x) pixels, -1 where missing.
        others: another image of each person, (B, 3, H, W) uint8.
        other_keypoints: theirs, (B, 18, 2).
        labels: person (B,) int64. camids: camera of `images` (B,) int64.
        indices: positions (B,) int64 of `images` in the whole set, on the CPU.
    """

    images: Tensor
    keypoints: Tensor
    others: Tensor
    other_keypoints: Tensor
    labels: Tensor
    camids: Tensor
    indices: Tensor


def pose_pairs(
    images: ImageTensor,
    keypoints: Tensor,
    order: Order,
    partners: Partners,
    *,
    seed: int = 0,
    flip: float = 0.0,
    swap: bool = True,
) -> Callable[[int, int, int], Iterator[PosePairs]]:
    """What a training loop asks for its data; images and partners are those of `pairs.batches`.

    Args:
        images: all of them, on any device; those of batches are on the same.
        keypoints: theirs, (N, 18, 2) of (y, x) pixels, -1 where missing; those of batches are on the CPU,
            where what follows from them can be computed without waiting for an accelerator.
        order: which of them make up a step.
        partners: gives each image another of the same person.
        seed: of the choice of partners, and of mirror images.
        flip: probability that a pair is mirrored, both images and their joints; half is what PG2 has.
        swap: of `mirrored`.

    Returns:
        ``pairs(first, rank, world)``: the endless batches of one process from step `first` on.

    Raises:
        ValueError: if the keypoints are not those of the images, or the probability is not in 0..1.
    """
    if tuple(keypoints.shape) != (len(images), len(JOINTS), 2):
        wanted = len(images), len(JOINTS), 2
        raise ValueError(f"expected keypoints {wanted}, got {tuple(keypoints.shape)}")
    if not 0 <= flip <= 1:
        raise ValueError(f"expected a probability flip in 0..1, got {flip}")
    positions = replace(images, images=torch.arange(len(images))).to("cpu")
    source, keypoints = batches(positions, order, partners=partners, seed=seed), keypoints.float().cpu()

    def since(first: int, rank: int = 0, world: int = 1) -> Iterator[PosePairs]:
        for step, batch in zip(itertools.count(first), source(first, rank, world)):
            draws = torch.rand(order.batch_size, generator=generator_of(seed, _FLIPS, step))
            chosen = share(draws < flip, rank, world)
            pairs = _gathered(batch, images.images, keypoints)
            yield _flipped(pairs, chosen, swap) if chosen.any() else pairs

    return since


def _gathered(batch: PairedBatch, images: Tensor, keypoints: Tensor) -> PosePairs:
    """Of a batch that has positions in place of images."""
    own, other = batch.images, batch.others
    rows, other_rows = own.to(images.device), other.to(images.device)
    return PosePairs(
        images[rows], keypoints[own], images[other_rows], keypoints[other],
        batch.labels, batch.camids, batch.indices,
    )  # fmt: skip


def _flipped(pairs: PosePairs, chosen: Tensor, swap: bool) -> PosePairs:
    """With mirror images of the pairs (B,) that are chosen."""
    turned = chosen[:, None, None, None].to(pairs.images.device)

    def image(pixels: Tensor) -> Tensor:
        return torch.where(turned, pixels.flip(-1), pixels)

    def joints(points: Tensor) -> Tensor:
        return torch.where(chosen[:, None, None], mirrored(points, pairs.images.shape[3], swap=swap), points)

    return pairs._replace(
        images=image(pairs.images), keypoints=joints(pairs.keypoints),
        others=image(pairs.others), other_keypoints=joints(pairs.other_keypoints),
    )  # fmt: skip


def _within(path: str, pose: ArrayLike, size: Sequence[int]) -> Tensor:
    """Joints (18, 2) of a file in pixels of an image of another size, -1 where missing."""
    height, width = image_size(path)
    points = np.asarray(pose, float)
    if points.shape != (len(JOINTS), 2):
        raise ValueError(f"expected a pose of shape ({len(JOINTS)}, 2) of {path}, got {points.shape}")
    inside = ((points >= 0) & (points < (height, width))).all(axis=1, keepdims=True)
    moved = scaled(points, (height, width), size).clip(min=0)  # part of a pixel at the border
    return torch.from_numpy(np.where(inside, moved, -1)).float()


def _fault(shown: Tensor, required: Sequence[str]) -> str:
    """Why an image with some joints (18,) is of no use; empty if it is."""
    if not shown.any():
        return "no joints"
    missing = [joint for joint in required if not shown[JOINTS.index(joint)]]
    return f"no {', '.join(missing)}" if missing else ""
