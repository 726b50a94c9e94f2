"""Camera normalisation: take from each feature what its camera adds to all of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import normalize

from torchreid_genext.retrieval.comparison import Comparison
from torchreid_genext.retrieval.sets import RetrievalSet
from torchreid_genext.retrieval.steps.base import check_choice

__all__ = ["CameraNormalize", "camera_norm"]


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


def camera_norm(
    features: Tensor,
    camids: Tensor,
    reference: Tensor | None = None,
    reference_camids: Tensor | None = None,
    *,
    epsilon: float = 1e-3,
) -> Tensor:
    """Centre and scale each camera's features: ``(f - mean_c) / (std_c + epsilon)`` in each dimension.

    Args:
        features: shape (N, D), any scale.
        camids: camera of each row, integers (N,).
        reference: features (M, D) whose statistics are taken; `features` themselves unless given.
        reference_camids: camera of each of them (M,).
        epsilon: added to the standard deviation, > 0; for a dimension that hardly varies.

    Returns:
        New tensor (N, D), not normalised. A camera with fewer than two reference images has no statistics:
        those of all cameras together stand in.

    Raises:
        ValueError: if lengths differ.
    """
    if reference is None or reference_camids is None:
        reference, reference_camids = features, camids
    for name, rows, labels in (("features", features, camids), ("reference", reference, reference_camids)):
        if len(rows) != len(labels):
            raise ValueError(f"expected a camera for each row of {name}, got {len(labels)} for {len(rows)}")
    result = features.clone()
    for camera in camids.unique():
        seen = reference[reference_camids == camera]
        seen = seen if len(seen) > 1 else reference
        own = camids == camera
        result[own] = (features[own] - seen.mean(0)) / (seen.std(0, unbiased=False) + epsilon)
    return result
