from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from torchreid_genext.explore.chains import Controls
from torchreid_genext.explore.search import Searcher, Sets, average_precision
from torchreid_genext.extraction import Encoder
from torchreid_genext.ranklists.lists import Place
from torchreid_genext.retrieval.chain import Chain
from torchreid_genext.retrieval.protocol import RetrievalSet, Sightings, evaluate
from torchreid_genext.retrieval.steps.nfc import mutual_neighbours

PEOPLE, EACH, CAMERAS = 8, 4, 3


class Colours(torch.nn.Module):
    """Mean colours of two halves: a network that is quickly through."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, (2, 1)).flatten(1)


def retrieval_set(name: str, each: int, seed: int) -> RetrievalSet:
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(PEOPLE, 6, generator=torch.Generator().manual_seed(7))
    pids = torch.arange(PEOPLE).repeat_interleave(each)
    count = len(pids)
    features = centres[pids] + 0.6 * torch.randn(count, 6, generator=random)
    camids = torch.randint(CAMERAS, (count,), generator=random)
    frames = 1000 * pids + 300 * camids + torch.randint(100, (count,), generator=random)
    paths = [f"{name}/{row}.jpg" for row in range(count)]
    return RetrievalSet(features, pids, camids, frames=frames, paths=paths)


@pytest.fixture
def sets() -> Sets:
    query, gallery, seen = (retrieval_set(*each) for each in (("q", 2, 1), ("g", EACH, 2), ("t", 6, 3)))
    encoder = Encoder(Colours(), height=16, width=8)
    return Sets(query, gallery, encoder, Sightings(seen.pids, seen.camids, seen.frames), "market1501")


@pytest.mark.parametrize("chain", ["base", "nfc", "l2+rerank", "st", "camera_norm+tracklets+nfc+st+rerank"])
def test_a_list_and_its_precision_are_those_of_an_evaluation(sets: Sets, chain: str) -> None:
    report = evaluate(sets.query, sets.gallery, chain, train=sets.train)
    for row in (0, 5, 11):
        answer = Searcher(lambda: sets).search(row, Chain.parse(chain), top=60)
        assert answer.precision[1] == pytest.approx(report.average_precision[row], abs=1e-5)
        kinds = [hit.picture.kind for hit in answer.hits]
        assert kinds.index("match") + 1 == report.ranking.rank1[row] or report.ranking.rank1[row] != 1
        assert [hit.rank for hit in answer.hits] == [*range(1, len(kinds) + 1)]


def test_ranks_before_are_those_without_a_chain(sets: Sets) -> None:
    answer = Searcher(lambda: sets).search(3, Chain.parse("nfc+st"), top=60)
    alone = {hit.picture.path: hit.rank for hit in answer.base}
    assert all(hit.before == alone[hit.picture.path] for hit in answer.hits)
    assert any(hit.before != hit.rank for hit in answer.hits)


@pytest.mark.parametrize("side", ["both", "gallery", "joint"])
def test_neighbours_are_those_that_were_averaged(sets: Sets, side: str) -> None:
    answer = Searcher(lambda: sets).search(3, Chain.parse(f"nfc(k1=3,k2=3,side={side})"), top=60)
    joined = sets.query.join(sets.gallery) if side == "joint" else sets.gallery
    unit = torch.nn.functional.normalize(joined.features)
    rows, others = mutual_neighbours(unit, k1=3, k2=3)
    for hit in answer.hits:
        row = joined.paths.index(hit.picture.path)
        expected = {joined.paths[other] for other in others[rows == row].tolist()}
        assert {each.path for each in hit.neighbours} == expected
        same = {
            path: sets.gallery.pids[sets.gallery.paths.index(path)] for path in expected if path[0] == "g"
        }
        own = sets.gallery.pids[sets.gallery.paths.index(hit.picture.path)]
        kinds = {each.path: each.kind for each in hit.neighbours if each.path in same}
        assert kinds == {path: "match" if pid == own else "miss" for path, pid in same.items()}
    assert bool(answer.neighbours) == (side != "gallery") or side == "joint"


def test_time_is_told_as_lag_and_as_what_it_does_to_the_distance(sets: Sets) -> None:
    answer = Searcher(lambda: sets).search(3, Chain.parse("l2+st"), top=60)
    for hit in answer.hits:
        row = sets.gallery.paths.index(hit.picture.path)
        assert hit.time.lag == int(sets.gallery.frames[row] - sets.query.frames[3])
        looks = 1 - torch.cosine_similarity(sets.gallery.features[row], sets.query.features[3], dim=0)
        assert hit.time.looks == pytest.approx(float(looks), abs=1e-5)
        assert hit.time.joint == pytest.approx(hit.distance, abs=1e-6)
    assert Searcher(lambda: sets).search(3, Chain()).hits[0].time is None


def test_a_chain_is_applied_once_and_the_oldest_is_forgotten(sets: Sets) -> None:
    searcher = Searcher(lambda: sets)
    chains = [Chain.parse(f"nfc(k1={k})") for k in range(1, 9)]
    assert all(searcher.search(0, chain).seconds[0] > 0 for chain in chains)
    assert searcher.search(1, chains[-1]).seconds[0] == 0
    assert searcher.search(1, chains[0]).seconds[0] > 0


def test_sets_are_loaded_when_they_are_asked_for(sets: Sets) -> None:
    loads = []
    searcher = Searcher(lambda: loads.append(1) or sets)
    assert not loads
    assert searcher.sets is searcher.sets and loads == [1]


def crop(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (30, 70), colour)


def test_an_upload_is_searched_by_its_features_and_nobody_is_known(sets: Sets, tmp_path: Path) -> None:
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (200, 60, 10)]
    paths = [str(tmp_path / f"{row}.png") for row in range(4)]
    for path, colour in zip(paths, colours):
        crop(colour).save(path)
    pixels = torch.stack([torch.tensor(colour, dtype=torch.uint8).expand(16, 8, 3) for colour in colours])
    gallery = RetrievalSet(sets.encoder(pixels), torch.zeros(4, dtype=torch.int64), paths=paths)
    searcher = Searcher(lambda: replace(sets, query=gallery, gallery=gallery, train=None, protocol=None))
    answer = searcher.search_image(crop((250, 10, 0)), Chain.parse("l2"), top=4)
    assert [hit.picture.path for hit in answer.hits] == [paths[0], paths[3], paths[2], paths[1]] or (
        [hit.picture.path for hit in answer.hits[:2]] == [paths[0], paths[3]]
    )
    assert answer.precision is None and {hit.picture.kind for hit in answer.hits} == {""}
    # Of a folder each image can be the query; it does not find itself.
    own = searcher.search(0, Chain.parse("l2"), top=4)
    assert [hit.picture.path for hit in own.hits][0] == paths[3] and len(own.hits) == 3


def test_an_upload_has_no_camera_and_no_time(sets: Sets) -> None:
    with pytest.raises(ValueError, match="expected camids in both sets and frames in both sets .*step st"):
        Searcher(lambda: sets).search_image(crop((9, 9, 9)), Chain.parse("st"))


@pytest.mark.parametrize(("row", "top"), [(-1, 5), (16, 5), (0, 0), (0, 61)])
def test_rows_and_lengths_out_of_range_are_refused(sets: Sets, row: int, top: int) -> None:
    with pytest.raises(ValueError, match="expected a (query|list)"):
        Searcher(lambda: sets).search(row, Chain(), top=top)


def test_queries_to_begin_with_are_those_that_a_chain_changes(sets: Sets) -> None:
    searcher = Searcher(lambda: sets)
    rows = searcher.telling(Chain.parse("nfc"), 6)
    precisions = [evaluate(sets.query, sets.gallery, chain).average_precision for chain in ("base", "nfc")]
    change = np.abs(precisions[1] - precisions[0])
    assert len(rows) == 6 and int(change.argmax()) in rows
    unknown = Searcher(lambda: replace(sets, protocol=None))
    assert unknown.telling(Chain.parse("nfc"), 4) == [0, 5, 10, 15]
    assert unknown.telling(Chain.parse("nfc"), 99) == [*range(16)]


def test_average_precision_of_a_list() -> None:
    kinds = ["junk", "miss", "match", "distractor", "match"]
    places = [Place(index, kind, index, 0.0) for index, kind in enumerate(kinds)]
    assert average_precision(places) == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert average_precision(places[:2]) == 0


def test_controls_write_chains() -> None:
    assert Controls().chain().name == "nfc"
    assert Controls(nfc=False).chain().name == "base"
    assert Controls(nfc=False, rerank=True).chain().name == "l2+rerank"
    everything = Controls(True, True, True, 3, 4, "cross_camera", True, 0.1, True, 30)
    expected = "camera_norm+tracklets+nfc(k1=3,k2=4,neighbours=cross_camera)+st(weight=0.1)+rerank(k1=30)"
    assert everything.chain().name == expected
    with pytest.raises(ValueError, match="expected nfc k1"):
        Controls(k1=0).chain()


def test_switches_follow_what_the_data_tell() -> None:
    assert Controls.possible(set()) == {"cameras": False, "tracklets": False, "time": False}
    assert Controls.possible({"cameras"}) == {"cameras": True, "tracklets": False, "time": False}
    assert all(Controls.possible({"cameras", "frames", "training times"}).values())
