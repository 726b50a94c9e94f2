"""Rank lists: what they show is what the chain ranked, and the page can be trusted with any name."""

from __future__ import annotations

import csv
import functools
import json
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from torchreid_genext import ranklists
from torchreid_genext.benchmark import rank_lists
from torchreid_genext.benchmark.results import Measurement, Result
from torchreid_genext.benchmark.settings import Backbone
from torchreid_genext.ranklists import Place, RankLists, choose_queries, ranked_lists
from torchreid_genext.retrieval.comparison import Comparison
from torchreid_genext.retrieval.protocol import Report, RetrievalSet, evaluate, transform

CHAINS = ("base", "l2", "nfc")
QUERIES, GALLERY, DISTRACTOR = 12, 60, 0


def retrieval_set(count: int, pids: range, folder: Path, seed: int) -> RetrievalSet:
    """Features of few different values, so that many distances are equal."""
    generator = torch.Generator().manual_seed(seed)
    return RetrievalSet(
        torch.randint(1, 4, (count, 3), generator=generator).float(),
        torch.randint(pids.start, pids.stop, (count,), generator=generator),
        torch.randint(0, 3, (count,), generator=generator),
        paths=[str(folder / f"{seed}_{row}.jpg") for row in range(count)],
    )


@pytest.fixture
def sets(tmp_path: Path) -> tuple[RetrievalSet, RetrievalSet]:
    folder = tmp_path / "images"
    query = retrieval_set(QUERIES, range(1, 5), folder, seed=1)
    gallery = retrieval_set(GALLERY, range(DISTRACTOR, 5), folder, seed=2)
    folder.mkdir()
    for number, path in enumerate([*query.paths, *gallery.paths]):
        Image.new("RGB", (64, 128), (number, 255 - number, 90)).save(path)
    return query, gallery


@pytest.fixture
def lists(sets: tuple[RetrievalSet, RetrievalSet]) -> RankLists:
    return collected(sets)


def collected(
    sets: tuple[RetrievalSet, RetrievalSet], chains: tuple[str, ...] = CHAINS, **options: object
) -> RankLists:
    reports = [evaluate(*sets, chain) for chain in chains]
    names = {"dataset": "tiny", "label": "osnet"}
    return ranklists.collect(*sets, reports, functools.partial(transform, *sets), **names | options)


def fully_sorted(comparison: Comparison, row: int, depth: int) -> list[Place]:
    """The same list on a way without shortcuts: sort everything, walk down, stop after `depth` ranks."""
    query, gallery = comparison.query, comparison.gallery
    distances = comparison.matrix()[row].tolist()
    asked = set(query.pids.tolist())
    found, rank = [], 0
    for index in sorted(range(len(gallery)), key=lambda index: (distances[index], index)):
        pid, camid = int(gallery.pids[index]), int(gallery.camids[index])
        if rank == min(depth, len(gallery)):
            break
        if pid == int(query.pids[row]):
            kind = "junk" if camid == int(query.camids[row]) else "match"
        else:
            kind = "miss" if pid in asked else "distractor"
        rank += kind != "junk"
        found.append(Place(index, kind, 0 if kind == "junk" else rank, distances[index]))
    return found


# Who is ranked where


@pytest.mark.parametrize("depth", [1, 5, 20])
@pytest.mark.parametrize("chain", CHAINS)
def test_lists_are_the_beginning_of_the_sorted_gallery(
    sets: tuple[RetrievalSet, RetrievalSet], chain: str, depth: int
) -> None:
    comparison, rows = transform(*sets, chain), [7, 0, 3, 11]
    found = ranked_lists(comparison, rows, depth)
    assert found == [fully_sorted(comparison, row, depth) for row in rows]
    assert all(sum(place.rank > 0 for place in places) == depth for places in found)


def test_lists_hold_every_kind_and_equal_distances_stand_by_index(
    sets: tuple[RetrievalSet, RetrievalSet],
) -> None:
    lists = ranked_lists(transform(*sets, "base"), range(QUERIES), 30)
    places = [place for found in lists for place in found]
    assert {place.kind for place in places} == {"match", "miss", "distractor", "junk"}
    pairs = [(a, b) for a, b in zip(places, places[1:]) if a.distance == b.distance and b.rank > 1]
    assert pairs and all(a.index < b.index for a, b in pairs)


def test_a_list_longer_than_the_gallery_ends_with_it(sets: tuple[RetrievalSet, RetrievalSet]) -> None:
    comparison = transform(*sets, "base")
    (places,) = ranked_lists(comparison, [2], 10 * GALLERY)
    counted = [place for place in places if place.rank]
    assert counted == [place for place in fully_sorted(comparison, 2, GALLERY) if place.rank]
    assert [place.rank for place in counted] == list(range(1, len(counted) + 1))


