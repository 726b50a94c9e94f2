"""Generated images on disk: the store, who works on it, what judges said, and folders of other programs."""

from __future__ import annotations

from torchreid_genext.data.store.image_store import (
    SPLITS,
    Answers,
    Entry,
    ImageStore,
    check_writable,
    has_end,
    is_store,
    pose_order,
)

__all__ = [
    "SPLITS", "Answers", "Entry", "ImageStore", "check_writable", "has_end", "is_store", "pose_order"
]  # fmt: skip
