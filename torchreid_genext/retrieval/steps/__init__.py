"""The training-free steps.

A further step is a frozen dataclass with ``name``, ``uses`` and ``__call__``, and one entry in ``STEPS``.
"""

from __future__ import annotations

from collections.abc import Callable

from torchreid_genext.retrieval.steps.base import Step
from torchreid_genext.retrieval.steps.cameras import CameraNormalize, MergeTracklets
from torchreid_genext.retrieval.steps.comparing import Rerank, SpatioTemporal
from torchreid_genext.retrieval.steps.expansion import (
    AlphaQueryExpansion,
    AverageQueryExpansion,
    DatabaseAugmentation,
)
from torchreid_genext.retrieval.steps.features import Centralize, Fuse, Normalize

__all__ = ["STEPS", "Fuse", "Rerank", "SpatioTemporal", "Step"]

_STEPS = (
    Normalize, CameraNormalize, MergeTracklets, Centralize, Fuse,
    AverageQueryExpansion, AlphaQueryExpansion, DatabaseAugmentation, SpatioTemporal, Rerank,
)  # fmt: skip
STEPS: dict[str, Callable[..., Step]] = {step.name: step for step in _STEPS}
