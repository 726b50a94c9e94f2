"""Real and generated images in fixed shares of each batch, and an engine that passes them on apart.

CamStyle (Zhong et al., CVPR 2018) has M real images for N fakes in a batch, 3:1 in the paper and 128:46 in
the code. Both go through the network on their own, so that BatchNorm sees the statistics of each, and the
means of the two losses are added: a fake weighs M / N times what a real image does.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, Sampler

from torchreid_genext import compat
from torchreid_genext.data.torchreid_training.datasets import GeneratedImage

__all__ = ["RatioSampler", "mix_batches", "parse_ratio", "separate_softmax_engine", "shares"]


def parse_ratio(ratio: str) -> tuple[int, int]:
    """Real and generated images, such as (3, 1) of ``3:1``.

    Raises:
        ValueError: if these are not two whole numbers above 0.
    """
    found = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", ratio)
    if found is None:
        rule = "expected genext.augmented.batch_ratio as real:generated, such as 3:1"
        raise ValueError(f"{rule}, got {ratio!r}")
    return int(found[1]), int(found[2])


def shares(batch_size: int, ratio: str) -> tuple[int, int]:
    """How many images of a batch are real and generated; one of each at least.

    Raises:
        ValueError: as `parse_ratio`, or if a batch has no room for both.
    """
    real, fake = parse_ratio(ratio)
    if batch_size < 2:
        raise ValueError(f"expected batches of two or more images of both kinds, got {batch_size}")
    share = min(max(round(batch_size * fake / (real + fake)), 1), batch_size - 1)
    return batch_size - share, share


class RatioSampler(Sampler[int]):
    """Batches with as many real and generated images each; an epoch has every real image at most once.

    Generated images come in a random order, and again in another one when all have been. Like torch's own
    sampler it draws from the global generator.
    """

    def __init__(self, generated: Sequence[bool], batch_size: int, ratio: str) -> None:
        """A sampler of positions.

        Args:
            generated: whether each image is (N,).
            batch_size: images of a batch.
            ratio: real to generated images, such as ``3:1``; their numbers are rounded.

        Raises:
            ValueError: if the ratio is none, a batch has no room for both kinds, or there are too few images
                of a kind for one.
        """
        _, self._share = shares(batch_size, ratio)
        marks = torch.tensor(generated, dtype=torch.bool)
        self._real, self._fake = (~marks).nonzero()[:, 0], marks.nonzero()[:, 0]
        self._batch_size, own = batch_size, batch_size - self._share
        if len(self._real) < own or len(self._fake) < self._share:
            rule = f"expected {own} real and {self._share} generated images or more for a batch"
            raise ValueError(f"{rule}, got {len(self._real)} and {len(self._fake)}")
        self._batches = len(self._real) // own

    def __len__(self) -> int:
        return self._batches * self._batch_size

    def __iter__(self) -> Iterator[int]:
        real = _shuffled(self._real, self._batches * (self._batch_size - self._share))
        fake = _shuffled(self._fake, self._batches * self._share)
        parts = [part.reshape(self._batches, -1) for part in (real, fake)]
        return iter(torch.cat(parts, dim=1).flatten().tolist())


def _shuffled(rows: Tensor, number: int) -> Tensor:
    """So many of the rows, none of them again before all have been."""
    rounds = [rows[torch.randperm(len(rows))] for _ in range(-(-number // len(rows)))]
    return torch.cat(rounds)[:number]


def mix_batches(datamanager: Any, ratio: str) -> Any:
    """Let torchreid's data manager for images serve real and generated images in a ratio.

    Args:
        datamanager: one whose sources have generated images, with torchreid's random order; its
            `train_loader` is replaced. An engine must be built after this.
        ratio: such as ``3:1``; empty: the data manager is left as it is.

    Returns:
        The same data manager.

    Raises:
        ValueError: as `RatioSampler`, or if images come in another order than a random one.
    """
    if not ratio:
        return datamanager
    loader = datamanager.train_loader
    if not isinstance(loader.sampler, RandomSampler):
        rule = "expected sampler.train_sampler RandomSampler with genext.augmented.batch_ratio"
        raise ValueError(f"{rule}, got {type(loader.sampler).__name__}")
    generated = [isinstance(item[0], GeneratedImage) for item in loader.dataset.train]
    datamanager.train_loader = DataLoader(
        loader.dataset,
        sampler=RatioSampler(generated, loader.batch_size, ratio),
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        drop_last=True,
    )
    return datamanager


@functools.cache
def separate_softmax_engine() -> type:
    """torchreid's ``ImageSoftmaxEngine``, but for real and generated images that pass apart.

    The class is made here, since importing this package does not import torchreid.
    """
    return type("SeparateSoftmaxEngine", (_Separate, compat.engine_class("image", "softmax")), {})


class _Separate:
    """What stands before torchreid's engine; a batch without one of the kinds has one pass."""

    def forward_backward(self, data: dict[str, Any]) -> dict[str, float]:
        """An update by the sum of the two mean losses; these, their sum and the accuracy of the real."""
        generated = [isinstance(path, GeneratedImage) for path in data["impath"]]
        summary, losses = {}, []
        for name, kind in (("real", False), ("generated", True)):
            if rows := [row for row, each in enumerate(generated) if each == kind]:
                loss, accuracy = self._pass(_of_rows(data, rows))
                losses.append(loss)
                summary[f"loss_{name}"] = loss.item()
                summary.setdefault("acc", accuracy)
        total = sum(losses)
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        return {"loss": total.item(), **summary}

    def _pass(self, data: dict[str, Any]) -> tuple[Tensor, float]:
        """The mean loss of one kind of images, by the cross-entropy that the engine has for them."""
        images, pids = self.parse_data_for_train(data)
        device = next(self.model.parameters()).device
        images, pids = images.to(device), pids.to(device)
        outputs = self.model(images)
        loss = self.compute_loss(self.criterion, outputs, pids)
        return loss, compat.accuracy(outputs, pids)


def _of_rows(data: dict[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """Some images of a batch."""
    return {
        name: values[rows] if isinstance(values, Tensor) else [values[row] for row in rows]
        for name, values in data.items()
    }
