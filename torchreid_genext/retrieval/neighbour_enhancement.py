"""Features and distances enhanced by neighbours (Yuan, Zhang, Niu, CVPR workshops 2025), as functions."""

from __future__ import annotations

from torchreid_genext.retrieval.steps.aro import aro
from torchreid_genext.retrieval.steps.dmon import dmon

__all__ = ["aro", "dmon"]
