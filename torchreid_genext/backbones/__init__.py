"""Our own architectures as torchreid models, by the names under which ``register()`` adds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["MODELS"]


def _genid(num_classes: int, loss: str = "softmax", pretrained: bool = False, use_gpu: bool = False) -> Any:
    from torchreid_genext.backbones.identity import IdentityBackbone

    return IdentityBackbone(num_classes, loss)


def _genid_refined(
    num_classes: int, loss: str = "softmax", pretrained: bool = False, use_gpu: bool = False
) -> Any:
    from torchreid_genext.backbones.identity import RefinedIdentityBackbone

    return RefinedIdentityBackbone(num_classes, loss)


def _transreid(
    num_classes: int, loss: str = "softmax", pretrained: bool = False, use_gpu: bool = False, **options: Any
) -> Any:
    from torchreid_genext.backbones.transreid import TransReIDBackbone

    return TransReIDBackbone(num_classes, loss, **options)


# name -> factory, called by torchreid with ``num_classes, loss, pretrained, use_gpu``
MODELS: Mapping[str, Callable[..., Any]] = {
    "genid": _genid,
    "genid_refined": _genid_refined,
    "transreid": _transreid,
}
