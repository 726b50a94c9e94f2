"""Parts that let IPG be small: autoencoders without training, any torchreid model as identity encoder."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_genext import compat

__all__ = ["PatchAutoencoder", "PrincipalAutoencoder", "TorchreidEncoder"]

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
        _check_patch(patch)
        self.shrink, self.latent_channels = patch, 3 * patch**2
        self.unused = nn.Parameter(torch.zeros(()), requires_grad=False)  # tells device and dtype

    @apply_forward_hook
    def encode(self, images: Tensor) -> SimpleNamespace:
        """Images (B, 3, H, W) to ``latent_dist.mode()``, which is (B, 3 patch^2, H / patch, W / patch)."""
        latents = F.pixel_unshuffle(images, self.config.patch)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))

    @apply_forward_hook
    def decode(self, latents: Tensor, return_dict: bool = True) -> SimpleNamespace | tuple[Tensor]:
        """The inverse."""
        images = F.pixel_shuffle(latents, self.config.patch)
        return SimpleNamespace(sample=images) if return_dict else (images,)


class PrincipalAutoencoder(ModelMixin, ConfigMixin):
    """In place of a VAE: the principal components of patches, scaled towards equal spread.

    What an image loses is what most patches lack; with 32 components of 8 x 8 pixels that is hardly seen.

    Args:
        patch: height and width of one, a power of 2.
        latent_channels: components that are kept, at most 3 patch^2.
        scaling_factor: of the latents; 1, since `fit` has scaled them.
    """

    @register_to_config
    def __init__(self, patch: int = 8, latent_channels: int = 32, scaling_factor: float = 1.0) -> None:
        super().__init__()
        _check_patch(patch)
        if not 1 <= latent_channels <= 3 * patch**2:
            raise ValueError(f"expected latent_channels in 1..{3 * patch**2}, got {latent_channels}")
        self.shrink, self.latent_channels = patch, latent_channels
        self.encoder = nn.Conv2d(3, latent_channels, patch, stride=patch)
        self.decoder = nn.ConvTranspose2d(latent_channels, 3, patch, stride=patch)
        self.requires_grad_(False)

    @torch.no_grad()
    def fit(self, images: Tensor, *, whitening: float = 0.7) -> PrincipalAutoencoder:
        """Find the components.

        Args:
            images: (N, 3, H, W) in [-1, 1], some hundreds.
            whitening: 0 leaves each component its spread, 1 gives all the same; in both cases the mean square
                of a latent is 1. Components of little spread are detail, which noise soon hides.

        Returns:
            Itself.
        """
        mean = images.double().mean(dim=(0, 2, 3))
        centred = images.double() - mean[:, None, None]
        patches = F.pixel_unshuffle(centred, self.config.patch).transpose(0, 1).flatten(1)
        variances, components = torch.linalg.eigh(patches @ patches.T / patches.shape[1])
        kept = self.config.latent_channels
        spread, components = variances.flip(0)[:kept].clamp(min=1e-12).sqrt(), components.flip(1)[:, :kept].T
        scale = spread**-whitening / (spread ** (1 - whitening)).square().mean().sqrt()
        components = components.reshape_as(self.encoder.weight)
        self.encoder.weight.copy_(scale[:, None, None, None] * components)
        self.encoder.bias.copy_(-scale * (components.sum(dim=(2, 3)) @ mean))
        self.decoder.weight.copy_(components / scale[:, None, None, None])
        self.decoder.bias.copy_(mean)
        return self

    def loudness(self) -> Tensor:
        """How much each channel changes an image, (latent_channels,)."""
        return self.decoder.weight.flatten(1).norm(dim=1)

    @apply_forward_hook
    def encode(self, images: Tensor) -> SimpleNamespace:
        """Images (B, 3, H, W) to ``latent_dist.mode()``, (B, latent_channels, H / patch, W / patch)."""
        latents = self.encoder(images)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))

    @apply_forward_hook
    def decode(self, latents: Tensor, return_dict: bool = True) -> SimpleNamespace | tuple[Tensor]:
        """Back to images, but for the components that were left out."""
        images = self.decoder(latents)
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
        for name, values in (("shift", mean), ("spread", std)):  # else each call would copy them there
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def train(self, mode: bool = True) -> TorchreidEncoder:
        """Stay as it is: torchreid's models give logits when they are trained."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to features (B, F)."""
        return self.network((images / 2 + 0.5 - self.shift) / self.spread)


def _check_patch(patch: int) -> None:
    if patch < 1 or patch & (patch - 1):
        raise ValueError(f"expected a patch that is a power of 2, got {patch}")
