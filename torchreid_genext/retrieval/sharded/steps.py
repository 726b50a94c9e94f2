"""Steps of a chain on features that live in shards.

``l2``, ``fuse``, ``lda``, ``blend`` and ``st`` look at one image, or at one pair; what they learn comes from the
training split, which every process has. The others ask for images of other processes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from torchreid_genext.retrieval._blocks import blocks_within, check_limit
from torchreid_genext.retrieval._numerics import magnitude, rescaled, scale_of, unit
from torchreid_genext.retrieval.comparison import Comparison, Metric
from torchreid_genext.retrieval.neighbours import at_most
from torchreid_genext.retrieval.sets import RetrievalSet
from torchreid_genext.retrieval.sharded.neighbours import nearest, nfc, with_mutual
from torchreid_genext.retrieval.sharded.processes import Processes
from torchreid_genext.retrieval.sharded.shards import Shards
from torchreid_genext.retrieval.sharded.surveys import Part, survey
from torchreid_genext.retrieval.spaces import nearest_of
from torchreid_genext.retrieval.steps import Step
from torchreid_genext.retrieval.steps.base import on_each
from torchreid_genext.retrieval.steps.dmon import hops
from torchreid_genext.retrieval.steps.expansion import weighted_sums, weights_of
from torchreid_genext.retrieval.steps.tracklets import merge_tracklets

__all__ = ["STEPS", "applied", "check_step"]

_LOCAL = ("l2", "fuse", "blend", "st")


def check_step(step: Step) -> None:
    """Raise ValueError if shards do not know a step."""
    if step.name not in STEPS:
        raise ValueError(f"expected only the steps {', '.join(STEPS)} in shards, got {step.name}")
    if step.name != "nfc":
        return
    if step.side == "joint" or step.self_distance != math.inf:
        raise ValueError(
            "expected nfc in shards with self_distance=inf, and each set on its own, "
            f"got side={step.side}, self_distance={step.self_distance}"
        )


def applied(comparison: Comparison, step: Step, processes: Processes) -> Comparison:
    """The shards after a step that does not re-rank."""
    if step.name in _LOCAL:
        return comparison.after(step)
    start, measure = time.perf_counter(), comparison.measure
    steady = replace(measure, steady=True) if isinstance(measure, Metric) else measure
    changed = _TOGETHER[step.name](replace(comparison, measure=steady), step, processes)
    seconds = comparison.seconds.get(step.name, 0.0) + time.perf_counter() - start
    return replace(
        changed, steps=(*comparison.steps, step), seconds={**comparison.seconds, step.name: seconds}
    )


def _lda(comparison: Comparison, step: Step, processes: Processes) -> Comparison:
    """Learnt everywhere, as process 0 has learnt it: other processors may turn directions round."""
    metric = step.fit(comparison)
    for values in (metric.mean, metric.projection):
        processes.broadcast(values, 0)
    return step.project(comparison, metric)


def _nfc(comparison: Comparison, step: Step, processes: Processes) -> Comparison:
    def normalized(features: Tensor, wanted: bool) -> Tensor:
        return unit(features) if wanted else features

    def centralized(images: RetrievalSet) -> Tensor:
        features = normalized(images.features, step.normalize_before)
        options = {"memory_limit": comparison.memory_limit, "group": processes.group}
        if step.neighbours == "any":
            return normalized(nfc(features, k1=step.k1, k2=step.k2, **options), step.normalize_after)
        lists = _neighbours(images.with_features(features), step, comparison, processes)
        shards = Shards(len(features), processes)
        return normalized(with_mutual(features, lists, shards, step.k2), step.normalize_after)

    def left_alone(images: RetrievalSet) -> Tensor:
        return normalized(images.features, step.normalize_before or step.normalize_after)

    return on_each(comparison, step.side, centralized, left_alone)


def _neighbours(
    images: RetrievalSet, step: Step, comparison: Comparison, processes: Processes
) -> Tensor:
    """Places (n, k1) of the nearest by the step's rules in all shards, -1 where there are fewer."""
    measure = Metric()
    if step.neighbours == "cross_camera":  # features may be of any length
        scale = scale_of(max(processes.numbers(magnitude(images.features))))
        images = images.with_features(rescaled(images.features, scale))
    else:
        measure = step.measure(comparison)
    part = Part(images, Shards(len(images), processes))
    seen = survey(measure, [part], step.k1 + 1, comparison.memory_limit)
    distances, places = seen.far
    if "cross_camera" not in step.neighbours:
        distances, places = nearest_of((seen.near[0][:, 1:], seen.near[1][:, 1:]), seen.far, step.k1)
    return places.masked_fill(distances == math.inf, -1)[:, : step.k1].contiguous()


