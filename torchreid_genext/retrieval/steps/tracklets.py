"""Tracklets: pictures of one person that one camera took within seconds, seen as one observation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from torchreid_genext.retrieval.comparison import Comparison
from torchreid_genext.retrieval.neighbours import check_features
from torchreid_genext.retrieval.sets import RetrievalSet
from torchreid_genext.retrieval.steps.base import SIDES, Step, on_each, option

__all__ = ["MergeTracklets", "merge_tracklets"]

_ROWS = 256  # images of one camera compared at a time, in the order of time


@dataclass(frozen=True)
class MergeTracklets(Step):
    """Let pictures that one camera took within seconds share one feature; see ``merge_tracklets``."""

    gap: int = option(300, "frames", least=0)
    threshold: float = option(0.5, "least cosine", least=-1, most=1)
    side: str = option("both", "whose images, each set on its own", choices=SIDES[:3])

    name = "tracklets"
    needs = frozenset({"cameras", "frames"})

    @property
    def uses(self) -> tuple[str, ...]:
        where = {"both": "each set"}.get(self.side, f"the {self.side} set")
        return f"tracklets within {where}", "camera ids", "time stamps"

    def __call__(self, comparison: Comparison) -> Comparison:
        return on_each(comparison, self.side, self._merged, lambda images: normalize(images.features))

    def _merged(self, images: RetrievalSet) -> Tensor:
        return merge_tracklets(
            images.features, images.camids, images.frames, gap=self.gap, threshold=self.threshold
        )


def merge_tracklets(
    features: Tensor, camids: Tensor, frames: Tensor, *, gap: int = 300, threshold: float = 0.5
) -> Tensor:
    """Replace each feature by the mean direction of those that its camera saw at about the same time.

    Detections of one walk differ by pose and by chance; their mean is steadier than each.

    Args:
        features: shape (N, D), any scale; directions are what counts.
        camids: camera of each row, integers (N,).
        frames: time of each row, integers (N,).
        gap: how many frames apart, >= 0.
        threshold: least cosine, in -1 .. 1; others of the same moment are other people.

    Returns:
        New tensor (N, D), rows of length one.

    Raises:
        ValueError: if lengths differ or an argument is out of range.
    """
    if not len(features) == len(camids) == len(frames):
        lengths = f"{len(features)}, {len(camids)} and {len(frames)}"
        raise ValueError(f"expected as many camids and frames as features, got {lengths}")
    if gap < 0 or not -1 <= threshold <= 1:
        raise ValueError(f"expected gap >= 0 and threshold in -1..1, got {gap} and {threshold}")
    features = normalize(check_features(features))
    result = torch.empty_like(features)
    for camera in camids.unique():
        own = (camids == camera).nonzero()[:, 0]
        own = own[frames[own].argsort(stable=True)]
        for rows in torch.arange(len(own)).split(_ROWS):
            result[own[rows]] = _merged(features[own], frames[own], rows, gap, threshold)
    return normalize(result)


def _merged(features: Tensor, frames: Tensor, rows: Tensor, gap: int, threshold: float) -> Tensor:
    """Sums for some `rows` of one camera's images, which are in the order of time."""
    start = torch.searchsorted(frames, frames[rows[0]] - gap)
    stop = torch.searchsorted(frames, frames[rows[-1]] + gap, right=True)
    near = slice(int(start), int(stop))
    together = (frames[rows, None] - frames[near]).abs() <= gap
    together &= features[rows] @ features[near].t() >= threshold
    together[torch.arange(len(rows)), rows - start] = True  # whatever rounding says of an image and itself
    return together.to(features.dtype) @ features[near]
