"""What a store lacks: decided by how pictures were made, and never two answers to one question."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.generation.test_filling import fill_with
from tests.generation.worker import MADE, POSES, draw
from torchreid_genext.data.store import ImageStore
from torchreid_genext.data.store.judgements import DAMAGED, Mark
from torchreid_genext.data.store.work_claims import Claims
from torchreid_genext.generation import Filled, Work, works
from torchreid_genext.generation.survey import Survey, survey
from torchreid_genext.generation.work import unit_name


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore.create(tmp_path / "store")


@pytest.fixture
def asked(references: Path) -> Callable[[int, int], list[Work]]:
    """So many references in all poses, from a seed."""
    paths = sorted(map(str, references.iterdir()))
    return lambda count, seed=7: works("query", paths[:count], POSES, seed=seed)


def look(store: ImageStore | None, wanted: list[Work], **changes: Any) -> Survey:
    return survey(store, wanted, MADE | changes)


def drop(store: ImageStore, count: int, *reasons: str) -> None:
    for entry in [*store.entries()][:count]:
        store.mark(entry, Mark(reasons or ("blank",)))


def answers(store: ImageStore) -> int:
    """How many are there, each the only one of its reference and pose."""
    found = store.files("query")
    assert sum(map(len, found.values())) == len([*store.entries("query")])
    return sum(map(len, found.values()))


def test_without_a_store_everything_is_missing(asked: Callable) -> None:
    found = look(None, asked(2))
    assert (found.missing, found.present, found.failed) == (asked(2), 0, {})


def test_what_was_made_as_it_is_wanted_is_there(store: ImageStore, asked: Callable) -> None:
    fill_with(store, asked(2))
    found = look(store, asked(3))
    assert found.missing == asked(3)[6:] and found.present == 6


DIFFERENT = [
    ({"weights": "other"}, "weights other, got weights a1b2 in 6 of 9 .*--where .weights=\"a1b2\"."),
    ({"sampler": {"name": "ddim", "steps": 50}}, "sampler.steps 50, got sampler.steps 20 in 6 of 9"),
    ({"sampler": {"name": "ddim"}}, "sampler.steps None, got sampler.steps 20"),
    ({"pose": "ab12"}, "pose ab12, got pose None"),
]


@pytest.mark.parametrize(("changes", "message"), DIFFERENT)
def test_what_differs_is_told_from_what_to_what_before_work(
    store: ImageStore, asked: Callable, changes: dict[str, Any], message: str
) -> None:
    fill_with(store, asked(2))
    with pytest.raises(ValueError, match=f"expected a store whose query pictures have {message}"):
        look(store, asked(3), **changes)
    with pytest.raises(ValueError, match="choose another folder, or remove these: torchreid-genext store rem"):
        fill_with(store, asked(3), lambda _: pytest.fail("work began"), provenance=MADE | changes)
    assert answers(store) == 6


def test_another_seed_is_refused_also_where_nothing_is_missing(store: ImageStore, asked: Callable) -> None:
    fill_with(store, asked(2))
    for count in (1, 2, 3):
        with pytest.raises(ValueError, match="seed 77, got seed 7 in .* of .*--split query --seed 7"):
            look(store, asked(count, 77))


def test_a_reference_that_was_changed_is_told(store: ImageStore, asked: Callable, references: Path) -> None:
    fill_with(store, asked(2))
    Image.new("RGB", (8, 16), "white").save(asked(1)[0].reference)
    message = f"reference_sha256 .*, got reference_sha256 .* in 3 of 6 .*--changed {re.escape(str(references))}"
    with pytest.raises(ValueError, match=message):
        look(store, asked(2))


def test_another_seed_takes_the_places_of_what_was_dropped_and_only_these(
    store: ImageStore, asked: Callable
) -> None:
    fill_with(store, asked(3))
    drop(store, 4)
    assert fill_with(store, asked(3)) == Filled(0, 9, {})  # the same would come out
    assert fill_with(store, asked(3, 9)) == Filled(4, 5, {})
    assert answers(store) == 9
    for seed in (9, 7):  # both have what they asked for, or what came in its place
        assert fill_with(store, asked(3, seed)) == Filled(0, 9, {})
    with pytest.raises(ValueError, match="seed 9, got seed 7"):  # of the fourth nothing is there
        look(store, asked(4, 9))
    assert fill_with(store, asked(4)) == Filled(3, 9, {})


def test_what_was_dropped_twice_is_made_a_third_time(store: ImageStore, asked: Callable) -> None:
    fill_with(store, asked(1))
    for seed in (8, 9):
        drop(store, 100)
        assert fill_with(store, asked(1, seed)) == Filled(3, 0, {})
    assert answers(store) == 3 and len([*store.entries(dropped=True)]) == 9


def test_other_settings_do_not_take_the_place_of_some(store: ImageStore, asked: Callable) -> None:
    fill_with(store, asked(2))
    drop(store, 3)
    with pytest.raises(ValueError, match="weights other, got weights a1b2 in 3 of 6"):
        look(store, asked(2), weights="other")


@pytest.mark.parametrize("reason", (DAMAGED, None))
def test_damaged_pictures_are_made_again(store: ImageStore, asked: Callable, reason: str | None) -> None:
    fill_with(store, asked(2))
    entry = next(store.entries())
    whole = store.path(entry).read_bytes()
    if reason:
        store.path(entry).write_bytes(whole[:60] + bytes(8) + whole[68:])  # its end is there
        store.mark(entry, Mark((reason,)))
    else:
        store.path(entry).write_bytes(whole[:-1])
    assert len(look(store, asked(2)).missing) == 1
    assert fill_with(store, asked(2)) == Filled(1, 5, {})
    assert store.path(entry).read_bytes() == whole and store.mark_of(entry) is None
    assert look(store, asked(2)).missing == []


def test_a_store_with_two_answers_is_told(store: ImageStore, asked: Callable) -> None:
    fill_with(store, asked(1))
    for work in asked(1, 77):
        entry = look(None, [work]).entries[work]
        store.add(draw(work), **vars(entry))
    with pytest.raises(ValueError, match="seed 7, got seed 77 in 3 of 3"):
        look(store, asked(1))


def test_processes_that_make_the_same_otherwise_do_not_mix(store: ImageStore, asked: Callable) -> None:
    """The other one comes while we look, and has the first reference done when we claim it."""
    taken = []

    def generate(batch: list[Work]) -> list[Image.Image]:
        if not taken:
            taken.append(fill_with(store, asked(3, 77)[6:], shard=(0, 1), batch_size=3))
        return [draw(work) for work in batch]

    with pytest.raises(ValueError, match="seed 7, got seed 77"):
        fill_with(store, asked(3), generate, batch_size=3)
    assert taken == [Filled(3, 0, {})] and answers(store) == 6


def test_references_that_cannot_be_read_are_told_once(store: ImageStore, asked: Callable) -> None:
    Path(asked(1)[0].reference).unlink()
    found = look(store, asked(2))
    assert found.missing == asked(2)[3:] and [*found.failed] == [asked(1)[0].reference]
    assert fill_with(store, asked(2)).failed.keys() == found.failed.keys()


def test_a_folder_that_is_gone_is_no_fault_of_its_images(store: ImageStore, tmp_path: Path) -> None:
    gone = [str(tmp_path / f"{number}.jpg") for number in range(30)]
    with pytest.raises(ValueError, match="expected references that can be read, got 20 that cannot"):
        look(store, works("query", gone, POSES, seed=0))


def test_claims_of_the_dead_do_not_hide_what_is_missing(store: ImageStore, asked: Callable) -> None:
    assert Claims(store.root / "claims").take(unit_name(asked(1)[0]))
    assert len(look(store, asked(1)).missing) == 3
