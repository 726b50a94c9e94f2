"""Distances that know whom the gallery's images are near: ARO (Yuan et al., CVPR workshops 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from torchreid_genext.retrieval._blocks import blocks_within
from torchreid_genext.retrieval._numerics import full_precision, magnitude, products, unit
from torchreid_genext.retrieval._reciprocal import SparseRows
from torchreid_genext.retrieval.comparison import Comparison, Metric
from torchreid_genext.retrieval.neighbours import at_most, check_features
from torchreid_genext.retrieval.spaces import nearest_and_own
from torchreid_genext.retrieval.steps.base import Step, option

__all__ = ["NeighbourIndex", "aro"]


@dataclass(frozen=True)
class NeighbourIndex(Step):
    """Take from each distance what query and gallery image have in common as neighbours; the last step."""

    k1: int = option(20, "gallery images that a query is near to", least=1)
    k2: int = option(20, "gallery images that a gallery image is near to, itself included", least=1)

    name = "aro"
    final = True
    uses = ("neighbours within the gallery set", "the gallery's neighbours of each query")

    def __call__(self, comparison: Comparison) -> Comparison:
        if not isinstance(comparison.measure, Metric):
            raise ValueError(f"expected a distance of features before aro, got {comparison.measure.name}")
        sets = comparison.query.features, comparison.gallery.features
        if comparison.measure.name == "cosine":  # half of which are squared distances of unit features
            sets = tuple(map(unit, sets))
        return comparison.with_reranking(Neighbourhoods.of(*sets, self.k1, self.k2, **comparison.search))


def aro(
    query: Tensor, gallery: Tensor, *, k1: int = 20, k2: int = 20, memory_limit: int | None = None
) -> Tensor:
    """Distances less what both images have in common as neighbours: ``A - A' B'^T``.

    A are the squared distances of queries to gallery, B those within the gallery, each row divided by its
    length. In A' and B' all but the k1 and k2 nearest of a row are 1, and rows are divided by their length
    again. Of equal distances at the end of a row's nearest those of smaller index are taken; the authors take
    all.

    Args:
        query: shape (Q, D), any scale.
        gallery: shape (G, D), likewise.
        k1: gallery images near a query, >= 1; more than G means all, and is said in a warning.
        k2: gallery images near one of them, itself included, likewise.
        memory_limit: bytes of working memory, 96 MiB unless told; the result comes on top.

    Returns:
        (Q, G) float32, smaller is closer, some below 0.

    Raises:
        ValueError: if a number is out of range, or the features are not finite or of two widths.
    """
    return Neighbourhoods.of(query, gallery, k1, k2, memory_limit=memory_limit)(slice(0, len(query)))


@dataclass(frozen=True, eq=False)
class Neighbourhoods:
    """The distances in blocks of queries; nothing of size (G, G) exists.

    A row of A' or B' is ``(1 - u) / length`` with few u that are not 0, so that a product of two rows is
    ``(G - sum u - sum v + u v) / (length length)``.

    Attributes:
        query: features (Q, D).
        gallery: features (G, D).
        k1: gallery images near a query.
        near: ``v`` of the gallery's images, transposed.
        sums: of v, (G,).
        lengths: of the rows of B before the last division, (G,).
        memory_limit: bytes of working memory.
        index: how neighbours are searched.
    """

    query: Tensor
    gallery: Tensor
    k1: int
    near: SparseRows
    sums: Tensor
    lengths: Tensor
    memory_limit: int | None
    index: str

    @classmethod
    @full_precision()
    def of(
        cls, query: Tensor, gallery: Tensor, k1: int, k2: int, *,
        memory_limit: int | None = None, index: str = "exact",
    ) -> Neighbourhoods:  # fmt: skip
        """Find out whom the gallery's images are near; raises as ``aro``."""
        query, gallery = check_features(query, "query"), check_features(gallery, "gallery")
        if query.shape[1] != gallery.shape[1]:
            raise ValueError(f"expected features of one width, got {query.shape[1]} and {gallery.shape[1]}")
        scale = 2.0 ** -magnitude(query, gallery)  # which rows of length 1 do not see; fourth powers overflow
        query, gallery = query * scale, gallery * scale
        k1, k2 = at_most("aro", k1=(k1, len(gallery)), k2=(k2, len(gallery)))
        distances, lists = nearest_and_own(gallery, k2, memory_limit=memory_limit, index=index)
        nearness = 1 - distances / _row_lengths(gallery)[:, None]
        lengths = _lengths(nearness, len(gallery))
        rows = torch.arange(len(gallery), device=gallery.device).repeat_interleave(k2)
        near = SparseRows.of(rows, lists.flatten(), nearness.flatten(), len(gallery)).transposed(len(gallery))
        return cls(query, gallery, k1, near, nearness.sum(1), lengths, memory_limit, index)

    @full_precision()
    def __call__(self, rows: slice | Tensor) -> Tensor:
        """Distances (B, G) of a range of queries, or of some by index."""
        query = self.query[rows]
        parts = blocks_within(len(query), self._row_bytes, self.memory_limit)
        return torch.cat([query.new_empty(0, len(self.gallery)), *(self._distances(query[p]) for p in parts)])

    def _distances(self, query: Tensor) -> Tensor:
        squares = query.square().sum(1), self._squares
        result = products(query, self.gallery, times=-2, plus=squares).clamp_(min=0)
        result /= result.norm(dim=1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny)
        values, lists = result.topk(self.k1, dim=1, largest=False)
        nearness = 1 - values
        shared = self._shared(lists, nearness)
        shared += len(self.gallery) - nearness.sum(1)[:, None] - self.sums
        return result.sub_(shared.div_(_lengths(nearness, len(self.gallery))[:, None]).div_(self.lengths))

    def _shared(self, lists: Tensor, nearness: Tensor) -> Tensor:
        """Sums (B, G) of ``u v`` over the images that both are near to."""
        place, entry = self.near.entries(lists.flatten())
        values = nearness.flatten()[place] * self.near.values[entry]
        places = place.div(self.k1, rounding_mode="floor") * len(self.gallery) + self.near.columns[entry]
        sums = values.new_zeros(len(lists) * len(self.gallery))
        return sums.index_add_(0, places, values).view(len(lists), -1)

    @cached_property
    def _squares(self) -> Tensor:
        return self.gallery.square().sum(1)

    @cached_property
    def _row_bytes(self) -> int:
        return 12 * len(self.gallery) + 40 * self.k1 * int(self.near.counts.max())


def _row_lengths(features: Tensor) -> Tensor:
    """Length (G,) of each row of the squared distances within a set.

    ``sum_j (a_i + a_j - 2 x_i x_j)^2``, with ``a`` the squared lengths, is a sum of products with all rows,
    which a Gram matrix (D, D) holds: G D^2 operations instead of G^2 D.
    """
    parts = (features - features.mean(0)).split(4096)  # of sum 0, and without the digits of a far origin
    squares = [part.square().sum(1) for part in parts]
    gram = sum(part.t() @ part for part in parts)
    weighted = sum(part.t() @ each for part, each in zip(parts, squares))
    crossed = torch.cat([(part @ gram * part).sum(1) - part @ weighted for part in parts])
    squares = torch.cat(squares)
    fourth = squares.square()
    sums = len(features) * fourth + fourth.sum() + 2 * squares * squares.sum() + 4 * crossed
    return sums.clamp_(min=torch.finfo(torch.float32).tiny).sqrt_()


def _lengths(nearness: Tensor, width: int) -> Tensor:
    """Length of rows that are ``1 - nearness`` in a few places, and 1 in all others, (B,)."""
    return ((1 - nearness).square().sum(1) + (width - nearness.shape[1])).sqrt()
