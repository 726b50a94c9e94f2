"""Generated images in torchreid's training: data sets, selection, label smoothing, shares of a batch."""

from __future__ import annotations
