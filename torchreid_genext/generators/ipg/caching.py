"""Features that are kept from one step of denoising to the next.

Xinyin Ma, Gongfan Fang and Xinchao Wang: "DeepCache: Accelerating Diffusion Models for Free", CVPR 2024. What
the deep blocks of a U-Net say changes little between steps; only the outermost ones need to run each time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from diffusers import UNet2DConditionModel
from torch import nn

__all__ = ["StepCache"]


class StepCache:
    """Lets a U-Net reuse its deep features, while it is entered as a context.

    Args:
        unet: its first and last block always run.
        every: of so many steps one runs all blocks; 1 leaves the U-Net as it is.

    Raises:
        ValueError: if `every` is below 1.
    """

    def __init__(self, unet: UNet2DConditionModel, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"expected cache_every >= 1, got {every}")
        self._every = every
        self._deep = [*unet.down_blocks[1:], unet.mid_block, *unet.up_blocks[:-1]] if every > 1 else []
        self._kept: dict[nn.Module, Any] = {}
        self._rows = 0

    def __enter__(self) -> StepCache:
        for block in self._deep:
            block.forward = partial(self._forward, block, block.forward)
        return self

    def __exit__(self, *error: object) -> None:
        for block in self._deep:
            del block.forward  # that of the class is seen again
        self._kept.clear()

    @contextlib.contextmanager
    def step(self, number: int, rows: int) -> Iterator[None]:
        """A step of denoising.

        Args:
            number: from 0.
            rows: of the batch; features of another number of rows are not used.
        """
        if number % self._every == 0 or rows != self._rows:
            self._kept.clear()
        self._rows = rows
        yield

    def _forward(self, block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if block not in self._kept:
            self._kept[block] = forward(*args, **kwargs)
        return self._kept[block]