@dataclass(frozen=True)
class Backwards:
    """A measure to which the farthest is the closest."""

    bytes_per_pair = 4

    def __call__(self, x: RetrievalSet, y: RetrievalSet) -> Tensor:
        return -torch.cdist(x.features, y.features)


def test_lists_follow_the_measure_and_the_reranking_of_the_chain(
    sets: tuple[RetrievalSet, RetrievalSet],
) -> None:
    measured = Comparison(*sets, measure=Backwards())
    final = measured.matrix()
    reranked = replace(Comparison(*sets), reranked=lambda rows: final[rows])
    plain, backwards, again = (
        [place.index for place in ranked_lists(comparison, [4], 10)[0]]
        for comparison in (Comparison(*sets), measured, reranked)
    )
    assert plain != backwards == again


def test_lists_after_reranking_are_the_beginning_of_its_order(
    sets: tuple[RetrievalSet, RetrievalSet],
) -> None:
    noisy = [images.with_features(images.features + torch.rand_like(images.features)) for images in sets]
    comparison, rows = transform(*noisy, "rerank(k1=5,k2=2)"), [9, 2]
    for row, places in zip(rows, ranked_lists(comparison, rows)):
        assert [place.index for place in places] == [p.index for p in fully_sorted(comparison, row, 10)]


def test_a_small_memory_limit_changes_nothing(sets: tuple[RetrievalSet, RetrievalSet]) -> None:
    whole, blocks = (transform(*sets, "base", memory_limit=limit) for limit in (None, 1))
    assert ranked_lists(whole, range(QUERIES)) == ranked_lists(blocks, range(QUERIES))


def test_lists_say_what_the_report_says(lists: RankLists) -> None:
    """Precision and first match, read off lists that hold the whole gallery."""
    sets = lists.query, lists.gallery
    whole = collected(sets, depth=GALLERY)
    for report, found in zip(whole.reports, whole.places):
        for row, places in zip(whole.rows, found):
            ranks = np.array([place.rank for place in places if place.kind == "match"])
            expected = (np.arange(1, len(ranks) + 1) / ranks).mean() if len(ranks) else np.nan
            assert report.average_precision[row] == pytest.approx(expected, nan_ok=True)
            assert report.first_match_rank[row] == (ranks[0] if len(ranks) else 0)


# Which queries


def test_all_queries_are_listed_if_they_are_few(lists: RankLists) -> None:
    assert lists.rows == list(range(QUERIES))


def test_largest_gains_and_losses_come_first_and_others_are_spread() -> None:
    before = np.full(100, 0.5)
    after, other = before.copy(), before.copy()
    after[[17, 40, 41, 42]] += [0.1, 0.4, 0.3, 0.2]
    other[[60, 61]] -= [0.05, 0.3]
    after[3] = before[3] = other[3] = np.nan
    rows = choose_queries([before, after, other], 10)
    assert rows == sorted(set(rows)) and len(rows) == 10
    assert {40, 61, 41, 60, 42} <= set(rows), "three gains by one chain and both losses by another"
    assert 17 not in rows, "half of the lists are of queries that changed least"
    gaps = np.diff([0, *(row for row in rows if row not in (40, 41, 42, 60, 61)), 99])
    assert gaps.max() <= 26
    assert rows == choose_queries([before, after, other], 10)


def test_one_chain_alone_spreads_its_queries() -> None:
    assert choose_queries([np.linspace(0, 1, 41)], 5) == [0, 10, 20, 30, 40]


# Files


def read_page(path: Path) -> dict:
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def test_json_holds_every_list_as_documented(lists: RankLists, tmp_path: Path) -> None:
    names = ranklists.write(lists, tmp_path)
    assert names == ("ranklists-osnet.json", "ranklists-osnet.csv", "ranklists-osnet.html")
    document = json.loads((tmp_path / names[0]).read_text())
    assert (document["dataset"], document["label"], document["depth"]) == ("tiny", "osnet", 10)
    assert [chain["name"] for chain in document["chains"]] == list(CHAINS)
    assert document["chains"][2]["mAP"] == lists.reports[2].mAP
    assert document["chains"][0]["repaired"] == document["chains"][0]["broken"] == 0
    query, ranked = document["queries"][5], document["queries"][5]["chains"]["nfc"]
    assert query["path"] == lists.query.paths[5] and query["camid"] == int(lists.query.camids[5])
    assert ranked["AP"] == pytest.approx(lists.reports[2].average_precision[5])
    for place, shown in zip(lists.places[2][5], ranked["list"]):
        assert shown["path"] == lists.gallery.paths[place.index]
        assert (shown["kind"], shown["rank"]) == (place.kind, place.rank or None)
        assert np.float32(shown["distance"]) == np.float32(place.distance)


