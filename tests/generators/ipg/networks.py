"""IPG's networks with a few channels, and nothing zero in them."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from torchreid_genext.generators.ipg import (
    Denoiser,
    IdentityProjector,
    IPGPipeline,
    PoseGuider,
    TransReID,
    official_scheduler,
    without_head,
)

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


def vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4, 8), norm_num_groups=2, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()  # fmt: skip


def pipeline(seed: int = 0) -> IPGPipeline:
    """Pictures of 16 x 8 pixels."""
    torch.manual_seed(seed)
    guider = PoseGuider(CHANNELS[0], (4, 6))
    torch.nn.init.normal_(guider.conv_out.weight)
    networks = (
        vae(),
        unet(),
        unet(),
        guider,
        IdentityProjector(5 * 8, TOKENS, WIDTH),
        TransReID((64, 32), width=8, depth=1, heads=2),
    )
    made = IPGPipeline(*(network.eval() for network in networks), scheduler=official_scheduler())
    made.set_progress_bar_config(disable=True)
    return made
