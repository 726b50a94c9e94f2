"""Networks with their weights, that give the feature and see the images of which their card tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from torchreid_genext import checkpoints
from torchreid_genext.backbones import sources
from torchreid_genext.backbones.card import Preprocessing
from torchreid_genext.backbones.spec import Backbone

__all__ = ["OWN_CAMERA", "giving", "load", "seeing"]

OWN_CAMERA = -1  # an encoder's camera: each image's own, and of generated images, which have none, unknown


def load(
    backbone: Backbone,
    image_size: Sequence[int] | None,
    *,
    loss: str = "softmax",
    seed: int = 0,
    configure: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> nn.Module:
    """A network for features, with its weights, on the CPU.

    Args:
        backbone: with its card, see `Backbone.with_card`.
        image_size: height and width in pixels, of a network that is made for one size; None is its own.
        loss: as `sources.build` takes it.
        seed: of what no file fills, which is the same each time, since features are cached.
        configure: what is done to the network before it gets its weights.

    Raises:
        ValueError: as `sources.build` and `checkpoints.load_weights`, or if the card names a feature and the
            network gives but one.
        FileNotFoundError: if there is no weights file.
    """
    pretrained = backbone.pretrained and not backbone.weights
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = sources.build(
            backbone.name, 1, loss=loss, pretrained=pretrained, image_size=image_size, options=backbone.options
        )
        model = configure(model)
        if backbone.weights:
            checkpoints.load_weights(model, backbone.weights)  # may make the network anew, in another size
    return giving(model, backbone)


def giving(model: nn.Module, backbone: Backbone) -> nn.Module:
    """The same, that gives the feature that the card names.

    Raises:
        ValueError: if it gives but one.
    """
    if feature := backbone.card.feature:
        if not hasattr(model, "feature"):
            rule = f"expected no feature in the card of {backbone.label}, since {backbone.name} gives but one"
            raise ValueError(f"{rule}, got {feature!r}; leave it out")
        model.feature = feature
    return model


def seeing(seen: Preprocessing, backbone: Backbone) -> dict[str, Any]:
    """What an encoder is told of images, by the names of its arguments."""
    return {
        "height": seen.height,
        "width": seen.width,
        "norm_mean": seen.mean,
        "norm_std": seen.std,
        "interpolation": seen.interpolation,
        "resize": seen.resize,
        "camera": {"none": None, "image": OWN_CAMERA, "zero": 0}[backbone.card.camera],
    }
