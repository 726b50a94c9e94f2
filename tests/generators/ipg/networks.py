"""IPG's networks with a few channels, and nothing zero in them."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from torchreid_genext.generators.ipg import (
    IdentityProjector,
    IPGDenoiser,
    IPGPipeline,
    PatchAutoencoder,
    PoseGuider,
    PrincipalAutoencoder,
    TorchreidEncoder,
    TransReID,
    official_scheduler,
)

CHANNELS, TOKENS, WIDTH, SIZE = (8, 16), 3, 12, (8, 4)


def unet(channels: int = 4) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8, in_channels=channels, out_channels=channels, block_out_channels=CHANNELS,
        layers_per_block=1, norm_num_groups=4,
        attention_head_dim=2, cross_attention_dim=WIDTH,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()  # fmt: skip


def denoiser(seed: int = 0) -> IPGDenoiser:
    torch.manual_seed(seed)
    return IPGDenoiser.from_unets(unet(), unet())


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4, 8), norm_num_groups=2, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()  # fmt: skip


def pipeline(seed: int = 0) -> IPGPipeline:
    """Pictures of 16 x 8 pixels, by a tiny VAE and a tiny TransReID."""
    torch.manual_seed(seed)
    guider, encoder = PoseGuider(CHANNELS[0], (4, 6)), TransReID((64, 32), width=8, depth=1, heads=2)
    return assembled(vae(), guider, IdentityProjector(5 * 8, TOKENS, WIDTH), encoder)


def embedded(seed: int = 0) -> IPGPipeline:
    """Pictures of 16 x 8 pixels, without a VAE and with a torchreid model."""
    torch.manual_seed(seed)
    guider, encoder = PoseGuider(CHANNELS[0], (4, 6)), TorchreidEncoder(image_size=(32, 16))
    return assembled(PatchAutoencoder(), guider, IdentityProjector(512, TOKENS, WIDTH), encoder)


def principal(seed: int = 0) -> IPGPipeline:
    """The same, with principal components for latents."""
    torch.manual_seed(seed)
    guider, encoder = PoseGuider(CHANNELS[0], (4, 6)), TorchreidEncoder(image_size=(32, 16))
    autoencoder = PrincipalAutoencoder(2, 6).fit(random(8, 3, 16, 8))
    return assembled(autoencoder, guider, IdentityProjector(512, TOKENS, WIDTH), encoder)


def assembled(
    autoencoder: Any, guider: PoseGuider, projector: IdentityProjector, encoder: Any
) -> IPGPipeline:
    torch.nn.init.normal_(guider.conv_out.weight)
    channels = vars(autoencoder).get("latent_channels", 4)
    both = IPGDenoiser.from_unets(unet(channels), unet(channels))
    networks = (autoencoder, both, guider, projector, encoder)
    made = IPGPipeline(*(network.eval() for network in networks), scheduler=official_scheduler())
    made.set_progress_bar_config(disable=True)
    return made