def _camera_norm(comparison: Comparison, step: Step, processes: Processes) -> Comparison:
    def prepared(images: RetrievalSet) -> RetrievalSet:
        return images.with_features(unit(images.features)) if step.normalize_before else images

    query, gallery = prepared(comparison.query), prepared(comparison.gallery)
    known = _Cameras.of(gallery, processes, comparison.memory_limit)
    own = _Cameras.of(query, processes, comparison.memory_limit) if step.statistics == "each" else known

    def normalized(images: RetrievalSet, *statistics: _Cameras) -> RetrievalSet:
        features = torch.empty_like(images.features)
        for rows in blocks_within(len(images), 64 * features.shape[1], comparison.memory_limit):
            features[rows] = _normalized(images.select(rows), step.epsilon, *statistics)
        return images.with_features(unit(features) if step.normalize_after else features)

    return comparison.with_sets(normalized(query, own, known), normalized(gallery, known))


@dataclass(frozen=True)
class _Cameras:
    """Statistics of the features of each camera, over all shards; in float64.

    Attributes:
        cameras: ids (C,), ascending. counts: images of each.
        means: (C + 1, D), the last of all cameras together. deviations: likewise.
    """

    cameras: Tensor
    counts: Tensor
    means: Tensor
    deviations: Tensor

    @classmethod
    def of(cls, images: RetrievalSet, processes: Processes, memory_limit: int | None) -> _Cameras:
        """From sums of the features, then of the squares of what differs from the mean."""
        features, camids = images.features, images.camids.to(images.features.device)
        cameras = processes.gather(camids.unique()).unique()
        code = torch.searchsorted(cameras, camids)
        counts = processes.sum(code.bincount(minlength=len(cameras)))

        def sums(values: Callable[[slice], Tensor]) -> Tensor:
            total = features.new_zeros(len(cameras), features.shape[1], dtype=torch.float64)
            for rows in blocks_within(len(images), 32 * features.shape[1], memory_limit):
                total.index_add_(0, code[rows], values(rows))
            return processes.sum(total)

        total = sums(lambda rows: features[rows].double())
        mean, means = total.sum(0) / counts.sum(), total / counts[:, None]
        squares = sums(lambda rows: (features[rows] - means[code[rows]]).square_())
        around = sums(lambda rows: (features[rows] - mean).square_()).sum(0) / counts.sum()
        variances = torch.cat([squares / counts[:, None], around[None]])
        return cls(cameras, counts, torch.cat([means, mean[None]]), variances.sqrt_())

    def find(self, camids: Tensor) -> Tensor:
        """Row of the statistics of some images' cameras (N,); the last where there are fewer than two."""
        place = torch.searchsorted(self.cameras, camids)
        known = torch.cat([self.cameras, self.cameras.new_full((1,), -1)])[place] == camids
        enough = torch.cat([self.counts, self.counts.new_zeros(1)])[place] > 1
        return torch.where(known & enough, place, len(self.cameras))


def _normalized(images: RetrievalSet, epsilon: float, *statistics: _Cameras) -> Tensor:
    """Features by the first statistics that know their camera, else by the last of all cameras."""
    features, camids = images.features, images.camids.to(images.features.device)
    result = features.clone()
    open_ = torch.ones_like(camids, dtype=torch.bool)
    for some in statistics:
        place, last = some.find(camids), some is statistics[-1]
        rows = (open_ & ((place < len(some.cameras)) | last)).nonzero()[:, 0]
        if some.counts.sum() > 1:
            own = place[rows]
            result[rows] = ((features[rows] - some.means[own]) / (some.deviations[own] + epsilon)).float()
        open_[rows] = False
    return result


def _dmon(comparison: Comparison, step: Step, processes: Processes) -> Comparison:
    def before(images: RetrievalSet) -> Tensor:
        return unit(images.features) if step.normalize_before else images.features

    def mixed(images: RetrievalSet) -> Tensor:
        result = dmon(
            before(images), processes, k1=step.k1, k2=step.k2, sigma=step.sigma, gamma=step.gamma,
            memory_limit=comparison.memory_limit,
        )  # fmt: skip
        return unit(result) if step.normalize_after else result

    return on_each(comparison, step.side, mixed, before)


