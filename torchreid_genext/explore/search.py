"""Searches that explain themselves: a ranked list after a chain, what the chain changed, and why."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from torchreid_genext.data.images.resizing import resized
from torchreid_genext.explore.prepared import Neighbour, Prepared, Time, prepare
from torchreid_genext.extraction import Encoder, FeatureTable
from torchreid_genext.ranklists.lists import Place, choose_queries, ranked_lists
from torchreid_genext.retrieval.chain import Chain
from torchreid_genext.retrieval.comparison import Comparison
from torchreid_genext.retrieval.protocol import known
from torchreid_genext.retrieval.sets import RetrievalSet, Training

__all__ = ["Answer", "Hit", "Picture", "Searcher", "Sets", "average_precision"]

_KEPT = 6  # chains
_TOP = 60  # longest list
_SHOWN = {"match": "match", "miss": "miss", "distractor": "miss"}


@dataclass(frozen=True, eq=False)
class Sets:
    """What is searched.

    Attributes:
        query, gallery: with paths.
        encoder: of uploaded crops.
        train: who was where when, for time.
        protocol: what counts, where people are known; None where nobody is.
        options: of ``protocol.compare``: metric, memory limit, index.
    """

    query: RetrievalSet
    gallery: RetrievalSet
    encoder: Encoder | FeatureTable
    train: Training | None = None
    protocol: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def prepare(self, query: RetrievalSet, chain: Chain) -> Prepared:
        """What a chain makes of some queries and the gallery."""
        return prepare(query, self.gallery, chain, train=self.train, **self.options)


@dataclass(frozen=True)
class Picture:
    """A file, and whether it shows the person beside it: match, miss, or nothing where that is unknown."""

    path: str
    kind: str = ""


@dataclass(frozen=True)
class Hit:
    """A place in a list.

    Attributes:
        picture: of the gallery.
        rank: after the chain; 0 for junk, which is not counted.
        before: rank without a chain, likewise.
        distance: after the chain.
        camera: from 1; None if unknown.
        neighbours: pictures that were averaged with it.
        time: what time says of it, if it is part of the distance.
    """

    picture: Picture
    rank: int
    before: int
    distance: float
    camera: int | None
    neighbours: list[Picture]
    time: Time | None


@dataclass(frozen=True)
class Answer:
    """What a search has found.

    Attributes:
        query: file of the query; empty for an upload.
        chain: in words.
        hits: after the chain. base: without one.
        neighbours: what was averaged with the query.
        precision: average precision without and with the chain; None where people are unknown.
        seconds: for the chain (0 if it was known), and for the list.
    """

    query: str
    chain: str
    hits: list[Hit]
    base: list[Hit]
    neighbours: list[Picture]
    precision: tuple[float, float] | None
    seconds: tuple[float, float]


class Searcher:
    """Searches one gallery; features are found when they are first asked for, chains applied once.

    Args:
        load: finds the sets, which may take minutes.
    """

    def __init__(self, load: Callable[[], Sets]) -> None:
        self._load, self._sets, self._lock = load, None, threading.RLock()
        self._prepared: OrderedDict[str, Prepared] = OrderedDict()

    @property
    def sets(self) -> Sets:
        """Query and gallery with their features."""
        with self._lock:
            self._sets = self._sets or self._load()
            return self._sets

    @property
    def known(self) -> set[str]:
        """What the data tell besides features, keys of ``steps.base.NEEDS``."""
        return known(self.sets.query, self.sets.gallery, self.sets.train)

    def telling(self, chain: Chain, count: int) -> list[int]:
        """Queries to begin with: those for whom a chain changes most, and others, by row.

        Where nobody is known, they are spread evenly.
        """
        sets = self.sets
        if sets.protocol is None:
            return (
                np.linspace(0, len(sets.query) - 1, min(count, len(sets.query))).round().astype(int).tolist()
            )
        reports = [self._after(each)[0].comparison.rank(sets.protocol) for each in (Chain(), chain)]
        return choose_queries([report.average_precision for report in reports], count)

    def search(self, row: int, chain: Chain, *, top: int = 10) -> Answer:
        """The gallery as a chain ranks it for a query of the set, where all queries take part in the chain.

        Args:
            row: of the query set.
            chain: of steps.
            top: length of the list, in 1 .. 60.

        Raises:
            ValueError: if there is no such row, the length is out of range, or the data lack what a step
                needs.
        """
        if not 0 <= row < len(self.sets.query):
            raise ValueError(f"expected a query in 0..{len(self.sets.query) - 1}, got {row}")
        base, prepared = self._after(Chain())[0], self._after(chain)
        return _answer(row, base, *prepared, chain, top, self.sets.protocol)

    def search_image(self, image: Image.Image, chain: Chain, *, top: int = 10) -> Answer:
        """The gallery for a crop of which nothing else is known, the only query.

        Args:
            image: in RGB, of any size.
            chain, top: as of `search`.

        Raises:
            ValueError: as `search`, or if the features come from a file and not from a network.
        """
        query = self._query_of(image)
        base, prepared = (self.sets.prepare(query, each) for each in (Chain(), chain))
        return _answer(0, base, prepared, prepared.seconds, chain, top, None)

    def _query_of(self, image: Image.Image) -> RetrievalSet:
        encoder = self.sets.encoder
        if isinstance(encoder, FeatureTable):
            raise ValueError("expected a network for an uploaded picture, got a file of features")
        pixels = torch.from_numpy(np.array(resized(image, *encoder.reading)))[None]
        features = encoder(pixels).to(self.sets.gallery.features.device)
        return RetrievalSet(features, torch.zeros(1, dtype=torch.int64), paths=[""])

    def _after(self, chain: Chain) -> tuple[Prepared, float]:
        """What a chain makes of both sets, and the seconds that it took now."""
        with self._lock:
            if chain.name in self._prepared:
                self._prepared.move_to_end(chain.name)
                return self._prepared[chain.name], 0.0
            made = self._prepared[chain.name] = self.sets.prepare(self.sets.query, chain)
            while len(self._prepared) > _KEPT:
                self._prepared.popitem(last=False)
            return made, made.seconds


def _answer(
    row: int, base: Prepared, prepared: Prepared, seconds: float, chain: Chain, top: int, protocol: str | None
) -> Answer:
    if not 1 <= top <= _TOP:
        raise ValueError(f"expected a list of 1..{_TOP} images, got {top}")
    start, known = time.perf_counter(), protocol is not None
    lists = [_ranked(each.comparison, row, protocol) for each in (base, prepared)]
    before = {place.index: place.rank for place in lists[0]}
    base_hits, hits = (
        _hits(each, row, [place for place in places if place.rank][:top], before, known)
        for each, places in zip((base, prepared), lists)
    )
    neighbours = _averaged(prepared, Neighbour(True, row), known)
    precision = tuple(map(average_precision, lists)) if known else None
    query = base.comparison.query.paths[row]
    seconds = seconds, time.perf_counter() - start
    return Answer(query, chain.name, hits, base_hits, neighbours, precision, seconds)


def _ranked(comparison: Comparison, row: int, protocol: str | None) -> list[Place]:
    """The whole gallery, closest first; without labels all but the query's own file."""
    if protocol is not None:
        return ranked_lists(comparison, [row], len(comparison.gallery), protocol)[0]
    distances = comparison.distances(torch.tensor([row]))[0].cpu().numpy()
    own, paths = os.path.realpath(comparison.query.paths[row] or os.devnull), comparison.gallery.paths
    order = np.argsort(distances, kind="stable").tolist()
    order = [
        index for index in order if np.isfinite(distances[index]) and os.path.realpath(paths[index]) != own
    ]
    return [Place(index, "", rank, float(distances[index])) for rank, index in enumerate(order, start=1)]


