"""Walking, time and protocol: who is filmed when, and what the dataset makes of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache

import numpy as np
import pytest

from torchreid_genext.data.filenames import Record, global_frame, parse
from torchreid_genext.data.synthetic.walking import FRAMES_PER_SECOND, LAST_FRAME, walks
from torchreid_genext.data.synthetic.world import INFRARED_CAMERAS, MODES, SIZES, Shot, shots

ANYWHERE = (frozenset(range(6)),)
PLANS = {**{mode: ("tiny", 0, mode) for mode in MODES}, "small": ("small", 0, "visible")}


@cache
def planned(name: str) -> list[Shot]:
    return shots(*PLANS[name])


def record(shot: Shot) -> Record:
    return parse(shot.name, "synthreid")


def part(plan: Iterable[Shot], folder: str) -> list[Shot]:
    return [shot for shot in plan if shot.folder == folder]


def pids(plan: Iterable[Shot]) -> set[int]:
    return {record(shot).pid for shot in plan} - {0, -1}


def transit_seconds(people: int) -> dict[tuple[int, int], list[float]]:
    """Seconds between neighbouring passages, for each (from, to)."""
    found = defaultdict(list)
    for pid in range(people):
        seen = walks(pid, 1.0, (9, pid), ANYWHERE)
        for first, second in zip(seen, seen[1:]):
            if 0 < second.frame - first.frame < 3000 * FRAMES_PER_SECOND:
                found[first.camera, second.camera].append((second.frame - first.frame) / FRAMES_PER_SECOND)
    return found


def test_time_between_neighbouring_cameras_is_peaked_and_depends_on_the_pair() -> None:
    times = {pair: np.array(t) for pair, t in transit_seconds(400).items() if len(t) > 60}
    medians = {pair: np.median(t) for pair, t in times.items()}
    assert len(medians) >= 8
    assert max(medians.values()) > 2 * min(medians.values())
    for pair, seconds in times.items():
        near = np.abs(seconds - medians[pair]) < 0.35 * medians[pair]
        assert near.mean() > 0.6, pair


def test_sightings_stay_within_the_recording_and_follow_each_other() -> None:
    for pid in range(100):
        seen = walks(pid, 3.0, (9, pid), ANYWHERE)
        assert seen and all(1 <= sighting.frame <= LAST_FRAME for sighting in seen)


def test_a_walk_depends_on_its_own_seed_only() -> None:
    assert (
        walks(3, 2.0, (1, 3), ANYWHERE) == walks(3, 2.0, (1, 3), ANYWHERE) != walks(3, 2.0, (2, 3), ANYWHERE)
    )


def test_people_are_seen_from_all_sides() -> None:
    plan = planned("small")
    quarters = Counter(int((shot.view.yaw + 45) % 360 // 90) for shot in plan)
    assert min(quarters[i] for i in range(4)) > 0.08 * len(plan)


@pytest.mark.parametrize("mode", MODES)
def test_plan_is_repeatable_and_names_are_unique(mode: str) -> None:
    plan = planned(mode)
    assert plan == shots("tiny", 0, mode) != shots("tiny", 1, mode)
    assert len({shot.name for shot in plan}) == len(plan)


@pytest.mark.parametrize("name", PLANS)
def test_training_and_test_people_are_disjoint(name: str) -> None:
    plan = planned(name)
    train, gallery, query = (
        pids(part(plan, f)) for f in ("bounding_box_train", "bounding_box_test", "query")
    )
    assert not train & gallery and query <= gallery
    people = {shot.person for shot in part(plan, "bounding_box_train")}
    assert not people & {shot.person for shot in part(plan, "query")}


@pytest.mark.parametrize("name", PLANS)
def test_every_query_has_a_match_in_another_camera(name: str) -> None:
    plan = planned(name)
    gallery = {(record(s).pid, record(s).camid) for s in part(plan, "bounding_box_test")}
    for query in map(record, part(plan, "query")):
        assert any(pid == query.pid and camid != query.camid for pid, camid in gallery)


def test_there_is_one_query_per_person_and_camera() -> None:
    queries = Counter((record(s).pid, record(s).camid) for s in part(planned("small"), "query"))
    assert set(queries.values()) == {1}


def test_names_carry_the_camera_and_a_moment_of_the_recording() -> None:
    for shot in planned("small"):
        assert record(shot).camid == shot.camera
        assert 1 <= global_frame(record(shot), "synthreid") <= LAST_FRAME


def test_gallery_holds_distractors_and_junk() -> None:
    found = Counter(record(shot).pid for shot in part(planned("small"), "bounding_box_test"))
    assert (found[0], found[-1]) == (SIZES["small"].distractors, SIZES["small"].junk)
    assert any(shot.person is None for shot in part(planned("small"), "bounding_box_test"))


@pytest.mark.slow
def test_full_size_counts_are_those_of_market() -> None:
    plan = shots("full", 0)
    gallery = [shot for shot in part(plan, "bounding_box_test") if record(shot).pid != -1]
    assert (len(pids(part(plan, "bounding_box_train"))), len(pids(part(plan, "query")))) == (751, 750)
    found = [len(part(plan, "bounding_box_train")), len(part(plan, "query")), len(gallery)]
    np.testing.assert_allclose(found, [12936, 3368, 15913], rtol=0.04)


def test_infrared_mode_queries_infrared_against_visible_and_trains_on_both() -> None:
    plan = planned("ir")
    assert {shot.infrared for shot in part(plan, "query")} == {True}
    assert {shot.infrared for shot in part(plan, "bounding_box_test")} == {False}
    assert {shot.infrared for shot in part(plan, "bounding_box_train")} == {True, False}
    assert all(shot.infrared == (shot.camera in INFRARED_CAMERAS) for shot in plan)
    assert pids(part(plan, "query")) == pids(part(plan, "bounding_box_test"))


def test_occluded_mode_hides_every_query_and_nothing_of_the_gallery() -> None:
    plan = planned("occluded")
    assert all(shot.occluder is not None for shot in part(plan, "query"))
    assert all(shot.occluder is None for shot in part(plan, "bounding_box_test"))


def test_share_of_the_visible_world_is_occluded() -> None:
    share = np.mean([shot.occluder is not None for shot in planned("small")])
    assert 0.05 < share < 0.2


def test_sizes_do_not_share_people() -> None:
    tiny, small = (
        {shot.person for shot in planned(name) if shot.person is not None} for name in ("visible", "small")
    )
    assert not tiny & small


@pytest.mark.parametrize(
    ("size", "mode", "complaint"),
    [
        ("huge", "visible", "unknown size 'huge'; choose from tiny, small, full"),
        ("tiny", "thermal", "unknown mode 'thermal'; choose from visible, ir, occluded"),
    ],
)
def test_unknown_size_or_mode_lists_the_choices(size: str, mode: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        shots(size, 0, mode)
