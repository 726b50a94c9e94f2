"""Tracklets: pictures of one person that one camera took within seconds, seen as one observation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from torchreid_genext.retrieval._blocks import blocks
from torchreid_genext.retrieval.comparison import Comparison
from torchreid_genext.retrieval.neighbours import check_features
from torchreid_genext.retrieval.sets import RetrievalSet
from torchreid_genext.retrieval.steps.base import SIDES, Step, on_each, option

__all__ = ["MergeTracklets", "merge_tracklets"]

_ROWS, _COLUMNS = 64, 8192  # images of one camera compared at a time: few others are near them in time


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
        """The sets whose images are merged, camera ids and time stamps."""
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
    features = check_features(features)
    with torch.autocast(features.device.type, enabled=False):  # cosines need all digits
        return _merged(normalize(features), camids.cpu(), frames.cpu(), gap, threshold)


def _merged(features: Tensor, camids: Tensor, frames: Tensor, gap: int, threshold: float) -> Tensor:
    """Each camera on its own, in the order of time: what may belong to a picture stands around it."""
    order = frames.argsort(stable=True)
    order = order[camids[order].argsort(stable=True)]
    frames, place = frames[order], order.to(features.device)
    features, moments = features[place], frames.to(features.device)
    result = torch.empty_like(features)
    for rows, near in _windows(camids[order], frames, gap):
        result[place[rows]] = normalize(_sums(features, moments, rows, near, gap, threshold))
    return result


def _windows(camids: Tensor, frames: Tensor, gap: int) -> Iterator[tuple[slice, slice]]:
    """Some images of a camera at a time, and those of it that are not too far in time; all in that order."""
    first = 0
    for images in camids.unique_consecutive(return_counts=True)[1].tolist():
        own = frames[first : first + images]
        for rows in blocks(images, _ROWS):
            start = int(torch.searchsorted(own, own[rows.start] - gap))
            stop = int(torch.searchsorted(own, own[rows.stop - 1] + gap, right=True))
            yield slice(first + rows.start, first + rows.stop), slice(first + start, first + stop)
        first += images


def _sums(
    features: Tensor, moments: Tensor, rows: slice, near: slice, gap: int, threshold: float
) -> Tensor:
    """What `rows` have in common with those `near`, which are many where a gap spans a whole recording."""
    own = features[rows]
    total = torch.zeros_like(own)
    for start in range(near.start, near.stop, _COLUMNS):
        others = slice(start, min(start + _COLUMNS, near.stop))
        together = (moments[rows, None] - moments[others]).abs_() <= gap
        together &= own @ features[others].t() >= threshold
        # Whatever rounding says of an image and itself.
        together.diagonal(rows.start - start).fill_(True)
        total.addmm_(together.to(own.dtype), features[others])
    return total
