"""The official identity encoder: TransReID without side information (He et al., ICCV 2021).

A vision transformer whose patches overlap; beside the whole image it describes four shuffled parts of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["TransReID"]

_PARTS = 4
_PATCH = 16


class TransReID(ModelMixin, ConfigMixin):
    """Images to features of identity: one of the whole image and one of each of four parts.

    Args:
        image_size: height and width in pixels.
        stride: of the patches, which are 16 pixels high and wide.
        width: of a token.
        depth: blocks before those of the heads; 11 of the 12 in the official file, which never runs its last.
        heads: of an attention.
        shift: by how many patches the sequence is turned before it is shuffled.
        groups: of the shuffle.
    """

    @register_to_config
    def __init__(
        self,
        image_size: Sequence[int] = (256, 128),
        stride: Sequence[int] = (12, 12),
        width: int = 768,
        depth: int = 11,
        heads: int = 12,
        shift: int = 5,
        groups: int = 2,
    ) -> None:
        super().__init__()
        rows, columns = ((size - _PATCH) // step + 1 for size, step in zip(image_size, stride, strict=True))
        self.patches = nn.Conv2d(3, width, _PATCH, tuple(stride))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + rows * columns, width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.whole = nn.Sequential(_Block(width, heads), nn.LayerNorm(width, eps=1e-6))
        self.part = nn.Sequential(_Block(width, heads), nn.LayerNorm(width, eps=1e-6))
        self.image_size, self.shift, self.groups = tuple(image_size), shift, groups

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to features (B, 5 width), not normalised.

        Raises:
            ValueError: if the images have another size.
        """
        if tuple(images.shape[1:]) != (3, *self.image_size):
            wanted = ", ".join(map(str, (3, *self.image_size)))
            raise ValueError(f"expected images (B, {wanted}), got {tuple(images.shape)}")
        whole, parts = self.described(self.tokens(images))
        return torch.cat([whole, parts.flatten(1) / _PARTS], dim=1)

    def described(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What both heads say of tokens: of the whole image (B, width), and of its parts (B, 4, width)."""
        cls, patches = tokens[:, :1], self.shuffled(tokens[:, 1:])
        length = (tokens.shape[1] - 1) // _PARTS
        parts = patches[:, : _PARTS * length].unflatten(1, (_PARTS, length))
        parts = torch.cat([cls[:, None].expand(-1, _PARTS, -1, -1), parts], dim=2)
        return self.whole(tokens)[:, 0], self.part(parts.flatten(0, 1))[:, 0].unflatten(0, (-1, _PARTS))

    def tokens(self, images: Tensor, side: Tensor | float = 0.0) -> Tensor:
        """What both heads describe, (B, 1 + patches, width); `side` (B, 1, width) is told to every token."""
        patches = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1) + self.pos_embed + side
        for block in self.blocks:
            x = block(x)
        return x

    def shuffled(self, patches: Tensor) -> Tensor:
        """Patches (B, N, width), turned and interleaved, so that each part has some of everywhere."""
        turned = patches.roll(1 - self.shift, dims=1)
        if turned.shape[1] % self.groups:
            turned = torch.cat([turned, turned[:, -2:-1]], dim=1)
        return turned.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


class _Block(nn.Module):
    """Attention and two dense layers, each after a normalisation and beside an identity."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = _Attention(width, heads), _Dense(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _Dense(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))
