"""Models of timm with torchreid's manners: ViT, Swin, DINOv2 and v3, CLIP, ConvNeXt and what else it has."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchreid_genext.backbones import names, solider
from torchreid_genext.backbones.necks import Necked
from torchreid_genext.backbones.packages import needed

__all__ = ["POOLS", "TimmBackbone", "check_name"]

POOLS = ("", "token", "mean", "both")
_log = logging.getLogger(__name__)
_NAMES = (("bottleneck.", "necks.0."), ("classifier.weight", "classifier.0.weight"))
# Of CLIP-ReID beside the image encoder, and of ImageNet's classes.
_UNUSED = (
    "text_encoder.", "prompt_learner.", "proj", "cv_embed", "classifier_proj.", "bottleneck_proj.", "head.",
    "fc.", "pre_logits.", "logit_scale",
)  # fmt: skip
_WHOSE = "models named timm:"


class TimmBackbone(Necked):
    """A network of timm without its classes, with a BNNeck and a classifier.

    Args:
        name: timm's, such as ``vit_base_patch16_224.augreg_in21k``.
        num_classes, loss, feature: as `Necked` takes them.
        pretrained: whether timm fetches its weights.
        image_size: height and width in pixels; position embeddings are made for it.
        semantic: of SOLIDER's files: the weight of meaning against appearance, 0 .. 1; 0.2 is its authors'.
        pool: the feature: ``""`` as timm pools, ``token`` (of the class), ``mean`` of the patches, or
            ``both``, one behind the other.
        options: of ``timm.create_model``.

    Raises:
        ImportError: if timm is missing; the message names the cure.
        ValueError: if timm has no such model, cannot fetch its weights, or the model no class token.
    """

    def __init__(
        self,
        name: str,
        num_classes: int = 1,
        loss: str = "softmax",
        feature: str = "before",
        *,
        pretrained: bool = False,
        image_size: Sequence[int] = (256, 128),
        pool: str = "",
        semantic: float = 0.2,
        **options: Any,
    ) -> None:
        if pool not in POOLS:
            raise ValueError(f"unknown pool {pool!r}; choose from {', '.join(filter(None, POOLS))}")
        if not 0 <= semantic <= 1:
            raise ValueError(f"expected semantic in 0..1, got {semantic}")
        body = _created(name, pretrained, tuple(image_size), options)
        if pool and getattr(body, "num_prefix_tokens", 0) < 1:
            raise ValueError(f"expected a model with a class token for pool {pool!r}, got timm:{name}")
        width = getattr(body, "head_hidden_size", None) or body.num_features
        super().__init__([width * (2 if pool == "both" else 1)], num_classes, loss, feature)
        self.body, self.pool, self.name, self.semantic = body, pool, name, semantic
        self._made = {"size": tuple(image_size), "options": options}

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What timm's own weights were trained with, as keys of `Preprocessing`."""
        known = self.body.pretrained_cfg
        return {name: known[name] for name in ("mean", "std", "interpolation") if known.get(name)}

    def forward(self, x: Tensor) -> Tensor | tuple[Any, Any]:
        """Images (B, 3, H, W) to features (B, D); while training as `Necked` says."""
        return self.answer([self._pooled(self.body.forward_features(x))])

    def _pooled(self, tokens: Tensor) -> Tensor:
        if not self.pool:
            return self.body.forward_head(tokens, pre_logits=True)
        token, mean = tokens[:, 0], tokens[:, self.body.num_prefix_tokens :].mean(1)
        return {"token": token, "mean": mean}.get(self.pool, torch.cat([token, mean], dim=1))

    def adapt(self, metadata: Mapping[str, Any], state: Mapping[str, Tensor], source: str | Path) -> None:
        """Become SOLIDER's kind of Swin for its weights; raises ValueError if this is no Swin."""
        if solider.is_solider(state):
            options = {**self._made["options"], "always_partition": True}
            solider.check(self.body, self.name)
            self.body = solider.prepared(_created(self.name, False, self._made["size"], options))

    def translated(self, state: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
        """Tensors of a file under this network's names: timm's own, CLIP's, CLIP-ReID's, TransReID's, SOLIDER's."""
        if solider.is_solider(state):
            state = solider.as_timm(state, self.semantic, source)
        own = self.body.state_dict()
        if any(name.endswith("class_embedding") for name in state):
            state = names.from_clip(names.peeled(state, ("class_embedding",)))
        state = names.renamed(names.peeled_like(state, own), _NAMES)
        state = names.without(state, _UNUSED, source, but=own)
        heads = ("necks.", "classifier.")
        state = {name if name.startswith(heads) else f"body.{name}": x for name, x in state.items()}
        return self.completed(self._at_this_size(state), source)

    def _at_this_size(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """With the position embeddings of a transformer for images of this size."""
        name, own = "body.pos_embed", self.state_dict().get("body.pos_embed")
        if own is None or name not in state or state[name].shape == own.shape:
            return state
        new, patch = tuple(self.body.patch_embed.grid_size), self.body.patch_embed.patch_size[0]
        first = own.shape[1] - new[0] * new[1]  # tokens of the class and registers that have a position
        old, _ = names.grid_of(state[name].shape[1] - first, (0, 0), patch)
        _log.info("position embeddings of %d x %d patches become those of %d x %d", *old, *new)
        return {**state, name: names.resized_positions(state[name], old, new)}


def check_name(name: str) -> None:
    """Tell at once whether timm is there and knows a model; raises as `TimmBackbone`."""
    timm, bare = needed("timm", _WHOSE), name.partition(".")[0]
    if not timm.is_model(bare) and "/" not in name:  # a name with a slash is one of a hub
        near = difflib.get_close_matches(bare, timm.list_models(), n=3)
        cure = f"; near are {', '.join(near)}" if near else ""
        raise ValueError(f"expected a model that timm {timm.__version__} knows, got {name!r}{cure}")


def _created(name: str, pretrained: bool, size: tuple[int, ...], options: Mapping[str, Any]) -> nn.Module:
    check_name(name)
    create = needed("timm", _WHOSE).create_model
    try:
        try:
            return create(name, pretrained, num_classes=0, img_size=size, **options)
        except TypeError:  # convolutions take images of any size, and know no such argument
            return create(name, pretrained, num_classes=0, **options)
    except TypeError as error:
        raise ValueError(
            f"expected options that timm's {name} takes, got {dict(options)}: {error}"
        ) from error
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        cure = "name a file, or set model.pretrained False for random weights"
        raise ValueError(f"expected timm's {name} for {size}, got {reason}; {cure}") from error
