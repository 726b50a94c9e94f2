"""Reference attention: while it denoises, a U-Net looks at what another one has seen in a reference image.

The reference U-Net writes: the input of every self-attention is kept. The denoiser reads: its self-attention
sees its own tokens and then those of the reference, which it projects itself. Both are diffusers' own U-Nets.
Processors of their attention do it all, and what they write or read comes in as ``cross_attention_kwargs``:
no state is left behind, and recomputing a block for its gradient finds the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Denoiser", "Seen", "without_head"]

Bank = dict[str, Tensor]  # block -> what its self-attention was given, (references, tokens, width)
HEAD = ("conv_norm_out", "conv_act", "conv_out")
_PROCESSOR = ".attn1.processor"


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


class Denoiser:
    """Two U-Nets of one shape as one denoiser that is told pose, identity and reference.

    Args:
        reference_unet: sees references; `without_head`, for what it predicts is not used.
        denoising_unet: predicts.
    """

    def __init__(self, reference_unet: UNet2DConditionModel, denoising_unet: UNet2DConditionModel) -> None:
        self.reference_unet, self.denoising_unet = reference_unet, denoising_unet
        for unet in (reference_unet, denoising_unet):
            unet.set_attn_processor({name: _processor(name) for name in unet.attn_processors})

    def __call__(
        self,
        noisy: Tensor,
        times: Tensor | int,
        tokens: Tensor,
        *,
        pose: Tensor | None = None,
        seen: Seen | None = None,
    ) -> Tensor:
        """The prediction for noisy latents.

        Args:
            noisy: (B, C, h, w).
            times: steps of the diffusion, (B,) or one for all.
            tokens: of identities, (B, N, width).
            pose: features (B, channels, h, w) that join the first convolution's; None for none.
            seen: references of the last rows, as many as they are; rows before them see none.

        Returns:
            (B, C, h, w).
        """
        with _added(self.denoising_unet.conv_in, pose):
            return self.denoising_unet(
                noisy, times, tokens, cross_attention_kwargs={"seen": seen}, return_dict=False
            )[0]

    def see(self, latents: Sequence[Tensor], tokens: Tensor, *, dtype: torch.dtype | None = None) -> Seen:
        """What the denoiser will see of references.

        Args:
            latents: of one reference a row, (R, C, h, w); several where a row has several.
            tokens: of their identities, (R, N, width).
            dtype: to which features are rounded in between; officially torch.float16. None: not.
        """
        banks = [self.write(each, tokens)[0] for each in latents]
        projected = {}
        for name, attention in self._self_attentions():
            features = [_rounded(bank[name], dtype) for bank in banks]
            projected[name] = _keys_and_values(attention, torch.cat(features, dim=1))
        return Seen(projected)

    def write(self, latents: Tensor, tokens: Tensor) -> tuple[Bank, Tensor]:
        """One pass of the reference U-Net: what each self-attention was given, and what comes out."""
        bank: Bank = {}
        end = self.reference_unet(
            latents, 0, tokens, cross_attention_kwargs={"bank": bank}, return_dict=False
        )[0]
        return bank, end

    def _self_attentions(self) -> Iterator[tuple[str, Attention]]:
        for name in self.denoising_unet.attn_processors:
            if name.endswith(_PROCESSOR):
                block = name.removesuffix(_PROCESSOR)
                yield block, self.denoising_unet.get_submodule(block).attn1


def without_head(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same U-Net, in place, without its last normalisation, activation and convolution."""
    for name in HEAD:
        setattr(unet, name, None if name != "conv_out" else nn.Identity())
    return unet


def _processor(name: str) -> Any:
    return _SelfAttention(name.removesuffix(_PROCESSOR)) if name.endswith(_PROCESSOR) else _CrossAttention()


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
            bank[self.block] = hidden_states
        own = _Own(_heads(attn, attn.to_q(hidden_states)), *_keys_and_values(attn, hidden_states))
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


def _keys_and_values(attention: Attention, x: Tensor) -> tuple[Tensor, Tensor]:
    return _heads(attention, attention.to_k(x)), _heads(attention, attention.to_v(x))


def _heads(attention: Attention, x: Tensor) -> Tensor:
    return x.unflatten(2, (attention.heads, -1)).transpose(1, 2)


def _rounded(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    return x if dtype is None else x.to(dtype).to(x.dtype)


@contextlib.contextmanager
def _added(layer: nn.Module, pose: Tensor | None) -> Iterator[None]:
    """Let the output of a layer grow by a pose."""
    if pose is None:
        yield
        return
    hook = layer.register_forward_hook(lambda _, __, output: output + pose.to(output.dtype))
    try:
        yield
    finally:
        hook.remove()
