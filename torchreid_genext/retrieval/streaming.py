"""Rank matches from blocks of distances: neither their matrix nor a whole row of it need exist."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from torchreid_genext.retrieval._blocks import blocks as row_blocks
from torchreid_genext.retrieval._sampling import sampled_cmc
from torchreid_genext.retrieval._tally import Gallery, Tally
from torchreid_genext.retrieval.ranking import PROTOCOLS, Ranking

__all__ = ["Blocks", "block_shape", "collect", "count", "junk_of", "rank_streamed"]

Distances = Callable[[slice, slice], ArrayLike]

_WORKING_MEMORY = 96 * 2**20  # bytes of a block of distances; larger blocks are not faster
_ENOUGH_ROWS = 64  # for a product to run at speed
_TILE_ROWS = 512


def rank_streamed(
    distances: Distances,
    q_pids: ArrayLike,
    g_pids: ArrayLike,
    q_camids: ArrayLike,
    g_camids: ArrayLike,
    *,
    query_rows: int | None = None,
    gallery_rows: int | None = None,
    memory_limit: int | None = None,
    protocol: str = "market1501",
    max_rank: int = 50,
) -> Ranking:
    """Rank the matches of each query from blocks of distances that are asked for when they are needed.

    Blocks that hold matches are asked for twice, unless the gallery is one block: the distances of all
    matches of a query must be known before anything can be counted. Both times they must be the same, bit for
    bit.

    Args:
        distances: gives the distances of a slice of the queries from a slice of the gallery, (B, b).
        q_pids: identity of each query (Q,).
        g_pids: identity of each gallery image (G,).
        q_camids: camera of each query (Q,).
        g_camids: camera of each gallery image (G,).
        query_rows: queries of a block; ``None`` derives it from ``memory_limit``.
        gallery_rows: gallery images of a block; likewise. The cuhk03 protocol samples from whole rows.
        memory_limit: bytes of a block of distances, 96 MiB unless told.
        protocol: one of ``PROTOCOLS``.
        max_rank: length of the sampled CMC under cuhk03; at most G.

    Raises:
        ValueError: if lengths or blocks do not fit, a distance is NaN, or an argument is out of range.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; choose from {', '.join(PROTOCOLS)}")
    q_pids, q_camids = _labels(q_pids, q_camids, "queries")
    g_pids, g_camids = _labels(g_pids, g_camids, "gallery images")
    derived = block_shape(len(q_pids), len(g_pids), memory_limit, whole_rows=protocol == "cuhk03")
    query_rows, gallery_rows = query_rows or derived[0], gallery_rows or derived[1]
    gallery = Gallery(g_pids, g_camids, junk_pid=junk_of(protocol), own_camera=protocol == "genid")
    blocks = Blocks(distances, len(gallery), gallery_rows)
    parts = []
    for rows in row_blocks(len(q_pids), query_rows, "query_rows"):
        tally = Tally(gallery, q_pids[rows], q_camids[rows])
        collect(tally, blocks, rows)
        tally.sort()
        count(tally, blocks, rows)
        parts.append(Ranking.of(tally, protocol))
        if protocol == "cuhk03":
            curves = sampled_cmc(blocks(rows, slice(0, len(gallery))), q_pids[rows], g_pids,
                                 q_camids[rows], g_camids, min(max_rank, len(gallery)))  # fmt: skip
            parts[-1] = replace(parts[-1], sampled_cmc=curves)
    return Ranking.concatenate(parts)


def block_shape(
    queries: int, gallery: int, memory_limit: int | None = None, *, whole_rows: bool = False
) -> tuple[int, int]:
    """Queries and gallery images of a block of float32 distances; whole rows where enough of them fit.

    Raises:
        ValueError: if the memory limit is below one byte.
    """
    memory_limit = _WORKING_MEMORY if memory_limit is None else memory_limit
    if memory_limit < 1:
        raise ValueError(f"expected memory_limit >= 1 byte, got {memory_limit}")
    rows = memory_limit // (4 * gallery)
    if whole_rows or rows >= min(_ENOUGH_ROWS, queries):
        return min(queries, max(1, rows)), gallery
    rows = min(queries, _TILE_ROWS)
    return rows, max(1, min(gallery, memory_limit // (4 * rows)))


def junk_of(protocol: str) -> int | None:
    """Identity of gallery images that a protocol leaves out of every ranking."""
    return -1 if protocol == "streid" else None


class Blocks:
    """Blocks of distances as they come from outside: checked, and the last one remembered."""

    def __init__(self, distances: Distances, gallery: int, gallery_rows: int) -> None:
        self.columns = list(row_blocks(gallery, gallery_rows, "gallery_rows"))
        self._distances, self._key, self._block = distances, None, None

    def __call__(self, rows: slice, columns: slice) -> NDArray:
        key = rows.start, rows.stop, columns.start, columns.stop
        if key != self._key:
            self._block = None  # the old one goes before the new one comes
            self._key, self._block = key, _checked(self._distances(rows, columns), rows, columns)
        return self._block


def collect(tally: Tally, blocks: Blocks, rows: slice) -> None:
    """Look up the distances of the matches of some queries."""
    first = tally.gallery.first
    for columns in blocks.columns:
        if tally.within(first + columns.start, first + columns.stop).any():
            tally.collect(blocks(rows, columns), first + columns.start)


def count(tally: Tally, blocks: Blocks, rows: slice) -> None:
    """Count the strangers before each match, beginning with the block that is still there."""
    for columns in reversed(blocks.columns):
        tally.count(blocks(rows, columns), tally.gallery.first + columns.start)


def _labels(pids: ArrayLike, camids: ArrayLike, whose: str) -> tuple[NDArray, NDArray]:
    pids, camids = np.asarray(pids), np.asarray(camids)
    if not 0 < len(pids) == len(camids):
        raise ValueError(
            f"expected as many cameras as identities, got {len(pids)} and {len(camids)} of {whose}"
        )
    return pids, camids


def _checked(block: ArrayLike, rows: slice, columns: slice) -> NDArray:
    block, shape = np.asarray(block), (rows.stop - rows.start, columns.stop - columns.start)
    if block.shape != shape:
        raise ValueError(f"expected distances of shape {shape}, got {block.shape}")
    if np.isnan(block.min()):  # NaN compares as "not nearer": every match would rank first
        bad = np.flatnonzero(np.isnan(block).any(1))
        first = bad[0] + rows.start
        raise ValueError(
            f"expected distances without NaN, got some for {len(bad)} queries, the first is {first}"
        )
    return block
