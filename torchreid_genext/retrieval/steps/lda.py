"""A metric in closed form: linear discriminant analysis of the training split (Fisher, 1936)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from torchreid_genext import checkpoints
from torchreid_genext.retrieval._numerics import full_precision, unit
from torchreid_genext.retrieval.comparison import Comparison, Metric
from torchreid_genext.retrieval.neighbours import check_features
from torchreid_genext.retrieval.sets import RetrievalSet
from torchreid_genext.retrieval.steps.base import Step, on_each, option

__all__ = ["DiscriminantMetric", "Discriminate"]

# Fitting extracts nothing, but goes through the chain before it; many chains ask for the same metric.
_FITTED: WeakKeyDictionary[RetrievalSet, dict[tuple, DiscriminantMetric]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Discriminate(Step):
    """Project features to where identities of the training split differ most, compared to their own images.

    The training split goes through the steps before this one, as a set of its own.
    """

    ridge: float = option(0.3, "added to the scatter within identities, in its mean variance", above=0)
    width: int = option(256, "directions that are kept", least=1)
    normalize_after: bool = option(True, "L2 of the result")

    name = "lda"
    uses = ("training labels",)
    needs = frozenset({"training features"})

    def __call__(self, comparison: Comparison) -> Comparison:
        return self.project(comparison, self.fit(comparison))

    def project(self, comparison: Comparison, metric: DiscriminantMetric) -> Comparison:
        """Both sets through a metric."""

        def projected(images: RetrievalSet) -> Tensor:
            features = metric(images.features)
            return unit(features) if self.normalize_after else features

        return on_each(comparison, "both", projected)

    def fit(self, comparison: Comparison) -> DiscriminantMetric:
        """The metric, learnt from the training split of a comparison, once for the same steps."""
        train = comparison.train
        if not isinstance(train, RetrievalSet):
            raise ValueError("expected features of the training split for the step lda, got none")
        fitted = _FITTED.setdefault(train, {})
        key = (*comparison.steps, self.ridge, self.width)
        if key not in fitted:
            features = _through(comparison, train).features
            fitted[key] = DiscriminantMetric.fit(features, train.pids, ridge=self.ridge, width=self.width)
        return fitted[key]


def _through(comparison: Comparison, train: RetrievalSet) -> RetrievalSet:
    """The training split after the steps that a comparison has behind it."""
    own = replace(comparison, query=train, gallery=train, measure=Metric(steady=True), steps=(), seconds={})
    for step in comparison.steps:
        own = own if step.measures else own.after(step)
    return own.gallery


@dataclass(frozen=True, eq=False)
class DiscriminantMetric:
    """Features, centred and projected so that their distance tells identities apart.

    Attributes:
        mean: of the training features, (D,).
        projection: (D, W).
    """

    mean: Tensor
    projection: Tensor

    @classmethod
    @full_precision()
    def fit(
        cls, features: Tensor, pids: Tensor, *, ridge: float = 0.3, width: int = 256
    ) -> DiscriminantMetric:
        """Solve for the directions ``S_b p = w S_w p``, each weighted by ``sqrt(w / (w + 1))``.

        S_w is the covariance of the features around the mean of their identity, plus ``ridge`` times its mean
        variance; S_b that of these means around all features' mean.

        Args:
            features: of a training split, (N, D).
            pids: identities (N,).
            ridge: > 0.
            width: directions that are kept, those of greatest w; at most D, and one less than identities.

        Raises:
            ValueError: if there is one identity, or none has two images that differ.
        """
        features = check_features(features)
        labels = pids.unique(return_inverse=True)[1].to(features.device)
        counts = labels.bincount()
        means = torch.zeros(len(counts), features.shape[1], device=features.device)
        means.index_add_(0, labels, features).div_(counts[:, None])
        mean = features.mean(0)
        within, between = _covariance(features - means[labels]), _covariance(means - mean)
        if len(counts) < 2 or not within.trace() > 0:
            raise ValueError("expected identities of several different images, and two at least, for lda")
        within.diagonal().add_(ridge * within.trace() / len(within))
        roots, directions = _eigen(between, within)
        kept = slice(-min(width, len(counts) - 1, len(within)), None)
        weights = (roots.clamp(min=0) / (roots.clamp(min=0) + 1)).sqrt()
        projection = (directions * weights)[:, kept].flip(1)
        return cls(mean, projection.to(features).contiguous())

    @full_precision()
    def __call__(self, features: Tensor) -> Tensor:
        """Features (N, D) to (N, W), not normalised."""
        mean, projection = (x.to(features.device) for x in (self.mean, self.projection))
        return (features - mean) @ projection

    def save(self, path: str | Path) -> Path:
        """Write the metric as one safetensors file, whole or not at all."""
        return checkpoints.save(path, vars(self), {})

    @classmethod
    def load(cls, path: str | Path) -> DiscriminantMetric:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it holds no such metric; names it.
        """
        found = checkpoints.safe_load(path)
        if set(found) != {"mean", "projection"}:
            raise ValueError(f"expected mean and projection of a metric in {path}, got {sorted(found)}")
        return cls(**found)


def _covariance(centred: Tensor) -> Tensor:
    """(D, D) in float64, on the CPU: what is solved is small, and not every accelerator has float64."""
    return (centred.t() @ centred).to("cpu", torch.float64) / len(centred)


def _eigen(between: Tensor, within: Tensor) -> tuple[Tensor, Tensor]:
    """Roots w, ascending, and directions p with ``between p = w within p`` and ``p within p = 1``."""
    inverse = torch.linalg.inv(torch.linalg.cholesky(within))
    roots, directions = torch.linalg.eigh(inverse @ between @ inverse.t())
    return roots, inverse.t() @ directions
