"""What a step is, and what steps share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from torchreid_genext.retrieval.comparison import Comparison
from torchreid_genext.retrieval.sets import RetrievalSet

__all__ = ["SIDES", "Step", "check_choice", "check_counts", "on_each", "on_joint"]

SIDES = ("query", "gallery", "both", "joint")


class Step(Protocol):
    """What a chain is made of."""

    name: str

    @property
    def uses(self) -> str:
        """What the step knows beyond the images it compares, for the protocol label: parts joined by ", "."""

    def __call__(self, comparison: Comparison) -> Comparison:
        """The comparison with other features, or with another measure."""


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError that lists the choices."""
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}; choose from {', '.join(choices)}")


def check_counts(step: str, **counts: int) -> None:
    """Raise ValueError that names the first that is no integer >= 1."""
    for key, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"expected {step} {key} to be an integer >= 1, got {value!r}")


def on_each(
    comparison: Comparison,
    side: str,
    change: Callable[[RetrievalSet], Tensor],
    otherwise: Callable[[RetrievalSet], Tensor] = lambda images: images.features,
) -> Comparison:
    """Change the features of one side or both, each set on its own; `otherwise` those of the other side."""
    query, gallery = comparison.query, comparison.gallery
    of_query = change if side in ("query", "both") else otherwise
    of_gallery = change if side in ("gallery", "both") else otherwise
    return comparison.with_sets(
        query.with_features(of_query(query)), gallery.with_features(of_gallery(gallery))
    )


def on_joint(comparison: Comparison, change: Callable[[RetrievalSet], Tensor]) -> Comparison:
    """Change the features of both sets as if they were one."""
    query, gallery = comparison.query, comparison.gallery
    features = change(query.join(gallery))
    return comparison.with_sets(
        query.with_features(features[: len(query)]), gallery.with_features(features[len(query) :])
    )
