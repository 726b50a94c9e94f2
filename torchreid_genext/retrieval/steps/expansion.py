"""Query expansion and database augmentation as steps; arguments as the functions of ``expansion``."""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn.functional import normalize

from torchreid_genext.retrieval import expansion
from torchreid_genext.retrieval.comparison import Comparison
from torchreid_genext.retrieval.steps.base import check_counts

__all__ = ["AlphaQueryExpansion", "AverageQueryExpansion", "DatabaseAugmentation"]


@dataclass(frozen=True)
class AverageQueryExpansion:
    """Replace a query by the mean of itself and its k nearest gallery features (Chum et al., ICCV 2007)."""

    k: int = 5

    name = "aqe"
    uses = "the gallery's neighbours of each query"

    def __post_init__(self) -> None:
        check_counts(self.name, k=self.k)

    def __call__(self, comparison: Comparison) -> Comparison:
        return _expanded(comparison, self.k, 0.0)


@dataclass(frozen=True)
class AlphaQueryExpansion:
    """The same, each neighbour weighted by its cosine to the power alpha (Radenovic et al., TPAMI 2019)."""

    k: int = 5
    alpha: float = 3.0

    name = "alpha_qe"
    uses = AverageQueryExpansion.uses

    def __post_init__(self) -> None:
        check_counts(self.name, k=self.k)

    def __call__(self, comparison: Comparison) -> Comparison:
        return _expanded(comparison, self.k, self.alpha)


@dataclass(frozen=True)
class DatabaseAugmentation:
    """Add to each gallery feature its k nearest others, weighted likewise (database-side augmentation)."""

    k: int = 5
    alpha: float = 3.0

    name = "dba"
    uses = "neighbours within the gallery set"

    def __post_init__(self) -> None:
        check_counts(self.name, k=self.k)

    def __call__(self, comparison: Comparison) -> Comparison:
        query, gallery = comparison.query, comparison.gallery
        augmented = expansion.database_augmentation(
            gallery.features, k=self.k, alpha=self.alpha, **comparison.search
        )
        return comparison.with_sets(
            query.with_features(normalize(query.features)), gallery.with_features(augmented)
        )


def _expanded(comparison: Comparison, k: int, alpha: float) -> Comparison:
    query, gallery = comparison.query, comparison.gallery
    expanded = expansion.alpha_query_expansion(
        query.features, gallery.features, k=k, alpha=alpha, **comparison.search
    )
    return comparison.with_sets(
        query.with_features(expanded), gallery.with_features(normalize(gallery.features))
    )
