"""Images to latents and back, some at a time: at the official size one takes half a gigabyte in float32."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from torch import Tensor, nn

__all__ = ["decode", "encode", "shrink"]

_PIXELS = 2**19  # at a time: 4 pictures of the official size


def shrink(autoencoder: Any) -> int:
    """Height of an image by that of its latents; 0 if an autoencoder does not tell."""
    levels = getattr(getattr(autoencoder, "config", None), "block_out_channels", ())
    return getattr(autoencoder, "shrink", None) or (2 ** (len(levels) - 1) if levels else 0)


def encode(autoencoder: nn.Module, images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] to scaled latents, the means of their distributions."""
    parts = images.split(_count(images, 1))
    latents = torch.cat([_mean(autoencoder.encode(part)) for part in parts])
    return latents * autoencoder.config.scaling_factor


def decode(autoencoder: nn.Module, latents: Tensor) -> Tensor:
    """Scaled latents to images in [-1, 1], as float32."""
    latents = (latents / autoencoder.config.scaling_factor).to(autoencoder.dtype)
    parts = latents.split(_count(latents, shrink(autoencoder)))
    return torch.cat([autoencoder.decode(part, return_dict=False)[0].float() for part in parts])


def _mean(found: Any) -> Tensor:
    return found.latents if isinstance(found, AutoencoderTinyOutput) else found.latent_dist.mode()


def _count(x: Tensor, shrunk: int) -> int:
    """How many at a time of images whose height and width are these, times `shrunk`."""
    return max(1, _PIXELS // (x.shape[2] * x.shape[3] * shrunk**2))
