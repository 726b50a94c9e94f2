"""Feature centralization, training-free: Pose2ID (Yuan et al., CVPR 2025), sections 3.3 and 4.

Features of one person scatter around a centre that nobody knows. Two ways to move a feature towards it
without training: add the features of generated images of the same person (``fuse_generated``), or those of
its mutual nearest neighbours, which probably show the same person (``nfc``). ``id2`` measures what was
gained: how far features lie from the centre of their identity.

All functions return unnormalised features, as the formulas stand; the steps normalise around them.
"""

from __future__ import annotations

from torchreid_genext.retrieval.density import id2
from torchreid_genext.retrieval.steps.fuse import fuse_generated
from torchreid_genext.retrieval.steps.nfc import nfc

__all__ = ["fuse_generated", "id2", "nfc"]
