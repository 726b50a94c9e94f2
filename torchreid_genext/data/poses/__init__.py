"""Body poses: the joints, files of every known kind, skeletons and heat-maps, standard poses, detection."""

from __future__ import annotations

from torchreid_genext.data.poses.drawing import COLOURS, HEATMAP_SIGMA, STYLES, draw_skeleton, heatmaps
from torchreid_genext.data.poses.joints import JOINTS, LIMBS
from torchreid_genext.data.poses.market_csv import (
    read_market_annotations,
    read_visibility,
    write_market_annotations,
)

__all__ = [
    "COLOURS", "HEATMAP_SIGMA", "JOINTS", "LIMBS", "STYLES", "draw_skeleton", "heatmaps",
    "read_market_annotations", "read_visibility", "write_market_annotations",
]  # fmt: skip
