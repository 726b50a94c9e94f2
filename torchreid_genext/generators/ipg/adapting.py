"""Networks of any kind as parts of a pipeline, which asks for more than PyTorch's modules have."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

from torchreid_genext.generators.ipg.autoencoding import shrink

__all__ = ["Adapted", "autoencoder", "identity_encoder"]


class Adapted(ModelMixin):
    """A network with the device and precision for which pipelines of diffusers ask.

    Attributes:
        network: it; what this has not, that has.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        if next(network.parameters(), None) is None:
            self.unused = nn.Parameter(torch.zeros(()), requires_grad=False)  # tells device and dtype
        self.training = network.training

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """What the network gives."""
        return self.network(*inputs, **options)

    @apply_forward_hook
    def encode(self, *inputs: Any, **options: Any) -> Any:
        """What the network gives."""
        return self.network.encode(*inputs, **options)

    @apply_forward_hook
    def decode(self, *inputs: Any, **options: Any) -> Any:
        """What the network gives."""
        return self.network.decode(*inputs, **options)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)


def identity_encoder(network: Any) -> nn.Module:
    """An identity encoder, ready for a pipeline.

    Raises:
        ValueError: if it does not tell what a pipeline has to know.
    """
    size = getattr(network, "image_size", None)
    if not isinstance(network, nn.Module) or not _is_size(size):
        rule = "expected a reid_encoder that is a module with image_size, (height, width) in pixels"
        raise ValueError(f"{rule}, got {type(network).__name__} with image_size {size}")
    return _adapted(network)


def autoencoder(network: Any) -> nn.Module:
    """An autoencoder, ready for a pipeline.

    Raises:
        ValueError: if it does not tell what a pipeline has to know.
    """
    lacking = [name for name in ("encode", "decode") if not callable(getattr(network, name, None))]
    config = getattr(network, "config", None)
    lacking += [] if hasattr(config, "scaling_factor") else ["config.scaling_factor"]
    lacking += [] if shrink(network) else ["shrink"]
    if lacking or not isinstance(network, nn.Module):
        rule = (
            "expected a vae that is a module with encode, decode, config.scaling_factor and shrink,"
            " pixels of an image by those of its latents"
        )
        without = f" without {', '.join(lacking)}" if lacking else ", which is none"
        raise ValueError(f"{rule}, got {type(network).__name__}{without}")
    return _adapted(network)


def _is_size(size: Any) -> bool:
    return isinstance(size, (tuple, list)) and len(size) == 2 and all(isinstance(each, int) for each in size)


def _adapted(network: nn.Module) -> nn.Module:
    return network if hasattr(network, "dtype") and hasattr(network, "device") else Adapted(network)
