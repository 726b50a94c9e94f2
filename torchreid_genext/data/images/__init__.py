"""Image files: read with their faults by name, whole data sets in memory, and random changes of batches."""

from __future__ import annotations

from torchreid_genext.data.images.reading import UNREADABLE, open_as_torchreid, open_image

__all__ = ["UNREADABLE", "open_as_torchreid", "open_image"]
