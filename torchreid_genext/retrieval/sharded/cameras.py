"""CA-Jaccard of any distance between images that live in shards.

Each process surveys its own images against the visiting shards of all others. Lists and descriptions are
then exchanged, as in ``sharded.reranking``; which neighbours are mutual every process finds for itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchreid_genext.retrieval._numerics import magnitude, rescaled, scale_of, unit
from torchreid_genext.retrieval._reciprocal import expand_locally
from torchreid_genext.retrieval._surveys import CameraSurvey, Lists
from torchreid_genext.retrieval.comparison import Comparison, Measure, Metric
from torchreid_genext.retrieval.neighbours import at_most
from torchreid_genext.retrieval.reranking import KReciprocal, check_ranges, encode_cameras
from torchreid_genext.retrieval.sets import RetrievalSet
from torchreid_genext.retrieval.sharded.processes import Processes
from torchreid_genext.retrieval.sharded.reranking import Described
from torchreid_genext.retrieval.sharded.surveys import Part, survey
from torchreid_genext.retrieval.steps import CameraJaccard

__all__ = ["CameraReranking"]


class CameraReranking(Described):
    """Descriptions of all images by cameras, and the images of this process; see ``steps.CameraJaccard``.

    Raises:
        ValueError: if there are too few images, on all processes.
    """

    def __init__(self, comparison: Comparison, step: CameraJaccard, processes: Processes) -> None:
        self.measure, self.memory_limit = comparison.measure, comparison.memory_limit
        self.lambda_value = step.lambda_value
        sets = comparison.query, comparison.gallery
        if isinstance(self.measure, Metric):
            self.scale = scale_of(max(processes.numbers(magnitude(*(images.features for images in sets)))))
        super().__init__(*map(self._prepared, sets), processes)
        check_ranges(self.total, self.num_query, step.lambda_value, 1, self.memory_limit)
        k1 = {name: (getattr(step, name), self.total - 1) for name in ("k1_intra", "k1_inter")}
        k2 = {name: (getattr(step, name), self.total) for name in ("k2_intra", "k2_inter")}
        k1_intra, k1_inter, k2_intra, k2_inter = at_most(f"re-ranking of {self.total} images", **k1, **k2)
        survey = self._survey(max(k1_intra + 1, k2_intra), max(k1_inter + 1, k2_inter))
        vectors = encode_cameras(survey, k1_intra, k1_inter, self.memory_limit)
        near = torch.cat([survey.intra[1][:, :k2_intra], survey.inter[1][:, :k2_inter]], 1)
        options = {"memory_limit": self.memory_limit}
        self.greatest = survey.greatest
        self.vectors = self.gathered(
            lambda rows: expand_locally(vectors, near, near.shape[1], rows, **options)
        )

    def against(self, source: int, visiting: RetrievalSet) -> KReciprocal:
        """Distances of the queries of one process to this process's gallery."""
        first = self.query_shards.starts[source]
        rows = slice(first, first + len(visiting))
        space = _Between(self._prepared(visiting), self.gallery, self._between, self.measure.bytes_per_pair)
        gallery = self.vectors[self.places[1]].fixed().transposed(self.total)
        return KReciprocal(
            space, self.greatest[rows], self.vectors[rows].fixed(), gallery,
            self.lambda_value, 1, self.memory_limit,
        )  # fmt: skip

    def _prepared(self, images: RetrievalSet) -> RetrievalSet:
        """Features of any length so that their distances are finite, which re-ranking does not see."""
        if not isinstance(self.measure, Metric):
            return images
        cosine = self.measure.name == "cosine"
        return images.with_features(
            unit(images.features) if cosine else rescaled(images.features, self.scale)
        )

    def _between(self, x: RetrievalSet, y: RetrievalSet) -> Tensor:
        if not isinstance(self.measure, Metric):
            return self.measure(x, y)
        return Metric(steady=True)(x, y).clamp_(min=0)

    def _survey(self, intra: int, inter: int) -> CameraSurvey:
        """Nearest of each image under its own camera, itself first, and under others."""
        parts = [Part(self.query, self.query_shards), Part(self.gallery, self.gallery_shards, self.num_query)]
        seen = survey(self.measure, parts, max(intra, inter), self.memory_limit)
        near, far = seen.lists()
        lists = _continued(near, far, intra), _continued(far, near, inter)
        intra, inter = (tuple(map(self.in_order, each)) for each in lists)
        return CameraSurvey(intra, inter, self.in_order(seen.greatest))


def _continued(first: Lists, second: Lists, k: int) -> Lists:
    """The k first of a list, continued by another one where it is too short."""
    distances, places = (torch.cat(pair, 1) for pair in zip(first, second))
    order = distances.isinf().sort(dim=1, stable=True).indices[:, :k]
    return distances.gather(1, order), places.gather(1, order)


@dataclass(frozen=True, eq=False)
class _Between:
    """Visiting queries and this process's gallery, as the space that re-ranking asks."""

    query: RetrievalSet
    gallery: RetrievalSet
    measure: Measure
    bytes_per_pair: int

    def __len__(self) -> int:
        return len(self.query) + len(self.gallery)

    def block(self, rows: slice, columns: slice) -> Tensor:
        """Distances of some queries to the whole gallery, which `columns` stand for."""
        return self.measure(self.query.select(rows), self.gallery)
