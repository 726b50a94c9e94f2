"""The index: a store is listed without reading its entries, and the index may be lost, cut, late or wrong."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.data.store.test_image_store import MADE, NAMES, fill, kill_after, picture, request
from torchreid_genext import checkpoints
from torchreid_genext.data.store import ImageStore
from torchreid_genext.data.store.judgements import Mark, write_mark

POSES = [str(number) for number in range(12)]


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    """Twelve pictures, of which one was dropped and one kept."""
    found = ImageStore.create(tmp_path / "store")
    for pose in POSES:
        found.add(picture(int(pose)), **request(pose=pose))
    first, second = sorted(found.entries(), key=lambda entry: int(entry.pose))[:2]
    found.mark(first, Mark(("blank",)))
    found.mark(second, Mark())
    return found


def listed(root: Path) -> list[dict[str, Any]]:
    return [vars(entry) for entry in ImageStore(root).entries()]


def index(store: ImageStore) -> Path:
    return store.root / "index.jsonl"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of all files that are read as text."""
    names, read = [], Path.read_text

    def noted(self: Path, *args: Any, **options: Any) -> str:
        names.append(self.name)
        return read(self, *args, **options)

    monkeypatch.setattr(Path, "read_text", noted)
    return names


def test_a_store_is_listed_without_reading_entries_and_marks(store: ImageStore, reads: list[str]) -> None:
    fresh = ImageStore(store.root)
    assert len([*fresh.entries()]) == 11 and len(fresh.files("query", dropped=True)) == 12
    assert sum(map(len, fresh.answers().values())) == 12
    assert reads == ["store.json"]


def test_every_line_is_json(store: ImageStore) -> None:
    lines = [json.loads(line) for line in index(store).read_text().splitlines() if line]
    entries = [line for line in lines if "split" in line]
    assert [line["pose"] for line in entries] == POSES and entries[0]["provenance"] == MADE
    assert [line["reasons"] for line in lines if "judged" in line] == [["blank"], []]


def test_a_store_without_an_index_is_read_and_then_has_one(store: ImageStore, reads: list[str]) -> None:
    expected = listed(store.root)
    index(store).unlink()
    reads.clear()
    assert listed(store.root) == expected and len(reads) == 1 + 12 + 2
    reads.clear()
    assert listed(store.root) == expected and reads == ["store.json"]


@pytest.mark.parametrize("cut", (1, 3, 30, 200, 500))
def test_a_line_that_was_cut_off_costs_a_reading(store: ImageStore, cut: int) -> None:
    expected = listed(store.root)
    content = index(store).read_bytes()
    index(store).write_bytes(content[:-cut])
    assert listed(store.root) == expected  # and appends what it missed
    assert listed(store.root) == expected
    entry = request(pose="new")
    ImageStore(store.root).add(picture(), **entry)
    assert entry in listed(store.root)


def test_lines_of_others_are_passed_over(store: ImageStore) -> None:
    expected = listed(store.root)
    with open(index(store), "ab") as file:
        file.write(b'\n[]\n{}\n1\n"key"\n{"key":"a"}\n\xff\xfe\n{"key":"a","provenance":{}}\n{"judged":[]}\n')
    assert listed(store.root) == expected


def test_a_line_whose_provenance_was_cut_off_is_read_from_its_entry(store: ImageStore) -> None:
    expected = listed(store.root)
    content = index(store).read_bytes()
    index(store).write_bytes(content.replace(b'"steps":20', b'"steps":2'[:-1]))
    assert listed(store.root) == expected


def test_what_is_gone_is_not_listed_though_the_index_knows_it(store: ImageStore) -> None:
    first, second, *_ = sorted(store.root.glob("images/*/*.png"))
    first.unlink()
    second.with_suffix(".json").unlink()
    keys = [entry.key for entry in ImageStore(store.root).entries(dropped=True)]
    assert len(keys) == 10 and first.stem not in keys and second.stem not in keys


def test_pictures_and_marks_that_are_copied_by_hand_are_found(store: ImageStore, tmp_path: Path) -> None:
    other = ImageStore.create(tmp_path / "other")
    for pose in POSES:
        other.add(picture(int(pose)), **request(pose=pose, split="train"))
        other.add(picture(int(pose)), **request(pose=pose))
    dropped = next(store.entries())
    other.mark(dropped, Mark(("other person",), {"similarity": 0.1}))
    shutil.copytree(other.root / "images", store.root / "images", dirs_exist_ok=True)
    assert len([*store.entries("train")]) == 12 and dropped not in [*store.entries()]
    assert dropped not in [*ImageStore(store.root).entries()]


