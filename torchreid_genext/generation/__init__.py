"""Filling a store with generated images: who makes what, what is kept, and pictures to look at."""

from __future__ import annotations

from torchreid_genext.generation.filling import Filled, fill
from torchreid_genext.generation.manifest import manifest, write_manifest
from torchreid_genext.generation.merging import merge
from torchreid_genext.generation.work import Work, content_hash, picture_seed, works

# Judging (`quality`) and sheets are imported where they are used: filling does without torch.
__all__ = [
    "Filled", "Work", "content_hash", "fill", "manifest", "merge", "picture_seed", "works", "write_manifest"
]  # fmt: skip
