"""What IPG is told: the pose as a feature map, the identity as tokens."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["IdentityProjector", "PoseGuider"]


class PoseGuider(ModelMixin, ConfigMixin):
    """A drawn skeleton to what is added to the noisy latents' first features.

    Args:
        channels: of the result, as many as the denoiser's first level has.
        widths: of the levels; each but the first halves height and width.
    """

    @register_to_config
    def __init__(self, channels: int = 320, widths: Sequence[int] = (16, 32, 64, 128)) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for width, wider in zip(widths, widths[1:]):
            self.blocks.append(nn.Conv2d(width, width, 3, padding=1))
            self.blocks.append(nn.Conv2d(width, wider, 3, padding=1, stride=2))
        self.conv_out = nn.Conv2d(widths[-1], channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)  # training starts from a denoiser that knows no poses
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, poses: Tensor) -> Tensor:
        """Pictures of skeletons (B, 3, H, W) in [0, 1] to (B, channels, H / 8, W / 8), with four widths."""
        x = F.silu(self.conv_in(poses))
        for block in self.blocks:
            x = F.silu(block(x))
        return self.conv_out(x)


class IdentityProjector(ModelMixin, ConfigMixin):
    """Features of identity to tokens for cross-attention, officially "IFR".

    Args:
        features: their width. tokens: how many. width: of each.
    """

    @register_to_config
    def __init__(self, features: int = 3840, tokens: int = 20, width: int = 768) -> None:
        super().__init__()
        self.projection = nn.Linear(features, tokens * width)
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, F) to tokens (B, tokens, width)."""
        return self.norm(self.projection(features).unflatten(1, (self.config.tokens, -1)))
