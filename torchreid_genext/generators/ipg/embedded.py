"""Parts that let IPG be small: an autoencoder without weights, any torchreid model as identity encoder."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_genext import compat

__all__ = ["PatchAutoencoder", "TorchreidEncoder"]

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """In place of a VAE, where images are so small that a U-Net sees their pixels: patches become channels.

    Args:
        patch: height and width of one, a power of 2.
        scaling_factor: of the latents, so that they spread about as much as noise does.
    """

    @register_to_config
    def __init__(self, patch: int = 2, scaling_factor: float = 2.0) -> None:
        super().__init__()
        levels = patch.bit_length()
        if patch != 2 ** (levels - 1):
            raise ValueError(f"expected a patch that is a power of 2, got {patch}")
        self.register_to_config(latent_channels=3 * patch**2, block_out_channels=(3,) * levels)
        self.unused = nn.Parameter(torch.zeros(()), requires_grad=False)  # tells device and dtype

    def encode(self, images: Tensor) -> SimpleNamespace:
        """Images (B, 3, H, W) to ``latent_dist.mode()``, which is (B, 3 patch^2, H / patch, W / patch)."""
        latents = F.pixel_unshuffle(images, self.config.patch)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))

    def decode(self, latents: Tensor, return_dict: bool = True) -> SimpleNamespace | tuple[Tensor]:
        """The inverse."""
        images = F.pixel_shuffle(latents, self.config.patch)
        return SimpleNamespace(sample=images) if return_dict else (images,)


class TorchreidEncoder(ModelMixin, ConfigMixin):
    """The features of a torchreid model, as identity encoder; always in evaluation mode.

    Args:
        name: of the model, which may be one of ours once registered.
        image_size: height and width of its images.
        mean, std: by which it wants images in [0, 1] normalised, (3,) each.
    """

    @register_to_config
    def __init__(
        self,
        name: str = "osnet_x0_25",
        image_size: Sequence[int] = (256, 128),
        mean: Sequence[float] = _IMAGENET_MEAN,
        std: Sequence[float] = _IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.network = compat.build_model(name, 1).eval()
        self.image_size = tuple(image_size)

    def train(self, mode: bool = True) -> TorchreidEncoder:
        """Stay as it is: torchreid's models give logits when they are trained."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to features (B, F)."""
        mean, std = (images.new_tensor(self.config[name])[:, None, None] for name in ("mean", "std"))
        return self.network((images / 2 + 0.5 - mean) / std)
