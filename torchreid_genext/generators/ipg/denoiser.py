"""The denoiser of IPG: two U-Nets of one shape, of which one sees references and the other predicts."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from torchreid_genext.generators.ipg.attention import (
    Bank,
    Seen,
    keys_and_values,
    processor,
    self_attentions,
    strangers,
)

__all__ = ["IPGDenoiser", "without_head", "without_private"]

_PARTS = ("reference_unet", "denoising_unet")
_HEAD = ("conv_norm_out", "conv_act", "conv_out")


class IPGDenoiser(ModelMixin, ConfigMixin):
    """Two U-Nets as one denoiser that is told pose, identity and reference.

    Args:
        unet: the configuration of both, as of diffusers' UNet2DConditionModel.

    Attributes:
        reference_unet: sees references; it has no head, for what it predicts is not used.
        denoising_unet: predicts. Another one can be put in place of each.
    """

    _no_split_modules = UNet2DConditionModel._no_split_modules
    _supports_group_offloading = False  # blocks are not all that is run: `see` projects by itself

    @register_to_config
    def __init__(self, unet: Mapping[str, Any]) -> None:
        super().__init__()
        self.reference_unet = without_head(UNet2DConditionModel.from_config(dict(unet)))
        self.denoising_unet = UNet2DConditionModel.from_config(dict(unet))

    @classmethod
    def from_unets(
        cls, reference_unet: UNet2DConditionModel, denoising_unet: UNet2DConditionModel
    ) -> IPGDenoiser:
        """The denoiser of these two, not of copies; the first loses its head.

        Raises:
            ValueError: if one is no U-Net of diffusers, or they have other blocks.
        """
        with torch.device("meta"):  # networks without memory, which only hold a place
            made = cls(without_private(denoising_unet.config))
        del made.reference_unet, made.denoising_unet
        made.reference_unet, made.denoising_unet = without_head(reference_unet), denoising_unet
        made.training = denoising_unet.training
        return made

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> IPGDenoiser:
        """As of every model of diffusers; also from a folder that has each U-Net in a folder of its own."""
        folder = _apart(pretrained_model_name_or_path, options)
        if folder is None:
            return super().from_pretrained(pretrained_model_name_or_path, **options)
        options |= {"subfolder": None}
        kinds = (_Headless, UNet2DConditionModel)
        return cls.from_unets(
            *(kind.from_pretrained(folder / part, **options) for kind, part in zip(kinds, _PARTS))
        )

    @classmethod
    def load_config(cls, pretrained_model_name_or_path: str | Path, *args: Any, **options: Any) -> Any:
        """As of every model of diffusers; likewise also from U-Nets in folders of their own."""
        folder = _apart(pretrained_model_name_or_path, options)
        if folder is None:
            return super().load_config(pretrained_model_name_or_path, *args, **options)
        found = super().load_config(folder / _PARTS[1], *args, **options | {"subfolder": None})
        config, *others = found if isinstance(found, tuple) else (found,)
        config = {"unet": without_private(config)}
        return (config, *others) if others else config

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, self._prepared(name, value) if name in _PARTS else value)

    def _prepared(self, name: str, unet: Any) -> UNet2DConditionModel:
        """With reference attention, and the denoising one with room for a pose."""
        if not isinstance(getattr(unet, "conv_in", None), nn.Conv2d):
            raise ValueError(f"expected a UNet2DConditionModel as {name}, got {type(unet).__name__}")
        other = self._modules.get(_PARTS[name == _PARTS[0]])
        if other is not None and other.attn_processors.keys() != unet.attn_processors.keys():
            raise ValueError(f"expected a {name} with the blocks of the other U-Net, got one with others")
        unet.set_attn_processor({place: processor(place) for place in unet.attn_processors})
        if name == "denoising_unet" and not isinstance(unet.conv_in, _PosedConv):
            unet.conv_in = _PosedConv.like(unet.conv_in)
        return unet

    def check(self) -> None:
        """Raise ValueError if reference attention was replaced, as slicing and fused projections do."""
        for part in _PARTS:
            if found := strangers(getattr(self, part)):
                rule = f"expected reference attention in {part}, which has no slices and fuses nothing"
                cure = f"denoiser.{part} = denoiser.{part} brings it back"
                raise ValueError(f"{rule}, got {found[0]}; {cure}")

    def forward(
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
        if pose is not None:
            noisy = torch.cat([noisy, pose.to(noisy.dtype)], dim=1)
        told = {"seen": seen}
        return self.denoising_unet(noisy, times, tokens, cross_attention_kwargs=told, return_dict=False)[0]

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
            projected[name] = keys_and_values(attention, torch.cat(features, dim=1))
        return Seen(projected)

    @apply_forward_hook
    def write(self, latents: Tensor, tokens: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """One pass of the reference U-Net: what each self-attention was given, and what comes out."""
        bank, start = Bank(), torch.zeros((), dtype=torch.int64, device=latents.device)
        end = self.reference_unet(
            latents, start, tokens, cross_attention_kwargs={"bank": bank}, return_dict=False
        )[0]
        return bank.features, end

    def _self_attentions(self) -> Iterator[tuple[str, Attention]]:
        for block in self_attentions(self.denoising_unet):
            yield block, self.denoising_unet.get_submodule(block).attn1


def without_private(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of diffusers, without what says of which class and version it is."""
    return {name: value for name, value in config.items() if not name.startswith("_")}


def without_head(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same U-Net, in place, without its last normalisation, activation and convolution."""
    for name in _HEAD:
        setattr(unet, name, None if name != "conv_out" else nn.Identity())
    return unet


class _Headless(UNet2DConditionModel):
    """To be filled from files that have no head."""

    @functools.wraps(UNet2DConditionModel.__init__)
    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        without_head(self)


class _PosedConv(nn.Conv2d):
    """The first convolution of a U-Net; further channels of its input are added to what it gives."""

    @classmethod
    def like(cls, layer: nn.Conv2d) -> _PosedConv:
        """With the same weights, not with copies."""
        sizes = (layer.in_channels, layer.out_channels, layer.kernel_size)
        made = nn.utils.skip_init(cls, *sizes, padding=layer.padding, device="meta")
        made.weight, made.bias = layer.weight, layer.bias
        return made

    def forward(self, x: Tensor) -> Tensor:
        latents, pose = x[:, : self.in_channels], x[:, self.in_channels :]
        features = super().forward(latents)
        return features + pose.to(features.dtype) if pose.shape[1] else features


def _apart(folder: str | Path, options: Mapping[str, Any]) -> Path | None:
    """The folder that has the U-Nets side by side, as pipelines were saved before they had a denoiser."""
    path = Path(folder, options.get("subfolder") or "")
    for place in (path, path.parent):
        if not (path / "config.json").is_file() and all((place / part).is_dir() for part in _PARTS):
            return place
    return None


def _rounded(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    return x if dtype is None else x.to(dtype).to(x.dtype)