def dmon(
    features: Tensor,
    processes: Processes,
    *,
    k1: int,
    k2: int,
    sigma: float,
    gamma: float,
    memory_limit: int | None = None,
) -> Tensor:
    """As ``steps.dmon.dmon``, of features (n, D) that live in shards: bit for bit its rows."""
    shards = Shards(len(features), processes)
    most = shards.total - 1
    k1, k2 = at_most("dmon", k1=(k1, most), k2=(k2, most))
    if k1 == 0:
        return gamma * features
    lists = nearest(features, k=max(k1, k2), memory_limit=memory_limit, group=processes.group)[1]
    result = torch.empty_like(features)
    size = max(1, check_limit(memory_limit) // (8 * features.shape[1] * k1 * k2**2))
    for rows in processes.rounds(len(features), size):
        around = _around(features, lists, shards, rows, k1, k2, sigma)
        result[rows] = gamma * features[rows] + (1 - gamma) * around
    return result


def _around(
    features: Tensor, lists: Tensor, shards: Shards, rows: slice, k1: int, k2: int, sigma: float
) -> Tensor:
    """The three hops of some rows, among copies of all images that they come by, in the same order."""
    own = torch.arange(rows.start, rows.stop, device=features.device) + shards.offset
    first = lists[rows, :k1].flatten().unique()
    second = shards.fetch(lists, first)[:, :k2].flatten().unique()
    passed = torch.cat([own, first, second]).unique()
    lists_here = shards.fetch(lists, passed)
    images = torch.cat([passed, lists_here.flatten()]).unique()
    local = lists_here.new_zeros(len(images), lists.shape[1])
    local[torch.searchsorted(images, passed)] = torch.searchsorted(images, lists_here)
    copies = shards.fetch(features, images)
    return hops(copies, local, torch.searchsorted(images, own), k1, k2, sigma)


def _tracklets(comparison: Comparison, step: Step, processes: Processes) -> Comparison:
    def merged(images: RetrievalSet) -> Tensor:
        return _merged(images, processes, gap=step.gap, threshold=step.threshold)

    return on_each(comparison, step.side, merged, lambda images: normalize(images.features))


def _merged(images: RetrievalSet, processes: Processes, **options: float) -> Tensor:
    """Each camera's images come together on one process, and go back as they came."""
    device = images.features.device
    camids, frames = images.camids.to(device), images.frames.to(device)
    owner = torch.searchsorted(processes.gather(camids.unique()).unique(), camids) % processes.count
    order = owner.argsort(stable=True)  # images of a camera stay in their order
    sizes = owner.bincount(minlength=processes.count).tolist()
    features, camids, frames = (
        processes.exchange(values[order].split(sizes)) for values in (images.features, camids, frames)
    )
    here, result = torch.cat(features), torch.empty_like(images.features)
    if len(here):
        here = merge_tracklets(here, torch.cat(camids), torch.cat(frames), **options)
    result[order] = torch.cat(processes.exchange(here.split([len(part) for part in features])))
    return result


def _query_expansion(comparison: Comparison, step: Step, processes: Processes) -> Comparison:
    query, gallery = unit(comparison.query.features), unit(comparison.gallery.features)
    shards = Shards(len(gallery), processes)
    (k,) = at_most("query expansion", k=(step.k, shards.total))
    found = nearest(query, gallery, k=k, memory_limit=comparison.memory_limit, group=processes.group)
    weights = weights_of(found[0], getattr(step, "alpha", 0.0))  # plain expansion weighs all alike
    expanded = unit(query + _sums(gallery, shards, found[1], weights))
    return comparison.with_sets(
        comparison.query.with_features(expanded), comparison.gallery.with_features(gallery)
    )


def _database_augmentation(comparison: Comparison, step: Step, processes: Processes) -> Comparison:
    query, gallery = unit(comparison.query.features), unit(comparison.gallery.features)
    shards = Shards(len(gallery), processes)
    (k,) = at_most("database augmentation", k=(step.k, shards.total - 1))
    if k:
        found = nearest(gallery, k=k, memory_limit=comparison.memory_limit, group=processes.group)
        own = torch.arange(len(gallery), device=gallery.device)[:, None] + shards.offset
        distances = torch.cat([found[0].new_zeros(len(own), 1), found[0]], 1)
        weights = weights_of(distances, step.alpha)
        gallery = unit(_sums(gallery, shards, torch.cat([own, found[1]], 1), weights))
    return comparison.with_sets(
        comparison.query.with_features(query), comparison.gallery.with_features(gallery)
    )


def _sums(features: Tensor, shards: Shards, indices: Tensor, weights: Tensor) -> Tensor:
    """``weighted_sums`` of rows wherever they are."""
    result = features.new_empty(len(indices), features.shape[1])
    for rows in shards.rounds(len(indices)):
        wanted = indices[rows].unique()
        copies = shards.fetch(features, wanted)
        result[rows] = weighted_sums(copies, torch.searchsorted(wanted, indices[rows]), weights[rows])
    return result


_TOGETHER: dict[str, Callable[[Comparison, Step, Processes], Comparison]] = {
    "aqe": _query_expansion, "alpha_qe": _query_expansion, "dba": _database_augmentation,
    "lda": _lda, "nfc": _nfc, "camera_norm": _camera_norm, "dmon": _dmon, "tracklets": _tracklets,
}  # fmt: skip

STEPS = (*_LOCAL, *_TOGETHER, "rerank", "ca_jaccard")
