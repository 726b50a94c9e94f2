"""Stores into one, whole or damaged, once or again; and what a store says of itself."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from PIL import Image

from torchreid_genext.data.store import ImageStore
from torchreid_genext.data.store.judgements import DAMAGED, Mark
from torchreid_genext.generation import manifest, merge, write_manifest
from torchreid_genext.generation.merging import is_readable


def make(root: Path, poses: Iterable[int], split: str = "query") -> ImageStore:
    store = ImageStore.create(root)
    for pose in poses:
        image = Image.linear_gradient("L").resize((8 + pose, 16))
        made = {"weights": "a1b2", "sampler": {"name": "ddim"}, "seed": pose}
        store.add(image, split=split, reference="a.jpg", pose=str(pose), provenance=made)
    return store


def contents(store: ImageStore) -> dict[str, bytes]:
    files = (path for path in store.root.rglob("*") if path.is_file() and path.name != "index.jsonl")
    return {str(path.relative_to(store.root)): path.read_bytes() for path in files}


@pytest.fixture
def shards(tmp_path: Path) -> list[ImageStore]:
    return [make(tmp_path / f"shard{index}", range(index, 9, 3)) for index in range(3)]


@pytest.fixture
def whole(tmp_path: Path) -> ImageStore:
    return make(tmp_path / "whole", range(9))


def test_shards_merge_into_what_one_process_would_have_made(
    tmp_path: Path, shards: list[ImageStore], whole: ImageStore
) -> None:
    target = ImageStore.create(tmp_path / "target")
    assert merge(target, *shards, progress=False) == 9 and contents(target) == contents(whole)
    assert merge(target, *shards, whole, target, progress=False) == 0 and contents(target) == contents(whole)


def test_a_damaged_copy_is_repaired(shards: list[ImageStore], whole: ImageStore) -> None:
    target = shards[0]
    first, second, third = sorted(target.root.glob("images/*/*.png"))
    before = contents(target)
    first.write_bytes(first.read_bytes()[:30])
    changed = bytearray(second.read_bytes())
    changed[50] ^= 1
    second.write_bytes(changed)
    third.with_suffix(".json").write_text("{}")
    assert merge(target, whole, progress=False) == 9
    assert contents(target) == contents(whole) and before.items() <= contents(target).items()


def test_a_damaged_source_harms_nothing(
    shards: list[ImageStore], whole: ImageStore, caplog: pytest.LogCaptureFixture
) -> None:
    before = contents(whole)
    for picture in shards[0].root.glob("images/*/*.png"):
        picture.write_bytes(picture.read_bytes()[:30])
    assert merge(whole, shards[0], progress=False) == 0 and contents(whole) == before
    assert merge(shards[1], shards[0], progress=False) == 0
    assert caplog.text.count("left out, since it cannot be read") == 3


def test_an_interrupted_merge_is_completed_by_another(
    tmp_path: Path, shards: list[ImageStore], whole: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, left = ImageStore.create(tmp_path / "target"), iter(range(7))

    def flush_until_full(descriptor: int) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, "fsync", flush_until_full)
        merge(target, *shards, progress=False)
    assert 0 < len(list(target.entries())) < 9
    merge(target, *shards, progress=False)
    assert contents(target) == contents(whole)


def test_marks_come_along_unless_there_is_one(tmp_path: Path, whole: ImageStore) -> None:
    target = ImageStore(shutil.copytree(whole.root, tmp_path / "target"))
    first, second, *_ = whole.entries()
    for entry in (first, second):
        whole.mark(entry, Mark(("blank",)))
    target.mark(second, Mark(()))
    assert merge(target, whole, progress=False) == 0
    assert target.mark_of(first) == Mark(("blank",)) and target.mark_of(second) == Mark(())


def test_manifest_counts_pictures_and_how_they_were_made(tmp_path: Path) -> None:
    store = make(tmp_path / "store", range(1, 41))
    make(store.root, (1, 2), split="train")
    store.mark(next(store.entries("query")), Mark(("blank",)))
    found = json.loads(write_manifest(store).read_text())
    assert found == manifest(store)
    assert found["splits"]["train"] == {
        "pictures": 2,
        "dropped": 0,
        "references": 1,
        "poses": {"1": 1, "2": 1},
    }
    query = found["splits"]["query"]
    assert (query["pictures"], query["dropped"], list(query["poses"])[8:11]) == (40, 1, ["9", "10", "11"])
    made = {"weights": {"a1b2": 42}, "sampler": {'{"name": "ddim"}': 42}, "seed": "many"}
    assert found["provenance"] == made
    assert ImageStore(store.root).poses("train") == ["1", "2"]


def test_manifest_of_an_empty_store_is_empty(tmp_path: Path) -> None:
    assert manifest(ImageStore.create(tmp_path / "store")) == {"splits": {}, "provenance": {}}


def test_a_picture_without_its_last_byte_is_damaged(shards: list[ImageStore], whole: ImageStore) -> None:
    target = shards[0]
    picture = sorted(target.root.glob("images/*/*.png"))[0]
    picture.write_bytes(picture.read_bytes()[:-1])
    assert not is_readable(picture)
    assert merge(target, whole, progress=False) == 7 and contents(target) == contents(whole)


def test_stores_with_different_answers_are_not_merged(tmp_path: Path, whole: ImageStore) -> None:
    other = ImageStore.create(tmp_path / "other")
    made = {"weights": "c3d4", "sampler": {"name": "ddim"}, "seed": 3}
    other.add(Image.new("RGB", (8, 16)), split="query", reference="a.jpg", pose="3", provenance=made)
    before = contents(whole)
    with pytest.raises(ValueError, match="query pictures have weights a1b2, got weights c3d4"):
        merge(whole, other, progress=False)
    assert contents(whole) == before
    dropped = next(entry for entry in whole.entries() if entry.pose == "3")
    whole.mark(dropped, Mark(("blank",)))
    assert merge(whole, other, progress=False) == 1 and whole.files("query")["3"]


def test_what_replaces_a_damaged_picture_has_no_mark(shards: list[ImageStore], whole: ImageStore) -> None:
    target = shards[0]
    entry = next(target.entries())
    target.mark(entry, Mark((DAMAGED,)))
    merge(target, whole, progress=False)
    assert target.mark_of(entry) is None
