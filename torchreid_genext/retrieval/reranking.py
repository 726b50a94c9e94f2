"""Re-ranking with k-reciprocal encoding (Zhong et al., CVPR 2017), in bounded memory.

Each image is described by its k-reciprocal neighbours, weighted by ``exp(-distance)`` and averaged over its
nearest; the Jaccard distance of two descriptions is mixed with the distance one started from::

    final = (1 - lambda) * jaccard + lambda * original

An original distance is divided by the greatest distance of its query, and so lies in 0 .. 1. torchreid raises
what it is given to the second power first, and so do the two functions for features and for matrices; the
authors of ST-ReID do not (``power=1``).

Neither the paper's matrix of all distances nor its matrix of descriptions exists here. Of the distances only
the nearest and the greatest of each image matter, and the final ones are computed for a block of queries at a
time; descriptions are sparse. An image stands first in its own list, also before its duplicates, where
distances come from features; distances of other origin rank it as they say, equal ones by index.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from torchreid_genext.retrieval._blocks import blocks_within, check_limit
from torchreid_genext.retrieval._numerics import from_fixed, full_precision, to_fixed
from torchreid_genext.retrieval._reciprocal import (
    SparseRows,
    expand_locally,
    min_sums,
    mutual_pairs,
    reciprocal_sets,
)
from torchreid_genext.retrieval.neighbours import at_most
from torchreid_genext.retrieval._surveys import CameraSurvey, Survey
from torchreid_genext.retrieval.spaces import FeatureSpace, RowSpace, Space

__all__ = [
    "KReciprocal", "ca_jaccard", "check_ranges", "counts_of", "encode", "k_reciprocal",
    "k_reciprocal_distances",
]  # fmt: skip

_SMALLEST = torch.finfo(torch.float32).tiny


def k_reciprocal(
    q_features: Tensor,
    g_features: Tensor,
    *,
    metric: str = "euclidean",
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    memory_limit: int | None = None,
) -> Tensor:
    """Re-ranked distances of features, as torchreid's engine computes them with ``rerank=True``.

    Args:
        q_features: shape (Q, D).
        g_features: shape (G, D).
        metric: ``euclidean`` or ``cosine``; both are squared and squared again.
        k1: neighbours that may be reciprocal; more than the Q + G - 1 that there are means all of them, and
            is said in a warning.
        k2: nearest images, the image itself included, whose descriptions are averaged, likewise.
        lambda_value: share of the original distance in the result, in 0 .. 1.
        memory_limit: bytes of working memory, 96 MiB unless told; the sparse descriptions, a copy of the
            features and the result come on top.

    Returns:
        Distances (Q, G), float32, in 0 .. 1.

    Raises:
        ValueError: if an argument is out of range, or a feature is not finite.
    """
    space = FeatureSpace.of(q_features, g_features, metric=metric, memory_limit=memory_limit)
    options = {"k1": k1, "k2": k2, "lambda_value": lambda_value, "memory_limit": memory_limit}
    return KReciprocal.of(space, len(q_features), **options).distances(slice(0, len(q_features)))


def k_reciprocal_distances(
    qg: Tensor,
    qq: Tensor,
    gg: Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    memory_limit: int | None = None,
) -> Tensor:
    """Re-ranked distances of three matrices, as torchreid's ``re_ranking`` computes them.

    Args:
        qg: distances of queries to gallery, shape (Q, G).
        qq: within the queries, shape (Q, Q).
        gg: within the gallery, shape (G, G).
        k1: see ``k_reciprocal``, as are ``k2``, ``lambda_value`` and ``memory_limit``.

    Returns:
        Distances (Q, G), float32, in 0 .. 1.

    Raises:
        ValueError: if the shapes do not belong together, or as ``k_reciprocal``.
    """
    qg, qq, gg = (torch.as_tensor(x).to(torch.float32) for x in (qg, qq, gg))
    _check_shapes(qg, qq, gg)

    def rows(block: slice) -> Tensor:  # torchreid normalises and ranks the columns of [qq qg; qg' gg]
        q = slice(block.start, min(block.stop, len(qg)))
        g = slice(max(block.start - len(qg), 0), max(block.stop - len(qg), 0))
        of_queries = torch.cat([qq[:, q].t(), qg[q]], dim=1)
        return torch.cat([of_queries, torch.cat([qg[:, g].t(), gg[:, g].t()], dim=1)]).abs_()

    space = RowSpace(rows, sum(qg.shape), bytes_per_pair=12, memory_limit=memory_limit)
    options = {"k1": k1, "k2": k2, "lambda_value": lambda_value, "memory_limit": memory_limit}
    return KReciprocal.of(space, len(qg), **options).distances(slice(0, len(qg)))


def ca_jaccard(
    query: Tensor,
    gallery: Tensor,
    query_camids: ArrayLike,
    gallery_camids: ArrayLike,
    *,
    k1_intra: int = 5,
    k1_inter: int = 20,
    k2_intra: int = 2,
    k2_inter: int = 4,
    lambda_value: float = 0.3,
    memory_limit: int | None = None,
) -> Tensor:
    """Re-ranked distances of features that know cameras: CA-Jaccard (Chen et al., CVPR 2024).

    An image is described by reciprocal neighbours of its own camera and by those of other cameras, each found
    in lists of their own, since images of one camera are near each other whoever they show. The authors keep
    descriptions in float16; here they are float32.

    Args:
        query: features (Q, D), any scale.
        gallery: features (G, D).
        query_camids: camera of each query, integers (Q,).
        gallery_camids: camera of each gallery image, integers (G,).
        k1_intra: neighbours of the own camera that may be reciprocal; more than there are means all.
        k1_inter: neighbours of other cameras that may be.
        k2_intra: nearest images of the own camera, itself included, whose descriptions are averaged.
        k2_inter: nearest images of other cameras, likewise.
        lambda_value: share of the original squared distance in the result, in 0 .. 1.
        memory_limit: bytes of working memory, see ``k_reciprocal``.

    Returns:
        Distances (Q, G), float32, in 0 .. 1.

    Raises:
        ValueError: if a number is out of range, a feature is not finite, or an image has no camera.
    """
    space = FeatureSpace.of(query, gallery, memory_limit=memory_limit)
    cameras = torch.cat([torch.as_tensor(camids).cpu() for camids in (query_camids, gallery_camids)])
    options = {"k1_intra": k1_intra, "k1_inter": k1_inter, "k2_intra": k2_intra, "k2_inter": k2_inter}
    options |= {"lambda_value": lambda_value, "memory_limit": memory_limit}
    reranked = KReciprocal.of_cameras(space, cameras, len(query), **options)
    return reranked.distances(slice(0, len(query)))


@dataclass(frozen=True, eq=False)
class KReciprocal:
    """Re-ranked distances, in blocks of queries.

    Attributes:
        space: the images, queries first, and their original distances.
        greatest: original distance of each image, (N,).
        query: descriptions of the queries, Q rows, in fixed point.
        gallery: descriptions of the gallery, transposed, in fixed point.
        lambda_value: share of the original distance.
        power: to which original distances are raised.
        memory_limit: bytes of working memory, 96 MiB unless told.
    """

    space: Space
    greatest: Tensor
    query: SparseRows
    gallery: SparseRows
    lambda_value: float
    power: float
    memory_limit: int | None

    @classmethod
    @full_precision()
    def of(
        cls,
        space: Space,
        num_query: int,
        *,
        k1: int = 20,
        k2: int = 6,
        lambda_value: float = 0.3,
        power: float = 2,
        memory_limit: int | None = None,
    ) -> KReciprocal:
        """Describe all images of a space of which the first `num_query` are the queries.

        Raises:
            ValueError: if a number is out of range, or the space holds distances that are not finite.
        """
        check_ranges(len(space), num_query, lambda_value, power, memory_limit)
        k1, k2 = counts_of(len(space), k1, k2)
        survey, everyone = space.survey(max(k1 + 1, k2)), slice(0, len(space))
        vectors = encode(space, survey, k1, everyone, power=power, memory_limit=memory_limit)
        if k2 > 1:
            vectors = expand_locally(vectors, survey.lists, k2, everyone, memory_limit=memory_limit)
        options = {"lambda_value": lambda_value, "power": power, "memory_limit": memory_limit}
        return cls.from_vectors(space, survey.greatest, vectors, num_query, **options)

    @classmethod
    @full_precision()
    def of_cameras(
        cls,
        space: Space,
        cameras: Tensor,
        num_query: int,
        *,
        k1_intra: int = 5,
        k1_inter: int = 20,
        k2_intra: int = 2,
        k2_inter: int = 4,
        lambda_value: float = 0.3,
        memory_limit: int | None = None,
    ) -> KReciprocal:
        """Describe all images by cameras, (N,) on the CPU, see ``ca_jaccard``; raises as ``of``."""
        check_ranges(len(space), num_query, lambda_value, 1, memory_limit)
        if len(cameras) != len(space):
            raise ValueError(f"expected the camera of {len(space)} images, got {len(cameras)}")
        others = len(space) - 1
        k1_intra, k1_inter, k2_intra, k2_inter = at_most(
            f"re-ranking of {len(space)} images", k1_intra=(k1_intra, others), k1_inter=(k1_inter, others),
            k2_intra=(k2_intra, len(space)), k2_inter=(k2_inter, len(space)),
        )  # fmt: skip
        survey = space.camera_survey(cameras, max(k1_intra + 1, k2_intra), max(k1_inter + 1, k2_inter))
        vectors = encode_cameras(survey, k1_intra, k1_inter, memory_limit)
        near = torch.cat([survey.intra[1][:, :k2_intra], survey.inter[1][:, :k2_inter]], 1)
        everyone = slice(0, len(space))
        vectors = expand_locally(vectors, near, near.shape[1], everyone, memory_limit=memory_limit)
        options = {"lambda_value": lambda_value, "power": 1, "memory_limit": memory_limit}
        return cls.from_vectors(space, survey.greatest, vectors, num_query, **options)

    @classmethod
    def from_vectors(
        cls,
        space: Space,
        greatest: Tensor,
        vectors: SparseRows,
        num_query: int,
        *,
        lambda_value: float,
        power: float = 2,
        memory_limit: int | None = None,
    ) -> KReciprocal:
        """From the finished descriptions of all images."""
        vectors = vectors.fixed()
        gallery = vectors[num_query:].transposed(len(vectors))
        return cls(space, greatest, vectors[:num_query], gallery, lambda_value, power, memory_limit)

    @full_precision()
    def __call__(self, rows: slice | Tensor) -> Tensor:
        """Distances (B, G) of a range of queries, or of some by index."""
        if isinstance(rows, slice):
            return self.distances(rows)
        parts = blocks_within(len(rows), self._row_bytes, self.memory_limit)
        return torch.cat([self._distances(rows[part]) for part in parts])

    @full_precision()
    def distances(self, rows: slice) -> Tensor:
        """Distances (B, G) of a range of queries to the whole gallery, float32, in 0 .. 1."""
        start, stop, _ = rows.indices(len(self.query))
        result = self.greatest.new_empty(stop - start, len(self.space) - len(self.query))
        for part in blocks_within(slice(start, stop), self._row_bytes, self.memory_limit):
            result[part.start - start : part.stop - start] = self._distances(part)
        return result

    def _distances(self, rows: slice | Tensor) -> Tensor:
        gallery = slice(len(self.query), len(self.space))
        original = _normalised(self.space.block(rows, gallery), self.greatest[rows, None], self.power)
        shared = min_sums(self.query[rows], self.gallery, original.shape[1])
        jaccard = 1 - shared / (2 - shared)
        return jaccard.lerp_(original, self.lambda_value)

    @cached_property
    def _row_bytes(self) -> int:
        images = torch.repeat_interleave(self.query.counts)
        meetings = self.gallery.counts[self.query.columns]
        most = torch.zeros_like(self.query.counts).index_add_(0, images, meetings).max()
        return 48 * int(most) + len(self.space) * (self.space.bytes_per_pair + 20)


def encode(
    space: Space,
    survey: Survey,
    k1: int,
    rows: slice,
    *,
    power: float = 2,
    memory_limit: int | None = None,
) -> SparseRows:
    """Describe a range of images by their expanded k-reciprocal neighbours (Zhong et al., eq. 7).

    Args:
        space: distances of neighbours that are not among an image's nearest.
        survey: of all images, lists of at least k1 + 1.
        k1: neighbours that may be reciprocal.
        rows: images to describe.
        power: to which distances are raised.
        memory_limit: bytes of working memory, 96 MiB unless told.

    Returns:
        Weights of the neighbours, of sum 1 in each row, all N images wide.
    """
    image, neighbour = reciprocal_sets(survey.lists, k1, rows, memory_limit=memory_limit)
    distances = _known(survey, image, neighbour, memory_limit)
    unknown = distances.isnan().nonzero()[:, 0]
    if len(unknown):
        distances[unknown] = space.pairs(image[unknown], neighbour[unknown])
    weights = _shares(image, _normalised(distances, survey.greatest[image], power), len(survey.greatest))
    return SparseRows.of(image - rows.start, neighbour, weights, rows.stop - rows.start)


def encode_cameras(
    survey: CameraSurvey, k1_intra: int, k1_inter: int, memory_limit: int | None
) -> SparseRows:
    """Describe all images by their reciprocal neighbours of their own and of other cameras."""
    pairs = []
    for (distances, lists), k1 in ((survey.intra, k1_intra), (survey.inter, k1_inter)):
        lists, distances = lists[:, : k1 + 1].contiguous(), distances[:, : k1 + 1]
        pairs.append(mutual_pairs(lists, distances, memory_limit=memory_limit))
    keys, distances = (torch.cat(column) for column in zip(*pairs))
    keys, order = keys.sort(stable=True)
    distances, first = distances[order], torch.ones_like(keys, dtype=torch.bool)
    first[1:] = keys[1:] != keys[:-1]  # a camera of few images has the same one in both lists
    keys, distances, images = keys[first], distances[first], len(survey.greatest)
    image, neighbour = keys.div(images, rounding_mode="floor"), keys.remainder(images)
    weights = _shares(image, _normalised(distances, survey.greatest[image], 1), images)
    return SparseRows.of(image, neighbour, weights, images)


def _shares(image: Tensor, distances: Tensor, images: int) -> Tensor:
    """Weights ``exp(-distance)`` of the pairs (P,), of sum 1 for each image."""
    weights = distances.neg().exp_()
    sums = torch.zeros(images, dtype=torch.int64, device=image.device).index_add_(0, image, to_fixed(weights))
    return weights.div_(from_fixed(sums)[image])


def counts_of(images: int, k1: int, k2: int) -> list[int]:
    """k1 and k2 as so many images have them; raises ValueError as `at_most`."""
    return at_most(f"re-ranking of {images} images", k1=(k1, images - 1), k2=(k2, images))


def check_ranges(
    images: int,
    num_query: int,
    lambda_value: float,
    power: float = 2,
    memory_limit: int | None = None,
) -> None:
    """Raise ValueError that names the first number out of range."""
    if not 1 <= num_query < images:
        raise ValueError(f"expected num_query in 1..{images - 1} for {images} images, got {num_query}")
    if not 0 <= lambda_value <= 1:
        raise ValueError(f"expected lambda_value in 0..1, got {lambda_value}")
    if not 0 < power < math.inf:
        raise ValueError(f"expected power > 0 and finite, got {power}")
    check_limit(memory_limit)


def _known(survey: Survey, image: Tensor, neighbour: Tensor, memory_limit: int | None) -> Tensor:
    """Distances (P,) of pairs where the neighbour is listed, NaN elsewhere."""
    result = torch.full((len(image),), math.nan, dtype=torch.float32, device=image.device)
    for part in blocks_within(len(image), 12 * survey.lists.shape[1], memory_limit):
        pair, place = (survey.lists[image[part]] == neighbour[part, None]).nonzero(as_tuple=True)
        result[part.start + pair] = survey.distances[image[part][pair], place]
    return result


def _normalised(distances: Tensor, greatest: Tensor, power: float) -> Tensor:
    # Raised after the division: the fourth power of an unnormalised feature's length may overflow.
    return (distances / greatest.clamp(min=_SMALLEST)).pow_(power)


def _check_shapes(qg: Tensor, qq: Tensor, gg: Tensor) -> None:
    shapes = tuple(tuple(x.shape) for x in (qg, qq, gg))
    if qg.ndim != 2 or shapes[1:] != ((len(qg),) * 2, (qg.shape[1],) * 2):
        listed = ", ".join(map(str, shapes))
        raise ValueError(f"expected distances of shapes (Q, G), (Q, Q) and (G, G), got {listed}")
