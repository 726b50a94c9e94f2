"""Our own architectures as torchreid models, by the names under which ``register()`` adds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["MODELS"]

# name -> factory, called by torchreid with ``num_classes, loss, pretrained, use_gpu``
MODELS: Mapping[str, Callable[..., Any]] = {}