def _hits(
    prepared: Prepared, row: int, places: Sequence[Place], before: Mapping[int, int], known: bool
) -> list[Hit]:
    gallery = prepared.comparison.gallery
    times = prepared.times(row, [place.index for place in places])
    return [
        Hit(
            Picture(gallery.paths[place.index], _SHOWN.get(place.kind, "")), place.rank,
            before.get(place.index, 0), place.distance,
            None if gallery.camids is None else int(gallery.camids[place.index]) + 1,
            _averaged(prepared, Neighbour(False, place.index), known), time,
        )
        for place, time in zip(places, times)
    ]  # fmt: skip


def _averaged(prepared: Prepared, image: Neighbour, known: bool) -> list[Picture]:
    """What was averaged with an image."""
    return [
        Picture(_path(prepared, each), _kind(prepared, image, each) if known else "")
        for each in prepared.neighbours.get(image, ())
    ]


def _path(prepared: Prepared, image: Neighbour) -> str:
    return _set(prepared, image).paths[image.row]


def _kind(prepared: Prepared, image: Neighbour, other: Neighbour) -> str:
    one, two = (int(_set(prepared, each).pids[each.row]) for each in (image, other))
    return "match" if one == two else "miss"


def _set(prepared: Prepared, image: Neighbour) -> RetrievalSet:
    return prepared.comparison.query if image.of_query else prepared.comparison.gallery


def average_precision(places: Sequence[Place]) -> float:
    """Of a whole list: the mean of precision at each match; 0 without one."""
    ranks = [place.rank for place in places if place.kind == "match"]
    return float(np.mean([found / rank for found, rank in enumerate(ranks, start=1)])) if ranks else 0.0
