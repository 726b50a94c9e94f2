"""Names of tensors in the files of others, brought to those of an architecture here.

Position embeddings are brought to the size of the images, too.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "from_clip",
    "grid_of",
    "grids",
    "peeled",
    "peeled_like",
    "renamed",
    "resized_positions",
    "without",
]

Grid = tuple[int, int]

_log = logging.getLogger(__name__)
_SIZES = ((256, 128), (384, 128), (224, 224), (384, 384), (256, 256), (224, 112), (384, 192), (518, 518))
_CLIP = (
    ("class_embedding", "cls_token"), ("positional_embedding", "pos_embed"), ("conv1.", "patch_embed.proj."),
    ("ln_pre.", "norm_pre."), ("ln_post.", "norm."), ("transformer.resblocks.", "blocks."),
)  # fmt: skip
_CLIP_INNER = (
    (".ln_1.", ".norm1."), (".ln_2.", ".norm2."), (".attn.in_proj_", ".attn.qkv."),
    (".attn.out_proj.", ".attn.proj."), (".mlp.c_fc.", ".mlp.fc1."), (".mlp.c_proj.", ".mlp.fc2."),
)  # fmt: skip


def peeled(state: Mapping[str, Tensor], marks: Sequence[str]) -> dict[str, Tensor]:
    """Tensors without what stands before the first of `marks` that ends a name, whatever it is called.

    Names that do not begin so are left as they are.
    """
    for mark in marks:
        pattern = re.compile(rf"((?:\w+\.)*?){re.escape(mark)}")
        found = next((match for name in state if (match := pattern.fullmatch(name))), None)
        if found:
            return {name.removeprefix(found[1]): tensor for name, tensor in state.items()}
    return dict(state)


def peeled_like(state: Mapping[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """Tensors without the beginning behind which the most of them are called as in `own`."""
    own, beginnings = set(own), Counter[str]()
    for name in state:
        parts = name.split(".")
        ends = (".".join(parts[place:]) for place in range(len(parts)))
        beginnings.update(name.removesuffix(end) for end in ends if end in own)
    best = max(beginnings, key=lambda each: beginnings[each], default="")
    return {name.removeprefix(best): tensor for name, tensor in state.items()}


def renamed(state: Mapping[str, Tensor], beginnings: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    """Tensors with the first of `beginnings`, pairs of theirs and ours, that fits exchanged."""
    pairs = list(beginnings)
    return {_renamed(name, pairs): tensor for name, tensor in state.items()}


def _renamed(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    for theirs, ours in pairs:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def without(
    state: Mapping[str, Tensor], unused: tuple[str, ...], source: str | Path, *, but: Iterable[str] = ()
) -> dict[str, Tensor]:
    """Tensors without those whose names begin with one of `unused`, which are listed in the log.

    Names in `but` are kept.
    """
    left = {name for name in state if name.startswith(unused)} - set(but)
    if left:
        _log.info("%s: left out, since no feature needs them: %s", source, ", ".join(sorted(left)))
    return {name: tensor for name, tensor in state.items() if name not in left}


def from_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image encoder of OpenAI's CLIP under timm's names; other names stay."""
    found = {}
    for name, tensor in renamed(state, _CLIP).items():
        for theirs, ours in _CLIP_INNER:
            name = name.replace(theirs, ours)
        found[name] = tensor
    if "cls_token" in found and found["cls_token"].ndim == 1:  # there a vector, and positions a matrix
        found["cls_token"] = found["cls_token"][None, None]
        found["pos_embed"] = found["pos_embed"][None]
    return found


def grids(image_size: Sequence[int], patch: int = 16) -> dict[Grid, int]:
    """Rows and columns of patches -> their stride, for images of a size; the usual strides come first."""
    found: dict[Grid, int] = {}
    for step in (patch, patch * 3 // 4, *range(patch - 1, patch // 2 - 1, -1)):
        rows, columns = ((size - patch) // step + 1 for size in image_size)
        found.setdefault((rows, columns), step)
    return found


def grid_of(number: int, image_size: Sequence[int], patch: int = 16) -> tuple[Grid, int]:
    """Rows and columns of so many patches, and their stride: for this size of images, else for a usual one.

    Raises:
        ValueError: if no such size has so many patches.
    """
    for size in (tuple(image_size), *_SIZES):
        for grid, stride in grids(size, patch).items():
            if grid[0] * grid[1] == number:
                return grid, stride
    raise ValueError(f"expected position embeddings of images of a usual size, got {number} patches")


def resized_positions(positions: Tensor, old: Grid, new: Grid) -> Tensor:
    """Position embeddings (1, P + rows * columns, D) for another grid; the P of other tokens stay."""
    first = positions.shape[1] - old[0] * old[1]
    others, patches = positions[:, :first], positions[:, first:]
    if old == new:
        return positions
    image = patches.unflatten(1, old).permute(0, 3, 1, 2).float()
    image = F.interpolate(image, size=new, mode="bilinear", align_corners=False).to(positions.dtype)
    return torch.cat([others, image.flatten(2).transpose(1, 2)], dim=1)
