"""Which images of which cameras make up a step of training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from torchreid_genext.data.generator_batches.orders import generator_of, share

__all__ = ["CameraBalanced", "check_cameras"]

_CAMERAS = 5  # what a generator is for, beside those of `orders` and `posed_pairs`


def check_cameras(camids: ArrayLike, cameras: Sequence[int] | None = None) -> list[int]:
    """The cameras of a training set, if there is enough to learn from.

    Args:
        camids: camera of each image (N,), from 0.
        cameras: which are needed; None: all from 0 to the largest.

    Raises:
        ValueError: if there are fewer than two cameras, or one has fewer than two images.
    """
    counts = torch.bincount(torch.as_tensor(camids).cpu()).tolist()
    wanted = list(range(len(counts)) if cameras is None else cameras)
    if len(wanted) < 2:
        raise ValueError(f"expected images of two or more cameras, got {len(wanted)}")
    for camera in wanted:
        if (number := counts[camera] if camera < len(counts) else 0) < 2:
            raise ValueError(f"expected two or more images of every camera, got {number} of camera {camera}")
    return wanted


class CameraBalanced:
    """As many images of each camera in each batch; those of a camera come in a new order every time round.

    Attributes:
        batch_size: images of a step, of all processes together.
        steps_per_epoch: after how many steps all images of the largest camera have been seen.
    """

    def __init__(
        self, camids: ArrayLike, images: int, seed: int, *, cameras: Sequence[int] | None = None
    ) -> None:
        """An order of images by camera.

        Args:
            camids: camera of each image, integers (N,) from 0.
            images: of each camera in a batch; officially 1.
            seed: of the orders.
            cameras: which; None: all.

        Raises:
            ValueError: as `check_cameras`, or if a batch would hold no images.
        """
        if images < 1:
            raise ValueError(f"expected images >= 1 of each camera, got {images}")
        camids = torch.as_tensor(camids).cpu()
        self._cameras = check_cameras(camids, cameras)
        self._rows = [(camids == camera).nonzero()[:, 0] for camera in self._cameras]
        self._images, self._seed = images, seed
        self.batch_size = images * len(self._rows)
        self.steps_per_epoch = -(-max(map(len, self._rows)) // images)

    def indices(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """Positions of the images of a step, see `data.pairs.Order`; one of each camera stay together.

        Raises:
            ValueError: if step or rank are out of range, or the images cannot be shared equally.
        """
        if step < 0:
            raise ValueError(f"expected a step >= 0, got {step}")
        parts = [self._of_camera(rows, number, step) for number, rows in enumerate(self._rows)]
        return share(torch.stack(parts, dim=1).flatten(), rank, world, unit=len(parts))

    def _of_camera(self, rows: Tensor, number: int, step: int) -> Tensor:
        """The next images (images,) in an endless row of shuffled rounds."""
        first = step * self._images
        rounds = range(first // len(rows), (first + self._images - 1) // len(rows) + 1)
        orders = [
            torch.randperm(len(rows), generator=generator_of(self._seed, _CAMERAS, number, each))
            for each in rounds
        ]
        start = first - rounds[0] * len(rows)
        return rows[torch.cat(orders)[start : start + self._images]]
