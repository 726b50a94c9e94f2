"""Steps that know which camera took an image, and when: what a camera adds, and tracklets."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import normalize

from torchreid_genext.retrieval.cameras import camera_norm
from torchreid_genext.retrieval.comparison import Comparison
from torchreid_genext.retrieval.sets import RetrievalSet
from torchreid_genext.retrieval.steps.base import SIDES, check_choice, on_each
from torchreid_genext.retrieval.tracklets import merge_tracklets

__all__ = ["CameraNormalize", "MergeTracklets"]


@dataclass(frozen=True)
class CameraNormalize:
    """Centre and scale the features of each camera, so that cameras no longer tell them apart.

    Attributes:
        epsilon: added to each standard deviation, > 0; that of unit features is about ``1 / sqrt(D)``, so
            the default hardly scales.
        statistics: of ``each`` set on its own, or of the ``gallery`` for both (queries one at a time).
        normalize_before: L2-normalise first.
        normalize_after: L2-normalise the result.
    """

    epsilon: float = 0.1
    statistics: str = "each"
    normalize_before: bool = True
    normalize_after: bool = True

    name = "camera_norm"

    def __post_init__(self) -> None:
        check_choice("statistics", self.statistics, ("each", "gallery"))
        if not self.epsilon > 0:
            raise ValueError(f"expected camera_norm epsilon > 0, got {self.epsilon}")

    @property
    def uses(self) -> str:
        whose = {"each": "each set", "gallery": "the gallery"}[self.statistics]
        return f"camera ids, statistics of {whose}"

    def __call__(self, comparison: Comparison) -> Comparison:
        query, gallery = (self._prepared(images) for images in (comparison.query, comparison.gallery))
        reference = {"each": query, "gallery": gallery}[self.statistics]
        return comparison.with_sets(
            query.with_features(self._normalized(query, reference)),
            gallery.with_features(self._normalized(gallery, gallery)),
        )

    def _prepared(self, images: RetrievalSet) -> RetrievalSet:
        return images.with_features(normalize(images.features)) if self.normalize_before else images

    def _normalized(self, images: RetrievalSet, reference: RetrievalSet) -> Tensor:
        features = camera_norm(
            images.features, images.camids, reference.features, reference.camids, epsilon=self.epsilon
        )
        return normalize(features) if self.normalize_after else features


@dataclass(frozen=True)
class MergeTracklets:
    """Let pictures that one camera took within seconds share one feature; see ``merge_tracklets``.

    Attributes:
        gap: how many frames apart.
        threshold: least cosine.
        side: ``query``, ``gallery`` or ``both``, each on its own.
    """

    gap: int = 300
    threshold: float = 0.5
    side: str = "both"

    name = "tracklets"

    def __post_init__(self) -> None:
        check_choice("side", self.side, SIDES[:3])

    @property
    def uses(self) -> str:
        where = {"both": "each set"}.get(self.side, f"the {self.side} set")
        return f"tracklets within {where}, camera ids, time stamps"

    def __call__(self, comparison: Comparison) -> Comparison:
        return on_each(comparison, self.side, self._merged, lambda images: normalize(images.features))

    def _merged(self, images: RetrievalSet) -> Tensor:
        if images.frames is None:
            raise ValueError("expected frames in the sets for the step tracklets, got none")
        return merge_tracklets(
            images.features, images.camids, images.frames, gap=self.gap, threshold=self.threshold
        )
