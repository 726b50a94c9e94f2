"""Who looks like whom, without labels: the first of a gallery for each query, as lists and as files."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from torchreid_genext.checkpoints import atomic_path, write_json, write_text
from torchreid_genext.retrieval._blocks import check_count
from torchreid_genext.retrieval.comparison import Comparison
from torchreid_genext.retrieval.sets import RetrievalSet

__all__ = ["Found", "Hit", "search", "write_found"]


class Hit(NamedTuple):
    """A place in a list: row of the gallery set, its path or row in words, and the distance to the query."""

    row: int
    name: str
    distance: float


@dataclass(frozen=True)
class Found:
    """Lists of all queries after a chain.

    Attributes:
        chain: in words.
        queries: path of each query, or its row in words.
        lists: the closest images of each query, closest first; equal distances by row.
    """

    chain: str
    queries: list[str]
    lists: list[list[Hit]]


def search(comparison: Comparison, *, top: int = 20) -> Found:
    """Rank the gallery for each query.

    A gallery image that is the query's own file is left out, and one whose features were zeros. Where no files
    are known, and both sets have the same features, each image's own row is left out.

    Args:
        comparison: what a chain made of both sets.
        top: length of each list, >= 1; shorter if the gallery is smaller.

    Raises:
        ValueError: if the length is below 1.
    """
    check_count("top", top)
    queries, names = _names(comparison.query), _names(comparison.gallery)
    own = _own_rows(comparison)
    lists: list[list[Hit]] = []
    for block in comparison.row_blocks(len(queries), len(names)):
        for distances in comparison.distances(torch.arange(len(queries))[block]).cpu().numpy():
            lists.append(_first(distances, own[len(lists)], names, top))
    steps = "+".join(map(str, comparison.steps)) or "base"
    return Found(steps, queries, lists)


def _first(distances: np.ndarray, own: set[int], names: list[str], top: int) -> list[Hit]:
    # Enough of them that the query's own files may drop out, and all that are as far as the last.
    count = min(top + len(own), len(distances))
    far = np.partition(distances, count - 1)[count - 1]
    near = np.flatnonzero(distances <= far)
    order = near[np.argsort(distances[near], kind="stable")]
    rows = [row for row in order.tolist() if row not in own and np.isfinite(distances[row])]
    return [Hit(row, names[row], float(distances[row])) for row in rows[:top]]


def _names(images: RetrievalSet) -> list[str]:
    return [*map(str, images.paths)] if images.paths is not None else [f"row {n}" for n in range(len(images))]


def _own_rows(comparison: Comparison) -> list[set[int]]:
    """Rows of the gallery that are the file of each query."""
    query, gallery = comparison.query.paths, comparison.gallery.paths
    if query is None or gallery is None:
        same = _is_same(comparison.query, comparison.gallery)
        return [{row} if same else set() for row in range(len(comparison.query))]
    rows: dict[str, set[int]] = {}
    for row, path in enumerate(gallery):
        rows.setdefault(os.path.realpath(path), set()).add(row)
    return [rows.get(os.path.realpath(path), set()) for path in query]


def _is_same(query: RetrievalSet, gallery: RetrievalSet) -> bool:
    """Whether a set is searched in itself, as its features tell."""
    return query.features.shape == gallery.features.shape and bool((query.features == gallery.features).all())


def write_found(found: Found, folder: str | Path) -> tuple[Path, Path, Path]:
    """Write ``search.json``, ``search.csv`` and ``search.npz`` (rows and distances (Q, top)) into a folder.

    Where a list is shorter than others, the npz has the row -1 and an infinite distance.
    """
    folder = Path(folder)
    queries = [
        {"query": query, "list": [hit._asdict() for hit in hits]}
        for query, hits in zip(found.queries, found.lists)
    ]
    write_json(folder / "search.json", {"chain": found.chain, "queries": queries})
    write_text(folder / "search.csv", _csv(found))
    top = max(map(len, found.lists), default=0)
    padded = [[*hits, *[Hit(-1, "", np.inf)] * (top - len(hits))] for hits in found.lists]
    rows = np.array([[hit.row for hit in hits] for hits in padded], dtype=np.int64)
    distances = np.array([[hit.distance for hit in hits] for hits in padded], dtype=np.float32)
    with atomic_path(folder / "search.npz") as temporary, open(temporary, "wb") as file:
        np.savez(file, rows=rows, distances=distances, queries=np.array(found.queries))
    return folder / "search.json", folder / "search.csv", folder / "search.npz"


def _csv(found: Found) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("query", "rank", "row", "name", "distance"))
    for query, hits in zip(found.queries, found.lists):
        writer.writerows((query, rank, *hit) for rank, hit in enumerate(hits, start=1))
    return text.getvalue()
