"""The training-free steps.

A further step is one more subclass of ``Step``, and an entry in ``STEPS``.
"""

from __future__ import annotations

from torchreid_genext.retrieval.steps.aro import NeighbourIndex
from torchreid_genext.retrieval.steps.base import Step
from torchreid_genext.retrieval.steps.blend import Blend
from torchreid_genext.retrieval.steps.camera_norm import CameraNormalize
from torchreid_genext.retrieval.steps.dmon import NeighbourMean
from torchreid_genext.retrieval.steps.expansion import (
    AlphaQueryExpansion,
    AverageQueryExpansion,
    DatabaseAugmentation,
)
from torchreid_genext.retrieval.steps.fuse import Fuse
from torchreid_genext.retrieval.steps.lda import Discriminate
from torchreid_genext.retrieval.steps.nfc import Centralize
from torchreid_genext.retrieval.steps.normalisation import Normalize
from torchreid_genext.retrieval.steps.reranking import CameraJaccard, Rerank
from torchreid_genext.retrieval.steps.spatiotemporal import SpatioTemporal
from torchreid_genext.retrieval.steps.tracklets import MergeTracklets

__all__ = ["STEPS", "Fuse", "Rerank", "SpatioTemporal", "Step"]

_STEPS = (
    Normalize, CameraNormalize, Discriminate, MergeTracklets, Centralize, Fuse, NeighbourMean,
    AverageQueryExpansion, AlphaQueryExpansion, DatabaseAugmentation, Blend, SpatioTemporal, Rerank,
    CameraJaccard, NeighbourIndex,
)  # fmt: skip
STEPS: dict[str, type[Step]] = {step.name: step for step in _STEPS}