def test_csv_holds_the_same_values_a_row_for_each_place(lists: RankLists, tmp_path: Path) -> None:
    name, table, _ = ranklists.write(lists, tmp_path)
    rows = list(csv.DictReader((tmp_path / table).open()))
    expected = [
        (query["path"], chain, str(number), place["path"], str(place["distance"]), str(place["rank"] or ""))
        for query in json.loads((tmp_path / name).read_text())["queries"]
        for chain, ranked in query["chains"].items()
        for number, place in enumerate(ranked["list"], 1)
    ]
    columns = ("query_path", "chain", "place", "path", "distance", "rank")
    assert [tuple(row[column] for column in columns) for row in rows] == expected


def test_changes_are_counted_over_all_queries_against_the_first_chain(
    sets: tuple[RetrievalSet, RetrievalSet],
) -> None:
    lists = collected(sets, queries=3)
    before, after = (lists.reports[i].first_match_rank for i in (0, 2))
    pairs = Counter(zip((before == 1).tolist(), (after == 1).tolist()))
    assert lists.changed(lists.reports[2]) == (pairs[False, True], pairs[True, False])
    assert len(lists.rows) == 3


def test_distances_without_end_are_null(sets: tuple[RetrievalSet, RetrievalSet], tmp_path: Path) -> None:
    distances = torch.full((QUERIES, GALLERY), torch.inf)
    endless = Comparison(*sets, reranked=lambda rows: distances[rows])
    lists = ranklists.collect(
        *sets, [evaluate(*sets, "base")], lambda chain: endless, dataset="tiny", label="osnet", depth=2
    )
    document = json.loads((tmp_path / ranklists.write(lists, tmp_path)[0]).read_text())
    assert document["queries"][0]["chains"]["base"]["list"][0]["distance"] is None


def test_names_of_files_are_plain_whatever_the_label_is(
    sets: tuple[RetrievalSet, RetrievalSet], tmp_path: Path
) -> None:
    names = ranklists.write(collected(sets, label="../a b@c"), tmp_path / "log")
    assert names[0] == "ranklists-..-a-b-c.json"
    assert {path.name for path in (tmp_path / "log").iterdir()} == set(names)


# The page


def test_page_holds_the_same_lists_and_every_thumbnail_once(lists: RankLists, tmp_path: Path) -> None:
    page = tmp_path / ranklists.write(lists, tmp_path)[2]
    data = read_page(page)
    kinds = list(data["kinds"])
    for chain, found in enumerate(lists.places):
        for query, places in zip(data["queries"], found):
            shown = query["lists"][chain]["places"]
            assert [kinds[kind] for _, kind, _ in shown] == [place.kind for place in places]
            names = [Path(lists.gallery.paths[place.index]).name for place in places]
            assert [data["images"][image][0] for image, _, _ in shown] == names
    uris = re.findall(r"data:image/jpeg;base64,[\w+/=]+", page.read_text())
    listed = {place.index for found in lists.places for places in found for place in places}
    assert len(uris) == len(data["images"]) == len(listed) + QUERIES


def test_page_asks_for_nothing_and_tells_no_folders(lists: RankLists, tmp_path: Path) -> None:
    text = (tmp_path / ranklists.write(lists, tmp_path)[2]).read_text()
    assert str(tmp_path) not in text
    addresses = {address for address in re.findall(r"\w+://[^\s\"'<>]+", text)}
    assert addresses == {"http://www.w3.org/2000/svg"}, "the name of a format, which nobody fetches"
    assert "default-src 'none'" in text and "<link" not in text.replace('<link rel="icon" href="data:,">', "")


