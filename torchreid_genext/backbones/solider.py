"""Files of SOLIDER's Swin for timm's: names, the order of merged patches, and its semantic controller.

SOLIDER multiplies and shifts the channels between two stages by what a weight between appearance and meaning
makes of them. For one weight that is a linear map behind another, so both become one here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_genext.backbones import names

__all__ = ["as_timm", "check", "is_solider", "prepared"]

_FIRST = "patch_embed.projection.weight"
_CONTROLLER, _FOLDED = "semantic_embed_w.", "downsample.reduction.bias"
_UNUSED = ("norm0.", "norm1.", "norm2.", "semantic_embed")
_INNER = (
    ("patch_embed.projection.", "patch_embed.proj."), (".attn.w_msa.", ".attn."),
    (".ffn.layers.0.0.", ".mlp.fc1."), (".ffn.layers.1.", ".mlp.fc2."),
)  # fmt: skip


def is_solider(state: Mapping[str, Tensor]) -> bool:
    """Whether tensors are of a SOLIDER: under its own names, or as `as_timm` gave them."""
    return any(_CONTROLLER in name or name.endswith(_FOLDED) for name in state)


def check(body: nn.Module, name: str) -> None:
    """Raise ValueError if a network of timm, called so, is no Swin."""
    stages = getattr(body, "layers", None)
    if stages is None or not all(hasattr(block, "_attn") for stage in stages for block in stage.blocks):
        rule = "expected a Swin for weights of SOLIDER, such as timm:swin_base_patch4_window7_224"
        raise ValueError(f"{rule}, got timm:{name}")


def prepared(body: nn.Module) -> nn.Module:
    """timm's Swin, made with ``always_partition``, that cuts windows as SOLIDER does and has room for its weights.

    It is changed in place.
    """
    for stage in body.layers:
        for block in stage.blocks:
            block._attn = functools.partial(_padded_first, block._attn, block.window_size)
        if hasattr(stage.downsample, "reduction"):
            reduction = stage.downsample.reduction
            reduction.bias = nn.Parameter(torch.zeros(reduction.out_features))
    return body


def _padded_first(attend: Callable[[Tensor], Tensor], window: tuple[int, int], x: Tensor) -> Tensor:
    """Attention of a block to patches (B, H, W, C): filled up to whole windows before they are shifted."""
    height, width = x.shape[1:3]
    padded = F.pad(x, (0, 0, 0, -width % window[1], 0, -height % window[0]))
    return attend(padded)[:, :height, :width]


def as_timm(state: Mapping[str, Tensor], weight: float, source: str | Path) -> dict[str, Tensor]:
    """Tensors under timm's names, with the semantic controller in the layers that merge patches.

    Args:
        state: under SOLIDER's names, whatever stands before them; others stay.
        weight: of meaning, 0 .. 1.
        source: of the tensors, for the log.
    """
    state = names.peeled(state, (_FIRST,))
    if _FIRST not in state:
        return dict(state)  # as timm names them
    last = max(int(found[1]) for name in state if (found := re.match(r"stages\.(\d+)\.", name)))
    found: dict[str, Tensor] = {}
    for name, tensor in names.without(state, _UNUSED, source).items():
        if not name.endswith("relative_position_index"):  # follows from the size of a window
            found |= _renamed(name, tensor, last)
    for stage in range(last):
        found |= _controlled(found, state, stage, weight)
    return found


def _renamed(name: str, tensor: Tensor, last: int) -> dict[str, Tensor]:
    for theirs, ours in _INNER:
        name = name.replace(theirs, ours)
    name = re.sub(rf"^norm{last}\.", "norm.", name)
    if merged := re.match(r"stages\.(\d+)\.downsample\.(.+)", name):  # in timm at the beginning of a stage
        return {f"layers.{int(merged[1]) + 1}.downsample.{merged[2]}": _reordered(tensor)}
    return {re.sub(r"^stages\.", "layers.", name): tensor}


def _reordered(tensor: Tensor) -> Tensor:
    """Of four merged patches (..., 4 C): from channel by channel to patch by patch, column by column."""
    return tensor.unflatten(-1, (-1, 2, 2)).movedim(-3, -1).transpose(-3, -2).flatten(-3)


def _controlled(
    found: Mapping[str, Tensor], state: Mapping[str, Tensor], stage: int, weight: float
) -> dict[str, Tensor]:
    """The layer that leads to the next stage, and what the controller does behind it, as one."""
    given = torch.tensor([weight, 1 - weight])
    scale, shift = (
        F.linear(given, *(state[f"semantic_embed_{part}.{stage}.{kind}"].float() for kind in ("weight", "bias")))
        for part in "wb"
    )
    layer = f"layers.{stage + 1}.downsample.reduction"
    merging: Any = found[f"{layer}.weight"]
    return {f"{layer}.weight": F.softplus(scale)[:, None].to(merging) * merging, f"{layer}.bias": shift.to(merging)}
