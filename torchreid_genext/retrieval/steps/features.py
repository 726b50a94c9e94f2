"""Steps that change features: normalisation, neighbours, generated images."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import normalize

from torchreid_genext.retrieval import centralization
from torchreid_genext.retrieval.comparison import Comparison
from torchreid_genext.retrieval.neighbourhoods import cross_camera_neighbours, nearest_by
from torchreid_genext.retrieval.sets import RetrievalSet
from torchreid_genext.retrieval.steps.base import SIDES, check_choice, check_counts, on_each, on_joint
from torchreid_genext.retrieval.timing import FORMS, TimedMeasure

__all__ = ["NEIGHBOURS", "Centralize", "Fuse", "Normalize"]

NEIGHBOURS = ("any", "cross_camera", "spatiotemporal", "cross_camera+spatiotemporal")


@dataclass(frozen=True)
class Normalize:
    """L2-normalise the features of both sets."""

    name = "l2"
    uses = ""

    def __call__(self, comparison: Comparison) -> Comparison:
        return on_each(comparison, "both", lambda images: normalize(images.features))


@dataclass(frozen=True)
class Centralize:
    """Neighbour feature centralization of each set, or of both as one.

    Attributes:
        k1: neighbours considered, in 1 .. N - 1.
        k2: how highly the neighbour must rank the image in return.
        side: ``query`` or ``gallery`` alone, ``both`` each on its own (the paper's), ``joint`` mixes the two
            sets.
        neighbours: of ``any`` camera, ``cross_camera`` for other cameras only, ``spatiotemporal`` for those
            nearest by appearance and time, or ``cross_camera+spatiotemporal``.
        form, weight, sigma: of time in that case, see the step ``st``.
        normalize_before: L2-normalise first.
        normalize_after: L2-normalise the sums, as the official demo does; the bare sums of the root
            ``NFC.py`` make images with neighbours longer than images without, which wrecks Euclidean ranking.
        self_distance: see ``centralization.nfc``.
    """

    k1: int = 2
    k2: int = 2
    side: str = "both"
    neighbours: str = "any"
    form: str = "ratio"
    weight: float = 0.07
    sigma: float | None = None
    normalize_before: bool = True
    normalize_after: bool = True
    self_distance: float = float("inf")

    name = "nfc"

    def __post_init__(self) -> None:
        check_choice("side", self.side, SIDES)
        check_choice("neighbours", self.neighbours, NEIGHBOURS)
        check_choice("form", self.form, FORMS)
        check_counts("nfc", k1=self.k1, k2=self.k2)
        if self.neighbours != "any" and self.self_distance != float("inf"):
            raise ValueError(f"expected neighbours any with a finite self_distance, got {self.neighbours}")

    @property
    def uses(self) -> str:
        where = {
            "both": "neighbours within each set",
            "joint": "transductive: neighbours across query and gallery",
        }.get(self.side, f"neighbours within the {self.side} set")
        extra = [", camera ids"] if self.neighbours != "any" else []
        extra += [", time stamps"] if self._timed else []
        return where + "".join(extra)

    @property
    def _timed(self) -> bool:
        return "spatiotemporal" in self.neighbours

    def __call__(self, comparison: Comparison) -> Comparison:
        centralized = functools.partial(self._centralized, comparison=comparison)
        if self.side == "joint":
            return on_joint(comparison, centralized)
        return on_each(comparison, self.side, centralized, self._left_alone)

    def _centralized(self, images: RetrievalSet, comparison: Comparison) -> Tensor:
        features = images.features
        if self.normalize_before:
            features = normalize(features)
        images = images.with_features(features)
        features = centralization.add_rows(features, *self._mutual(images, comparison))
        return normalize(features) if self.normalize_after else features

    def _mutual(self, images: RetrievalSet, comparison: Comparison) -> tuple[Tensor, Tensor]:
        if self.neighbours == "any":
            options = {"k1": self.k1, "k2": self.k2, "self_distance": self.self_distance}
            return centralization.mutual_neighbours(images.features, **options, **comparison.search)
        if self.neighbours == "cross_camera":
            lists = cross_camera_neighbours(images.features, images.camids, k=self.k1, **comparison.search)
        else:
            measure = TimedMeasure.fit(
                comparison.train, form=self.form, weight=self.weight, sigma=self.sigma
            )
            across = "cross_camera" in self.neighbours
            lists = nearest_by(
                measure, images, k=self.k1, cross_camera=across, memory_limit=comparison.memory_limit
            )
        return centralization.mutual_pairs(lists, self.k2)

    def _left_alone(self, images: RetrievalSet) -> Tensor:
        # The other side must stay comparable: it gets the same normalisation, but no neighbours.
        features = images.features
        return normalize(features) if self.normalize_before or self.normalize_after else features


@dataclass(frozen=True)
class Fuse:
    """Add the features of generated images to those of the real ones.

    Attributes:
        eta: weight of the generated images; ``fuse(eta=2)+l2+nfc`` is Pose2ID's demo.
        reduce: ``mean`` or ``sum`` over them.
        side: ``query``, ``gallery`` or ``both``.
        normalize_before: L2-normalise every feature first, those of the other side too.
    """

    eta: float = 1.0
    reduce: str = "mean"
    side: str = "both"
    normalize_before: bool = False

    name = "fuse"
    uses = "generated images"

    def __post_init__(self) -> None:
        check_choice("side", self.side, SIDES[:3])
        check_choice("reduce", self.reduce, ("mean", "sum"))

    @property
    def sides(self) -> tuple[str, ...]:
        """Which sets need generated features."""
        return ("query", "gallery") if self.side == "both" else (self.side,)

    def __call__(self, comparison: Comparison) -> Comparison:
        for name in self.sides:
            if getattr(comparison, name).generated is None:
                raise ValueError(f"expected a {name} set with generated features for the step fuse, got none")
        return on_each(comparison, self.side, self._fused, self._left_alone)

    def _fused(self, images: RetrievalSet) -> Tensor:
        return centralization.fuse_generated(
            images.features,
            images.generated,
            eta=self.eta,
            reduce=self.reduce,
            normalize_before=self.normalize_before,
        )

    def _left_alone(self, images: RetrievalSet) -> Tensor:
        return normalize(images.features) if self.normalize_before else images.features