class Tags(HTMLParser):
    """Counts elements, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] += 1


def test_no_name_becomes_markup(sets: tuple[RetrievalSet, RetrievalSet], tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror='alert(2)'>&\u2028\"@data@"
    query, gallery = sets
    named = replace(query, paths=[evil, *query.paths[1:]])
    plain = (tmp_path / ranklists.write(collected(sets), tmp_path)[2]).read_text()
    page = tmp_path / ranklists.write(collected((named, gallery), label=evil, dataset=evil), tmp_path)[2]
    assert Tags(page.read_text()).seen == Tags(plain).seen
    data = read_page(page)
    assert data["label"] == data["dataset"] == evil
    assert data["images"][data["queries"][0]["image"]][0] == Path(evil).name


def test_unreadable_images_have_a_placeholder_and_are_counted(
    sets: tuple[RetrievalSet, RetrievalSet], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    query, _ = sets
    Path(query.paths[0]).unlink()
    Path(query.paths[1]).write_bytes(Path(query.paths[2]).read_bytes()[:-100])
    Path(query.paths[3]).write_text("no image")
    data = read_page(tmp_path / ranklists.write(collected(sets), tmp_path)[2])
    missing = [image[0] for image in data["images"] if image[3] is None]
    assert sorted(missing) == sorted(Path(query.paths[row]).name for row in (0, 1, 3))
    assert f"3 images of rank lists cannot be read, the first is {query.paths[0]}" in caplog.text


def test_large_images_become_small_and_grey_ones_are_accepted(
    sets: tuple[RetrievalSet, RetrievalSet], tmp_path: Path
) -> None:
    query, _ = sets
    Image.effect_noise((600, 1200), 80).save(query.paths[0])
    page = tmp_path / ranklists.write(collected(sets), tmp_path)[2]
    data = read_page(page)
    uri = data["images"][data["queries"][0]["image"]][3]
    assert 1000 < len(uri) < 12000


def test_page_lists_what_its_filters_promise(lists: RankLists, tmp_path: Path) -> None:
    """In a real browser: the script runs, and shows as many queries as the lists say."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs chromium or google-chrome on the path")
    page = tmp_path / ranklists.write(lists, tmp_path)[2]
    before, after = (report.first_match_rank for report in (lists.reports[0], lists.reports[2]))
    expected = {
        "all": QUERIES,
        "right": (after == 1).sum(),
        "wrong": (after > 1).sum(),
        "repaired": ((before > 1) & (after == 1)).sum(),
        "broken": ((before == 1) & (after > 1)).sum(),
    }
    options = ["headless", "no-sandbox", "disable-gpu", "disable-background-networking", "no-first-run"]
    options += [f"user-data-dir={tmp_path / 'profile'}", "virtual-time-budget=3000", "dump-dom"]
    address = f"{page.as_uri()}#chain=nfc&with=base&queries=right"
    command = [browser, *(f"--{option}" for option in options), address]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    small = dict(re.findall(r'id="filter-(\w+)"[^>]*><span>\w+<small>(\d+)</small>', shown))
    assert {key: int(count) for key, count in small.items()} == expected
    assert re.search(rf'id="count"[^>]*><b>{expected["right"]}</b> of {QUERIES}<', shown)
    assert len(re.findall("<article", shown)) == expected["right"]


# From a benchmark


def test_benchmark_writes_lists_of_every_backbone_with_its_metric(
    sets: tuple[RetrievalSet, RetrievalSet], tmp_path: Path
) -> None:
    reports = [evaluate(*sets, chain, metric="cosine") for chain in CHAINS]
    measurements = [measurement(*sets, reports, label) for label in "ab"]
    result = Result("tiny", "cosine", "market1501", measurements, tmp_path)
    names = rank_lists.write(result, queries=5, depth=3)
    kinds = ("json", "csv", "html")
    assert names == tuple(f"ranklists-{label}.{kind}" for label in "ab" for kind in kinds)
    document = json.loads((tmp_path / names[3]).read_text())
    assert (document["dataset"], document["label"], document["metric"]) == ("tiny", "b", "cosine")
    assert len(document["queries"]) == 5
    (expected,) = ranked_lists(transform(*sets, "nfc", metric="cosine"), [document["queries"][0]["row"]], 3)
    shown = document["queries"][0]["chains"]["nfc"]["list"]
    assert [place["path"] for place in shown] == [sets[1].paths[place.index] for place in expected]


def measurement(query: RetrievalSet, gallery: RetrievalSet, reports: list[Report], label: str) -> Measurement:
    return Measurement(
        backbone=Backbone(label, "osnet_x0_25", ""),
        precision="fp32",
        computed=0,
        seconds=0.0,
        unreadable={},
        coverage={},
        query=query,
        gallery=gallery,
        reports=reports,
        differences=[None] * len(reports),
        precision_effect=None,
        metric=reports[0].metric,
    )


# What can be wrong


def test_repeated_and_missing_chains_are_refused(sets: tuple[RetrievalSet, RetrievalSet]) -> None:
    with pytest.raises(ValueError, match="expected different chains, at least one, got base, base"):
        collected(sets, ("base", "base"))
    with pytest.raises(ValueError, match="expected different chains, at least one, got none"):
        collected(sets, ())


def test_sets_without_paths_are_refused(sets: tuple[RetrievalSet, RetrievalSet]) -> None:
    with pytest.raises(ValueError, match="expected query and gallery sets with paths"):
        collected((sets[0], replace(sets[1], paths=None)))


def test_lists_of_nothing_are_refused(sets: tuple[RetrievalSet, RetrievalSet]) -> None:
    with pytest.raises(ValueError, match="expected lists of at least 1 rank, got 0"):
        collected(sets, depth=0)
    with pytest.raises(ValueError, match="expected at least 1 query to list, got 0"):
        collected(sets, queries=0)