def test_what_was_judged_anew_is_known_to_those_who_listed_before(store: ImageStore) -> None:
    reader, entry = ImageStore(store.root), next(store.entries())
    assert entry in [*reader.entries()]
    store.mark(entry, Mark(("blank",)))
    assert entry not in [*reader.entries()]
    store.mark(entry, Mark())
    assert entry in [*reader.entries()]


def test_readers_see_what_others_add(store: ImageStore) -> None:
    reader = ImageStore(store.root)
    assert len([*reader.entries()]) == 11 and reader.added() == {}
    path = store.add(picture(), **request(split="train"))
    assert reader.added() == {path.stem: ("train", NAMES[0], "1")} and reader.added() == {}
    assert len([*reader.entries()]) == 12


def test_a_folder_that_cannot_be_written_is_read_without_an_index(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = listed(store.root)
    index(store).unlink()
    index(store).mkdir()  # nobody can write or read that as a file, whoever they are
    assert listed(store.root) == expected
    ImageStore(store.root).add(picture(), **request(split="gallery"))
    assert len(listed(store.root)) == 12


def test_an_index_of_older_judgements_is_written_anew(store: ImageStore) -> None:
    entry = next(store.entries())
    for number in range(1100):
        store._index.append({}, store._index.judged and {entry.key: next(iter(store._index.judged.values()))})
    size = index(store).stat().st_size
    expected = listed(store.root)
    assert index(store).stat().st_size < size / 5
    assert listed(store.root) == expected
    assert len([*store.entries()]) == 11  # who had read the old file reads the new one


def test_killed_processes_leave_an_index_that_the_next_one_completes(store: ImageStore) -> None:
    fork = multiprocessing.get_context("fork")
    for goal in (40, 80):
        kill_after(fork.Process(target=fill, args=(store.root,)), store.root, goal)
    entries = store.root.glob("images/??/[!.]*.json")
    expected = {path.stem for path in entries if path.with_suffix(".png").exists()}
    found = {entry.key for entry in ImageStore(store.root).entries(dropped=True)}
    assert found == {key for key in expected if not key.endswith(".mark")}


def add_some(root: Path, split: str) -> None:
    for seed in range(60):
        ImageStore(root).add(picture(seed), **request(split=split, provenance={"seed": seed}))


def test_processes_that_add_at_once_share_an_index(store: ImageStore, reads: list[str]) -> None:
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=add_some, args=(store.root, split)) for split in ("train", "gallery")]
    for each in workers:
        each.start()
    while any(each.is_alive() for each in workers):
        ImageStore(store.root).poses("train")
    for each in workers:
        each.join()
    reads.clear()
    assert len([*ImageStore(store.root).entries()]) == 11 + 120 and reads == ["store.json"]


def test_names_that_are_no_text_and_long_ones_are_kept(tmp_path: Path) -> None:
    store = ImageStore.create(tmp_path / "store")
    names = [os.fsdecode(b"caf\xe9.jpg"), "two\nlines.jpg", "x" * 251 + ".jpg", ',"provenance":{}.jpg', "ü"]
    for name in names:
        store.add(picture(), **request(reference=name))
    assert {entry.reference for entry in ImageStore(store.root).entries()} == {*names}
    index(store).unlink()
    assert {*ImageStore(store.root).files("query")["1"]} == {*names}
    assert all(store.has(**request(reference=name)) for name in names)


def test_a_line_after_one_that_was_cut_off_is_whole(store: ImageStore, reads: list[str]) -> None:
    index(store).write_bytes(index(store).read_bytes()[:-30])
    store.add(picture(), **request(split="train"))
    reads.clear()
    assert len([*ImageStore(store.root).entries("train")]) == 1
    assert [name for name in reads if name.endswith(".mark.json")] == reads[1:] and len(reads) == 2


@pytest.mark.parametrize("in_place", (True, False))
def test_a_new_index_is_read_from_its_beginning(store: ImageStore, in_place: bool, tmp_path: Path) -> None:
    reader, content = ImageStore(store.root), index(store).read_bytes()
    assert reader.added().keys() == {path.stem for path in store.root.glob("images/*/*.png")}
    other = ImageStore.create(tmp_path / "other")
    path = other.add(picture(), **request(split="train"))
    if in_place:  # shorter, in the same file
        index(store).write_bytes(index(other).read_bytes())
    else:  # longer, in another file
        checkpoints.write_bytes(index(store), index(other).read_bytes() + b"\n" * len(content))
    assert [*reader.added()] == [path.stem]


def test_a_mark_that_was_replaced_by_hand_counts(store: ImageStore) -> None:
    entry = next(entry for entry in store.entries() if entry.pose == "1")
    write_mark(store.path(entry), Mark(("blank", "other person")))
    assert entry not in [*store.entries()] and entry not in [*ImageStore(store.root).entries()]
