"""SOLIDER's Swin as its authors describe it, an image and a window at a time, on tensors under their names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW = 7


def random_state(width: int, depths: Sequence[int], heads: Sequence[int], classes: int = 3) -> dict[str, Tensor]:
    """Tensors of a checkpoint, with the names and shapes of the authors' code."""
    shapes: dict[str, tuple[int, ...]] = {"base.patch_embed.projection.weight": (width, 3, 4, 4)}
    shapes |= {"base.patch_embed.projection.bias": (width,)} | norm("base.patch_embed.norm", width)
    for stage, depth in enumerate(depths):
        wide = width * 2**stage
        for block in range(depth):
            shapes |= block_shapes(f"base.stages.{stage}.blocks.{block}", wide, heads[stage])
        if stage < len(depths) - 1:
            merging = f"base.stages.{stage}.downsample"
            shapes |= norm(f"{merging}.norm", 4 * wide) | {f"{merging}.reduction.weight": (2 * wide, 4 * wide)}
        shapes |= norm(f"base.norm{stage}", wide)
    for stage in range(len(depths)):
        out = width * 2 ** (min(stage, len(depths) - 2) + 1)
        for part in "wb":
            shapes |= linear(f"base.semantic_embed_{part}.{stage}", out, 2)
    wide = width * 2 ** (len(depths) - 1)
    shapes |= norm("bottleneck", wide) | {"bottleneck.running_mean": (wide,), "bottleneck.running_var": (wide,)}
    shapes["classifier.weight"] = (classes, wide)
    state = {name: 0.3 * torch.randn(shape) for name, shape in shapes.items()}
    state |= {name: tensor.abs() + 0.5 for name, tensor in state.items() if "norm" in name or "_var" in name}
    index = torch.zeros(WINDOW**2, WINDOW**2, dtype=torch.long)
    state |= {name.removesuffix("bias_table") + "index": index for name in state if name.endswith("bias_table")}
    return state | {"bottleneck.num_batches_tracked": torch.tensor(1)}


def block_shapes(name: str, width: int, heads: int) -> dict[str, tuple[int, ...]]:
    found = norm(f"{name}.norm1", width) | norm(f"{name}.norm2", width)
    found[f"{name}.attn.w_msa.relative_position_bias_table"] = ((2 * WINDOW - 1) ** 2, heads)
    found |= linear(f"{name}.attn.w_msa.qkv", 3 * width, width) | linear(f"{name}.attn.w_msa.proj", width, width)
    found |= linear(f"{name}.ffn.layers.0.0", 4 * width, width)
    return found | linear(f"{name}.ffn.layers.1", width, 4 * width)


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def features(state: dict[str, Tensor], image: Tensor, depths: Sequence[int], heads: Sequence[int], weight: float) -> Tensor:
    """Of one image (3, H, W) before the neck."""
    own = {name.removeprefix("base."): tensor for name, tensor in state.items()}
    x = F.conv2d(image[None], own["patch_embed.projection.weight"], own["patch_embed.projection.bias"], stride=4)
    x = normalised(own, "patch_embed.norm", x[0].permute(1, 2, 0))
    for stage, depth in enumerate(depths):
        for block in range(depth):
            name = f"stages.{stage}.blocks.{block}"
            x = x + attended(own, f"{name}.attn.w_msa", normalised(own, f"{name}.norm1", x), heads[stage], block % 2)
            hidden = F.gelu(applied(own, f"{name}.ffn.layers.0.0", normalised(own, f"{name}.norm2", x)))
            x = x + applied(own, f"{name}.ffn.layers.1", hidden)
        if stage == len(depths) - 1:
            return normalised(own, f"norm{stage}", x).mean((0, 1))
        x = merged(own, f"stages.{stage}.downsample", x)
        given = torch.tensor([weight, 1 - weight])
        scale, shift = (applied(own, f"semantic_embed_{part}.{stage}", given) for part in "wb")
        x = x * F.softplus(scale) + shift
    raise AssertionError


def applied(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0)


def normalised(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def merged(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Of (H, W, C): each square of four, channel by channel."""
    rows = [
        [torch.stack([x[i + a, j + b] for a in (0, 1) for b in (0, 1)], dim=1).flatten() for j in range(0, x.shape[1], 2)]
        for i in range(0, x.shape[0], 2)
    ]  # fmt: skip
    squares = torch.stack([torch.stack(row) for row in rows])
    return applied(state, f"{name}.reduction", normalised(state, f"{name}.norm", squares))


def attended(state: dict[str, Tensor], name: str, x: Tensor, heads: int, shifted: int) -> Tensor:
    """Filled up to whole windows, then shifted by half of one; what was not side by side does not see each other."""
    height, width, shift = *x.shape[:2], WINDOW // 2 * shifted
    x = F.pad(x, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
    x = torch.roll(x, (-shift, -shift), (0, 1))
    zones = [[sum(place >= size - step for step in (WINDOW, shift)) if shift else 0 for place in range(size)]
             for size in x.shape[:2]]  # fmt: skip
    found = torch.zeros_like(x)
    places = [(i, j) for i in range(WINDOW) for j in range(WINDOW)]
    table = state[f"{name}.relative_position_bias_table"]
    bias = torch.stack([
        torch.stack([table[(i - k + WINDOW - 1) * (2 * WINDOW - 1) + j - m + WINDOW - 1] for k, m in places])
        for i, j in places
    ])  # fmt: skip
    for top in range(0, x.shape[0], WINDOW):
        for left in range(0, x.shape[1], WINDOW):
            tokens = x[top : top + WINDOW, left : left + WINDOW].flatten(0, 1)
            zone = torch.tensor([3 * zones[0][top + i] + zones[1][left + j] for i, j in places])
            apart = -100.0 * (zone[:, None] != zone[None])
            q, k, v = applied(state, f"{name}.qkv", tokens).chunk(3, dim=1)
            parts = []
            for head, (a, b, c) in enumerate(zip(*(each.chunk(heads, dim=1) for each in (q, k, v)))):
                parts.append(torch.softmax(a @ b.T / a.shape[1] ** 0.5 + bias[:, :, head] + apart, dim=1) @ c)
            window = applied(state, f"{name}.proj", torch.cat(parts, dim=1))
            found[top : top + WINDOW, left : left + WINDOW] = window.unflatten(0, (WINDOW, WINDOW))
    return torch.roll(found, (shift, shift), (0, 1))[:height, :width]
