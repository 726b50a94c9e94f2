"""Camera normalisation: take from each feature what its camera adds to all of them."""

from __future__ import annotations

from torch import Tensor

__all__ = ["camera_norm"]


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
