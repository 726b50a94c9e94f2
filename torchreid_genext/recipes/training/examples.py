"""Whom sample pictures show: people who are not learnt from, as far as there are any that can be shown."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor
from yacs.config import CfgNode

from torchreid_genext import compat
from torchreid_genext.data.images.in_memory import ImageTensor

__all__ = ["asked_for", "first_shown", "two_of_each"]

_PEOPLE = 8  # in a picture
_Shown = TypeVar("_Shown")
_log = logging.getLogger(__name__)


def first_shown(splits: Iterable[str], show: Callable[[str], _Shown]) -> _Shown | None:
    """What the first split shows that can show anything; None, with a warning, if there is none.

    Args:
        splits: the most wanted first.
        show: raises ValueError where a split has no images, joints or pairs.
    """
    faults = {}
    for split in dict.fromkeys(splits):
        try:
            return show(split)
        except ValueError as error:
            faults[split] = error
    _log.warning("training without sample pictures: %s", "; ".join(f"{k}: {v}" for k, v in faults.items()))
    return None


def asked_for(cfg: CfgNode, split: str, images: ImageTensor) -> ImageTensor:
    """Those of a gallery whom queries ask for: the others are distractors and junk; other splits have none.

    Raises:
        ValueError: if none is asked for.
    """
    if split != "gallery":
        return images
    dataset = compat.init_image_dataset(cfg.data.sources[0], root=cfg.data.root, verbose=False)
    people = torch.tensor(sorted({record[1] for record in dataset.query}), dtype=torch.int64)
    rows = torch.isin(images.pids, people)
    if not rows.any():
        raise ValueError("expected people whom queries ask for in the gallery, got none")
    return images.select(rows)


def two_of_each(groups: Tensor) -> Tensor:
    """Positions of two images (2, P) of each of the first people.

    Args:
        groups: a number for each image (N,); those with the same one go together.

    Raises:
        ValueError: if all images are alone.
    """
    numbers, counts = groups.unique(return_counts=True)
    if not (counts > 1).any():
        raise ValueError("expected two images of a person, got one of each")
    several = numbers[counts > 1][:_PEOPLE]
    return torch.stack([(groups == number).nonzero()[:2, 0] for number in several]).T
