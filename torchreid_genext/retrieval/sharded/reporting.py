"""What the processes have found, each of its own queries, as one report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.lib.recfunctions import structured_to_unstructured, unstructured_to_structured
from numpy.typing import NDArray
from torch import Tensor

from torchreid_genext.retrieval._blocks import blocks_within
from torchreid_genext.retrieval._numerics import from_fixed, to_fixed, unit
from torchreid_genext.retrieval.camera_pairs import CameraPairs, camera_pairs
from torchreid_genext.retrieval.chain import Chain
from torchreid_genext.retrieval.comparison import Comparison
from torchreid_genext.retrieval.metrics import MATCHES, Ranking
from torchreid_genext.retrieval.report import Report
from torchreid_genext.retrieval.sets import RetrievalSet
from torchreid_genext.retrieval.sharded.processes import Processes
from torchreid_genext.retrieval.sharded.shards import Shards

__all__ = ["assembled"]


def assembled(
    comparison: Comparison, own: Ranking, processes: Processes, *, max_rank: int, seconds: dict[str, float]
) -> Report:
    """The report of the queries of all processes.

    Args:
        comparison: the shards of this process after a chain.
        own: what was found of this process's queries.
        processes: that hold the shards.
        max_rank: length of the CMC curve.
        seconds: by step, on this process.
    """
    query, gallery = comparison.query, comparison.gallery
    shards, chain = Shards(len(gallery), processes), Chain(comparison.steps)
    ranking = _everyones(own, processes)
    query_pids = processes.gather(query.pids.to(processes.device))
    wanted = torch.isin(gallery.pids.to(processes.device), query_pids).cpu()
    sets = query, gallery.select(wanted)
    densities = [_densities(images, processes, comparison.memory_limit) for images in sets]
    of_query, of_gallery = (processes.gather(values).cpu().numpy() for values in densities)
    return Report(
        chain=chain.name,
        protocol="; ".join((ranking.protocol.label, *chain.uses)),
        metric=comparison.measure.name,
        cmc=tuple(ranking.cmc(min(max_rank, shards.total)).tolist()),
        id2_query=float(of_query.mean()),
        id2_gallery=float(of_gallery.mean()),
        num_gallery=shards.total,
        seconds=seconds,
        ranking=ranking,
        query_pids=query_pids.cpu().numpy(),
        density_query=of_query,
        density_gallery=of_gallery,
        cameras=_by_cameras(comparison, own, ranking, shards),
    )


def _densities(images: RetrievalSet, processes: Processes, memory_limit: int | None) -> Tensor:
    """``id2`` of this process's images, around the centres of the images of all."""
    features, pids = images.features, images.pids.to(processes.device)
    people = processes.gather(pids.unique()).unique()
    identity, dtype = torch.searchsorted(people, pids), torch.float64 if features.is_cpu else torch.int64
    counts = processes.sum(identity.bincount(minlength=len(people)))
    sums = features.new_zeros(len(people), features.shape[1], dtype=dtype)
    result = features.new_empty(len(pids))
    parts = list(blocks_within(len(pids), 16 * features.shape[1], memory_limit))
    for part in parts:
        sums.index_add_(0, identity[part], to_fixed(unit(features[part]), dtype))
    centres = from_fixed(processes.sum(sums)).div_(counts[:, None])
    for part in parts:
        result[part] = (unit(features[part]) - centres[identity[part]]).square_().sum(1)
    return result


def _by_cameras(
    comparison: Comparison, own: Ranking, ranking: Ranking, shards: Shards
) -> CameraPairs | None:
    processes, sets = shards.processes, (comparison.query, comparison.gallery)
    if any(processes.numbers(any(images.camids is None for images in sets))):
        return None
    of_query, of_gallery = (images.camids.to(processes.device) for images in sets)
    index = torch.from_numpy(own.matches["index"].copy()).to(processes.device)
    found = [shards.fetch(of_gallery, index[part]) for part in shards.rounds(len(index))]
    of_match = torch.cat([of_gallery[:0], *found])
    return camera_pairs(ranking, *(processes.gather(values).cpu().numpy() for values in (of_query, of_match)))


def _everyones(ranking: Ranking, processes: Processes) -> Ranking:
    """The rankings of all processes as one."""
    names = [name for name in ranking.columns if name != "matches"]
    own = [getattr(ranking, name) for name in names]
    every = _gathered(np.stack(own, axis=1), processes)
    columns = {name: row.astype(values.dtype) for name, row, values in zip(names, every.T, own)}
    matches = _gathered(structured_to_unstructured(ranking.matches), processes)
    return replace(ranking, matches=unstructured_to_structured(matches, MATCHES), **columns)


def _gathered(rows: NDArray, processes: Processes) -> NDArray[np.float64]:
    """The rows of all processes, process 0's first."""
    return processes.gather(torch.from_numpy(rows.astype(np.float64)).to(processes.device)).cpu().numpy()
