"""Camera normalisation: take from each feature what its camera adds to all of them.

It is the feature normalisation of Song, Park and Lee, "Exploring the Camera Bias of Person Re-identification",
ICLR 2025. They find that a camera needs 25 images, and that nothing is gained where a model was trained.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from torch import Tensor

from torchreid_genext.retrieval._numerics import unit
from torchreid_genext.retrieval.comparison import Comparison
from torchreid_genext.retrieval.sets import RetrievalSet
from torchreid_genext.retrieval.steps.base import Step, option

__all__ = ["CameraNormalize", "camera_norm"]

_ENOUGH = 25  # images of a camera, by the paper

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CameraNormalize(Step):
    """Centre and scale the features of each camera, so that cameras no longer tell them apart.

    A camera that took fewer than two of the queries has the statistics of its gallery images. The standard
    deviation of unit features is about ``1 / sqrt(D)``, so the default epsilon hardly scales.
    """

    epsilon: float = option(0.1, "added to the standard deviation of unit features", above=0)
    statistics: str = option("each", "of each set, or of the gallery for both", choices=("each", "gallery"))
    normalize_before: bool = option(True, "L2 of every feature")
    normalize_after: bool = option(True, "L2 of the result")

    name = "camera_norm"
    needs = frozenset({"cameras"})

    @property
    def uses(self) -> tuple[str, ...]:
        """Camera ids, and whose statistics."""
        whose = {"each": "each set", "gallery": "the gallery"}[self.statistics]
        return "camera ids", f"statistics of {whose}"

    def __call__(self, comparison: Comparison) -> Comparison:
        query, gallery = (self._prepared(images) for images in (comparison.query, comparison.gallery))
        _warn_of_few(gallery.camids)
        known = gallery.features, gallery.camids
        if self.statistics == "gallery":
            of_query = self._normalized(query, *known)
        else:
            of_query = self._normalized(query)
            lone = _lone(query.camids)
            of_query[lone] = self._normalized(query.select(lone), *known)
        of_gallery = self._normalized(gallery)
        return comparison.with_sets(query.with_features(of_query), gallery.with_features(of_gallery))

    def _prepared(self, images: RetrievalSet) -> RetrievalSet:
        return images.with_features(unit(images.features)) if self.normalize_before else images

    def _normalized(self, images: RetrievalSet, *reference: Tensor) -> Tensor:
        features = camera_norm(images.features, images.camids, *reference, epsilon=self.epsilon)
        return unit(features) if self.normalize_after else features


def _warn_of_few(camids: Tensor) -> None:
    """Say which cameras have statistics of too few gallery images."""
    cameras, counts = camids.unique(return_counts=True)
    pairs = zip(cameras.tolist(), counts.tolist())
    few = ", ".join(f"{camera} ({count})" for camera, count in pairs if count < _ENOUGH)
    if few:
        _log.warning("camera_norm: expected %d gallery images of each camera, got fewer of %s", _ENOUGH, few)


def _lone(camids: Tensor) -> Tensor:
    """Rows of the cameras that took one image only, which have no statistics of their own."""
    _, camera, counts = camids.unique(return_inverse=True, return_counts=True)
    return (counts[camera] < 2).nonzero()[:, 0]


def camera_norm(
    features: Tensor,
    camids: Tensor,
    reference: Tensor | None = None,
    reference_camids: Tensor | None = None,
    *,
    epsilon: float = 0.1,
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
        those of all cameras together stand in. Of one image in all there are none, and nothing is changed.

    Raises:
        ValueError: if lengths differ.
    """
    if reference is None or reference_camids is None:
        reference, reference_camids = features, camids
    for name, rows, labels in (("features", features, camids), ("reference", reference, reference_camids)):
        if len(rows) != len(labels):
            raise ValueError(f"expected a camera for each row of {name}, got {len(labels)} for {len(rows)}")
    result = features.clone()
    for camera in camids.unique() if len(reference) > 1 else ():
        seen = reference[reference_camids == camera]
        seen = seen if len(seen) > 1 else reference
        own = camids == camera
        result[own] = (features[own] - seen.mean(0)) / (seen.std(0, unbiased=False) + epsilon)
    return result
