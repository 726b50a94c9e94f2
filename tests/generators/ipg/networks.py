"""IPG's networks with a few channels, and nothing zero in them."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel

from torchreid_genext.generators.ipg import Denoiser, without_head

CHANNELS, TOKENS, WIDTH, SIZE = (8, 16), 3, 12, (8, 4)


def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=CHANNELS, layers_per_block=1, norm_num_groups=4,
        attention_head_dim=2, cross_attention_dim=WIDTH,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()  # fmt: skip


def denoiser(seed: int = 0) -> Denoiser:
    torch.manual_seed(seed)
    return Denoiser(without_head(unet()), unet())


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
