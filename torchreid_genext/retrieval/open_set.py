"""Open set: whether two images show one person, and whether a person is in the gallery at all.

Ranking always answers; these figures ask for a decision, by a threshold on the distance.

Verification takes every pair of a query and a gallery image that the protocol counts: a genuine pair shows
one person, an impostor pair two. TPR is the share of genuine pairs at or below a threshold, FPR that of
impostor pairs (Jain and Li, Handbook of Face Recognition, 2nd edition, chapter 21: 1 - FRR, and FAR).

Open-set identification leaves people out of the gallery (Grother and Ngan, NIST IR 8009; the same handbook):
half of the queried identities, then the other half; figures are the mean of both folds. FAR is the share of
queries without their person in the gallery whose nearest image is at or below the threshold; DIR is the share
of the other queries whose nearest image shows their person, and is at or below it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchreid_genext.retrieval._blocks import blocks, check_limit
from torchreid_genext.retrieval.metrics import Ranking, block_shape

if TYPE_CHECKING:
    from torchreid_genext.retrieval.comparison import Comparison

__all__ = ["FALSE_ALARM_RATES", "FALSE_POSITIVE_RATES", "OpenSet", "Operating", "open_set"]

FALSE_POSITIVE_RATES = (1e-2, 1e-3)
FALSE_ALARM_RATES = (1e-1, 1e-2)

_BYTES = 24  # of a pair, beside its distance
_MOST_BINS = 2**22


@dataclass(frozen=True)
class Operating:
    """A decision.

    Attributes:
        threshold: distance up to which a pair is taken for one person; -infinity: no pair is.
        tpr: share of genuine pairs that are. fpr: share of impostor pairs that are.
    """

    threshold: float
    tpr: float
    fpr: float


@dataclass(frozen=True)
class OpenSet:
    """Rates are fractions in 0 .. 1, NaN where there is nothing to count.

    Attributes:
        genuine: pairs of one person. impostors: pairs of two.
        eer: the least that FPR and 1 - TPR can both be held to, over all thresholds.
        verification: allowed FPR -> the largest threshold at a genuine pair that keeps to it.
        identification: allowed FAR -> DIR at rank 1; equal distances count against the query.
        given: what the thresholds do that were given, such as those of other data, by their names.
    """

    genuine: int
    impostors: int
    eer: float
    verification: dict[float, Operating]
    identification: dict[float, float]
    given: dict[float, Operating]

    def to_json(self) -> dict[str, Any]:
        """Plain Python values, None where there is none."""
        return {
            "genuine": self.genuine,
            "impostors": self.impostors,
            "eer": _plain(self.eer),
            "tpr_at_fpr": {f"{rate:g}": _plain_values(found) for rate, found in self.verification.items()},
            "dir_at_far": {f"{rate:g}": _plain(found) for rate, found in self.identification.items()},
            "given": {f"{rate:g}": _plain_values(found) for rate, found in self.given.items()},
        }


def open_set(
    comparison: Comparison,
    ranking: Ranking,
    *,
    thresholds: Mapping[float, float] | None = None,
    seed: int = 0,
) -> OpenSet:
    """Decide on all pairs and on people who are not in the gallery.

    Args:
        comparison: two sets after a chain.
        ranking: of the same comparison; its protocol says what counts.
        thresholds: distances to look at besides, by the FPR that they stand for elsewhere.
        seed: of the choice of the identities that are left out first.

    Raises:
        ValueError: if the ranking is of other queries, or no query has a match.
    """
    if len(ranking) != len(comparison.query) or not ranking.valid.any():
        queries = f"{len(ranking)} of which {ranking.valid.sum()} have a match"
        raise ValueError(f"expected a ranking of {len(comparison.query)} queries with matches, got {queries}")
    given = thresholds or {}
    genuine = np.sort(ranking.matches["distance"]).astype(np.float32)
    levels = np.unique(np.append(genuine, np.array([*given.values()], dtype=np.float32)))
    halves = _halves(comparison.query.pids.numpy()[ranking.counted], seed)
    impostors = _Impostors(comparison, ranking, levels, halves)

    def operating(threshold: float) -> Operating:
        share = np.searchsorted(genuine, np.float32(threshold), side="right") / len(genuine)
        return Operating(float(threshold), float(share), float(impostors.fpr(np.array([threshold]))[0]))

    fpr = impostors.fpr(genuine)
    fnr = 1 - np.searchsorted(genuine, genuine, side="right") / len(genuine)
    return OpenSet(
        genuine=len(genuine),
        impostors=impostors.total,
        eer=float(np.maximum(fpr, fnr).min()),
        verification={rate: operating(_threshold(genuine, fpr, rate)) for rate in FALSE_POSITIVE_RATES},
        identification={rate: impostors.detected(rate) for rate in FALSE_ALARM_RATES},
        given={rate: operating(threshold) for rate, threshold in given.items()},
    )


def _threshold(genuine: NDArray, fpr: NDArray, rate: float) -> float:
    """The largest genuine distance at which not more than a rate of impostors are accepted."""
    accepted = np.searchsorted(fpr, rate, side="right")
    return float(genuine[accepted - 1]) if accepted else -np.inf


def _halves(pids: NDArray, seed: int) -> dict[int, int]:
    """Identity -> 0 or 1, at random, as many of each."""
    people = np.random.default_rng(seed).permutation(np.unique(pids)).tolist()
    return {pid: number % 2 for number, pid in enumerate(people)}


class _Impostors:
    """Pairs of two people, counted at some distances, and the nearest of each query.

    Attributes:
        total: of them.
    """

    def __init__(
        self, comparison: Comparison, ranking: Ranking, levels: NDArray, halves: dict[int, int]
    ) -> None:
        self._levels, self.total = levels, 0
        counted = np.flatnonzero(ranking.counted)
        query, gallery = comparison.query.pids.numpy()[counted], comparison.gallery.pids.numpy()
        self._half = np.array([halves[pid] for pid in query.tolist()])
        self._group = np.array([halves.get(pid, 2) for pid in gallery.tolist()])
        genuine = np.full(len(ranking), np.inf)
        np.minimum.at(genuine, ranking.matches["query"], ranking.matches["distance"])
        self._genuine = genuine[counted]
        self._nearest, self._up_to = self._survey(comparison, ranking, counted)

    def fpr(self, thresholds: NDArray) -> NDArray[np.float64]:
        """Share of the impostors up to thresholds that are among the levels, or -infinity."""
        place = np.searchsorted(self._levels, thresholds.astype(np.float32), side="right")
        return np.append(0, self._up_to)[place] / max(1, self.total)

    def detected(self, rate: float) -> float:
        """DIR at a FAR, mean of both folds; NaN of one person."""
        folds = (0, 1) if self._half.any() else ()
        return float(np.mean([self._detected_in(fold, rate) for fold in folds])) if folds else np.nan

    def _detected_in(self, fold: int, rate: float) -> float:
        """The same with one half in the gallery, together with those that nobody asks for."""
        impostor = self._nearest[:, [fold, 2]].min(1)
        mated = self._half == fold
        alarms = np.sort(impostor[~mated])
        allowed = np.count_nonzero(np.arange(1, len(alarms) + 1) / len(alarms) <= rate)
        below = np.append(alarms, np.inf)[allowed]  # this one would be an alarm too many
        return float((self._genuine < np.minimum(impostor, below))[mated].mean())

    def _survey(self, comparison: Comparison, ranking: Ranking, counted: NDArray) -> tuple[NDArray, NDArray]:
        """Nearest impostors (Q, 3) of each half of the identities and of others; counts at the levels."""
        gallery = ranking.protocol.gallery(comparison.gallery.pids.numpy(), None)
        columns = gallery.codes, gallery.codes_of(comparison.query.pids.numpy()[counted]), self._group
        device = comparison.gallery.features.device
        codes, own, group = (torch.from_numpy(column).to(device) for column in columns)
        junk = codes == gallery.code(gallery.junk_pid)
        nearest = torch.full((len(counted), 3), torch.inf, device=device)
        counts = _Counts(torch.from_numpy(self._levels).to(device))
        for rows, columns, block in _blocks_of(comparison, torch.from_numpy(counted)):
            excluded = (codes[columns] == own[rows, None]).logical_or_(junk[columns])
            self.total += excluded.numel() - int(excluded.sum())
            block = block.masked_fill(excluded, torch.inf)
            nearest[rows].scatter_reduce_(1, group[columns].expand(block.shape), block, "amin")
            counts.add(block.flatten())
        return nearest.cpu().numpy(), counts.up_to().clip(max=self.total)


def _blocks_of(comparison: Comparison, queries: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Distances of some queries to the gallery, block by block."""
    total, each = len(comparison.gallery), comparison.measure.bytes_per_pair + _BYTES
    limit = 4 * max(1, check_limit(comparison.memory_limit) // each)
    shape = block_shape(len(queries), total, limit, whole_rows=comparison.reranked is not None)
    for rows in blocks(len(queries), shape[0]):
        for columns in blocks(total, shape[1]):
            yield rows, columns, comparison.distances(queries[rows], columns)


class _Counts:
    """How many values lie at or below each of some ascending levels.

    A search for each value is slow. So the range of the levels is cut into bins, many more than levels, and
    only values of a bin with a level in it are searched for.
    """

    def __init__(self, levels: Tensor) -> None:
        self._levels, finite = levels, levels[levels.isfinite()]
        self._low, high = (finite[[0, -1]] if len(finite) else levels.new_zeros(2)).tolist()
        self._spread, bins = high - self._low, min(_MOST_BINS, 16 * len(levels))
        self._scale = bins / self._spread if self._spread > 1e-30 else 0.0
        self._spread *= 1 + 2 / bins  # what lies beyond all levels has a bin of its own
        self._occupied = torch.zeros(bins + 4, dtype=torch.bool, device=levels.device)
        self._occupied[self._bins(levels)] = True
        self._by_bin = torch.zeros(bins + 4, dtype=torch.int64, device=levels.device)
        self._by_level = torch.zeros(len(levels) + 1, dtype=torch.int64, device=levels.device)

    def add(self, values: Tensor) -> None:
        """Count values (N,)."""
        bins = self._bins(values)
        self._by_bin += torch.bincount(bins, minlength=len(self._by_bin))
        close = values[self._occupied[bins]]
        below = torch.searchsorted(self._levels, close, out_int32=True)
        self._by_level += torch.bincount(below, minlength=len(self._by_level))

    def up_to(self) -> NDArray[np.int64]:
        """Counts (L,)."""
        free = (~self._occupied).nonzero()[:, 0]
        below = torch.searchsorted(self._bins(self._levels), free.int())
        return self._by_level.index_add(0, below, self._by_bin[free])[:-1].cumsum(0).cpu().numpy()

    def _bins(self, values: Tensor) -> Tensor:
        """Bin of each value: never falls where values rise."""
        return (values - self._low).clamp_(0, self._spread).mul_(self._scale).int()


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _plain_values(found: Operating) -> dict[str, float | None]:
    return {name: _plain(value) for name, value in vars(found).items()}
