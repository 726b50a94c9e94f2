"""Reference attention: while it denoises, a U-Net looks at what another one has seen in a reference image.

The reference U-Net writes: the input of every self-attention is kept. The denoiser reads: its self-attention
sees its own tokens and then those of the reference, which it projects itself. Both are diffusers' own U-Nets.
Processors of their attention do it all, and what they write or read comes in as ``cross_attention_kwargs``:
no state is left behind, and recomputing a block for its gradient finds the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Bank", "Seen", "keys_and_values", "processor", "self_attentions", "strangers"]

_PROCESSOR = ".attn1.processor"


class Bank:
    """What self-attentions were given; no dict, of which hooks of accelerate would fill a copy.

    Attributes:
        features: block -> (references, tokens, width).
    """

    def __init__(self) -> None:
        self.features: dict[str, Tensor] = {}


class Seen:
    """Keys and values of references, for each self-attention of a denoiser.

    Attributes:
        projected: block -> keys and values (references, heads, tokens, width of a head).
    """

    def __init__(self, projected: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        self.projected = dict(projected)

    def __len__(self) -> int:
        """How many references there are."""
        return len(next(iter(self.projected.values()))[0])

    def __getitem__(self, rows: Tensor) -> Seen:
        """References in the order of these rows (N,) int64, any of them any number of times."""
        return Seen({name: (keys[rows], values[rows]) for name, (keys, values) in self.projected.items()})

    @classmethod
    def cat(cls, parts: Sequence[Seen]) -> Seen:
        """The references of all parts."""
        names = parts[0].projected
        return cls(
            {name: tuple(map(torch.cat, zip(*(part.projected[name] for part in parts)))) for name in names}
        )


def processor(name: str) -> Any:
    """Of the attention at this place, a key of a U-Net's `attn_processors`."""
    return _SelfAttention(name.removesuffix(_PROCESSOR)) if name.endswith(_PROCESSOR) else _CrossAttention()


def self_attentions(unet: UNet2DConditionModel) -> list[str]:
    """The blocks of a U-Net that look at references."""
    return [name.removesuffix(_PROCESSOR) for name in unet.attn_processors if name.endswith(_PROCESSOR)]


def strangers(unet: UNet2DConditionModel) -> list[str]:
    """The kinds of its processors that are not ours."""
    found = unet.attn_processors.values()
    return [type(each).__name__ for each in found if not isinstance(each, (_SelfAttention, _CrossAttention))]


class _SelfAttention:
    """Writes into a bank what it is given, or reads beside it what others have written."""

    def __init__(self, block: str) -> None:
        self.block = block

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        *,
        bank: Bank | None = None,
        seen: Seen | None = None,
    ) -> Tensor:
        if bank is not None:
            bank.features[self.block] = hidden_states
        own = _Own(_heads(attn, attn.to_q(hidden_states)), *keys_and_values(attn, hidden_states))
        x = (
            F.scaled_dot_product_attention(*own)
            if seen is None
            else _beside(own, *seen.projected[self.block])
        )
        return attn.to_out[1](attn.to_out[0](x.transpose(1, 2).flatten(2)))


class _CrossAttention(AttnProcessor2_0):
    """diffusers' own, which would warn of what is meant for self-attention."""

    def __call__(
        self, *args: Any, bank: Bank | None = None, seen: Seen | None = None, **kwargs: Any
    ) -> Tensor:
        return super().__call__(*args, **kwargs)


class _Own(NamedTuple):
    """(B, heads, tokens, width of a head) each."""

    query: Tensor
    key: Tensor
    value: Tensor


def _beside(own: _Own, keys: Tensor, values: Tensor) -> Tensor:
    """Attention to own tokens; of the last rows, also to those of their references."""
    plain = len(own.query) - len(keys)
    alone, q, k, v = (own.query[:plain], own.key[:plain], own.value[:plain]), *(each[plain:] for each in own)
    x = F.scaled_dot_product_attention(q, torch.cat([k, keys], dim=2), torch.cat([v, values], dim=2))
    return torch.cat([F.scaled_dot_product_attention(*alone), x]) if plain else x


def keys_and_values(attention: Attention, x: Tensor) -> tuple[Tensor, Tensor]:
    """Of features (B, tokens, width), (B, heads, tokens, width of a head) each."""
    return _heads(attention, attention.to_k(x)), _heads(attention, attention.to_v(x))


def _heads(attention: Attention, x: Tensor) -> Tensor:
    return x.unflatten(2, (attention.heads, -1)).transpose(1, 2)
