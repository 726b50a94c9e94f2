"""The store of generated images: what counts as there, what is written twice, how stores are merged."""

from __future__ import annotations

import errno
import io
import json
import multiprocessing
import os
import re
import shutil
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from torchreid_genext.data.store import Entry, ImageStore, check_writable, image_store, is_store
from torchreid_genext.data.store.judgements import Mark
from torchreid_genext.data.store.lookup import Coverage, check_generated, find_generated

NAMES = ["0002_c1s1_000451_03.jpg", "0007_c3s3_077419_03.jpg", "0000_c6s4_002427_05.jpg"]
PATHS = [f"market1501/query/{name}" for name in NAMES]
MADE = {"weights": "a1b2", "sampler": {"name": "ddim", "steps": 20}, "seed": 7}


def request(**changes: Any) -> dict[str, Any]:
    return {"split": "query", "reference": NAMES[0], "pose": "1", "provenance": MADE} | changes


def picture(shade: int = 0) -> Image.Image:
    return Image.new("RGB", (8, 16), (shade, 10, 20))


def contents(root: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of writing of every file but the index, which says the same in whatever order."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != "index.jsonl")
    return {str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore.create(tmp_path / "store")


def test_picture_and_entry_lie_side_by_side_under_their_key(store: ImageStore) -> None:
    path = store.add(picture(90), **request())
    key = path.stem
    assert path == store.root / "images" / key[:2] / f"{key}.png" and len(key) == 32
    assert json.loads(path.with_suffix(".json").read_text()) == request()
    with Image.open(path) as image:
        assert (image.format, image.size, image.getpixel((0, 0))) == ("PNG", (8, 16), (90, 10, 20))
    assert [path.name for path in sorted(path.parent.iterdir())] == [f"{key}.json", f"{key}.png"]


def test_key_is_the_hash_of_the_entry_whatever_the_order_of_its_names(store: ImageStore) -> None:
    # sha256sum of {"pose":"1","provenance":{"seed":7},"reference":"a.jpg","split":"train"}, typed by hand
    made = request(split="train", reference="a.jpg", provenance={"seed": 7})
    assert store.add(picture(), **made).stem == "27faf95432375b1d35b7a2d6bba92f86"
    turned = request(provenance=dict(reversed(MADE.items())))
    assert store.add(picture(), **turned) == store.add(picture(), **request())


def test_every_part_of_a_request_makes_another_picture(store: ImageStore) -> None:
    others = [{"split": "train"}, {"reference": NAMES[1]}, {"pose": "2"}, {"provenance": MADE | {"seed": 8}}]
    paths = {store.add(picture(), **request(**change)) for change in [{}, *others]}
    assert len(paths) == 5


def test_what_is_there_is_not_written_again(store: ImageStore) -> None:
    path = store.add(picture(1), **request())
    before = contents(store.root)
    assert ImageStore(store.root).add(picture(2), **request()) == path
    assert contents(store.root) == before


def test_pictures_of_any_mode_are_kept_as_extraction_reads_them(store: ImageStore) -> None:
    grey = Image.new("CMYK", (8, 16), (10, 20, 30, 40))
    with Image.open(store.add(grey, **request())) as image:
        assert image.tobytes() == grey.convert("RGB").tobytes()


def test_entries_come_by_split_with_their_provenance(store: ImageStore) -> None:
    store.add(picture(), **request())
    store.add(picture(), **request(split="gallery"))
    assert [vars(entry) for entry in store.entries("gallery")] == [request(split="gallery")]
    assert list(store.entries("train")) == []


def test_poses_are_in_the_order_of_their_numbers(store: ImageStore) -> None:
    for pose in ("10", "side", "2", "pose10", "pose9", "1"):
        store.add(picture(), **request(pose=pose))
    store.add(picture(), **request(pose="3", split="train"))
    assert store.poses("query") == ["1", "2", "10", "pose9", "pose10", "side"]


@pytest.mark.parametrize("kept", (".png", ".json"))
def test_half_of_a_picture_counts_as_not_there_and_is_made_whole(store: ImageStore, kept: str) -> None:
    lost = {".png": ".json", ".json": ".png"}[kept]
    path = store.add(picture(3), **request())
    whole = {name: content for name, (content, _) in contents(store.root).items()}
    path.with_suffix(lost).unlink()
    assert not store.has(**request()) and not list(store.entries("query")) and not store.poses("query")
    with pytest.raises(ValueError, match="expected a store with generated images of query"):
        find_generated(store.root, PATHS, "query")
    assert store.add(picture(3), **request()) == path and store.has(**request())
    assert {name: content for name, (content, _) in contents(store.root).items()} == whole


def test_what_was_being_written_counts_as_not_there(store: ImageStore) -> None:
    path = store.add(picture(), **request())
    for suffix in (".png", ".json"):
        path.with_suffix(suffix).rename(path.with_name(f".0a1b2c3d-{path.stem}{suffix}"))
    assert not store.has(**request()) and not list(store.entries("query"))


def test_an_entry_of_another_picture_is_left_out_with_a_warning_and_replaced(
    store: ImageStore, caplog: pytest.LogCaptureFixture
) -> None:
    path, other = store.add(picture(), **request()), store.add(picture(), **request(pose="2"))
    for content in (other.with_suffix(".json").read_text(), '{"split": "query"', "[]", "{}"):
        path.with_suffix(".json").write_text(content)
        (store.root / "index.jsonl").unlink(missing_ok=True)
        assert ImageStore(store.root).poses("query") == ["2"] and not store.has(**request())
    assert str(path.with_suffix(".json")) in caplog.text
    store.add(picture(), **request())
    assert store.poses("query") == ["1", "2"]


def entry_files(root: Path) -> dict[str, tuple[bytes, int]]:
    """Without what was being written: bytes and time of writing."""
    return {name: file for name, file in contents(root / "images").items() if re.search(r"/\w+\.json$", name)}


def kill_after(process: BaseProcess, root: Path, entries: int) -> None:
    process.start()
    try:
        while process.is_alive() and len(list(root.glob("images/??/[!.]*.json"))) < entries:
            time.sleep(0.01)
    finally:
        process.kill()
        process.join()


def fill(root: Path) -> None:
    for seed in range(10**6):
        ImageStore(root).add(picture(seed % 256), **request(provenance={"seed": seed}))


def test_a_killed_process_leaves_whole_pictures_and_the_next_one_goes_on(store: ImageStore) -> None:
    kill_after(multiprocessing.get_context("fork").Process(target=fill, args=(store.root,)), store.root, 20)
    seeds = sorted(entry.provenance["seed"] for entry in store.entries("query"))
    assert seeds == list(range(len(seeds))) and len(seeds) >= 20
    before = entry_files(store.root)
    for seed in range(len(seeds) + 3):
        store.add(picture(seed % 256), **request(provenance={"seed": seed}))
    assert len(list(store.entries("query"))) == len(seeds) + 3
    assert before.items() <= entry_files(store.root).items()


def test_stores_are_merged_by_copying(store: ImageStore, tmp_path: Path) -> None:
    other = ImageStore.create(tmp_path / "other")
    for shard, poses in ((store, "12"), (other, "23")):
        for pose in poses:
            shard.add(picture(int(pose)), **request(pose=pose))
    shutil.copytree(other.root / "images", store.root / "images", dirs_exist_ok=True)
    assert store.poses("query") == ["1", "2", "3"] and len(list(store.entries("query"))) == 3


def test_create_opens_what_it_made_and_refuses_other_folders(store: ImageStore, tmp_path: Path) -> None:
    store.add(picture(), **request())
    assert ImageStore.create(store.root).has(**request())
    (tmp_path / "download" / "query_gen").mkdir(parents=True)
    with pytest.raises(ValueError, match="expected a new or empty folder, got '.*download' with query_gen"):
        ImageStore.create(tmp_path / "download")
    assert not is_store(tmp_path / "download")


def test_what_is_no_store_or_of_another_version_is_named(store: ImageStore, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a store of generated images, got '.*lost' without"):
        ImageStore(tmp_path / "lost")
    for content in ('{"content": "generated images", "version": 2}', "{}", "no JSON"):
        (store.root / "store.json").write_text(content)
        for open_store in (ImageStore, ImageStore.create, lambda root: check_generated(root, "query")):
            with pytest.raises(ValueError, match=r"expected a store with .*'version': 1.* got '.*store'"):
                open_store(store.root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "test"}, "unknown split 'test'; choose from query, gallery, train"),
        ({"reference": "query/../a.jpg"}, "expected a reference that is a name, below folders if need be, got"),
        ({"reference": "/a.jpg"}, "expected a reference that is a name"),
        ({"reference": "query\\a.jpg"}, "expected a reference that is a name"),
        ({"pose": "1/2"}, "expected a pose that is a name without folders, got '1/2'"),
        ({"reference": ""}, "expected a reference that is a name"),
        ({"pose": 1}, "expected a pose that is a name without folders, got 1"),
        ({"pose": ".."}, "expected a pose that is a name"),
        ({"provenance": {"eta": float("nan")}}, "expected a dict as provenance that JSON gives back"),
        ({"provenance": {2: "", 10: ""}}, "expected a dict as provenance"),
        ({"provenance": {"file": Path("a")}}, "expected a dict as provenance"),
        ({"provenance": ["a"]}, "expected a dict as provenance"),
    ],
)
def test_bad_requests_are_refused_and_leave_nothing(
    store: ImageStore, change: dict[str, Any], message: str
) -> None:
    for ask in (store.has, lambda **bad: store.add(picture(), **bad)):
        with pytest.raises(ValueError, match=message):
            ask(**request(**change))
    assert list(contents(store.root)) == ["store.json"]


def test_unknown_split_is_refused_before_anything_is_read(store: ImageStore) -> None:
    for ask in (store.entries, store.poses, store.files):
        with pytest.raises(ValueError, match="unknown split 'test'; choose from query, gallery, train"):
            ask("test")


def test_generated_images_are_found_in_a_store(store: ImageStore) -> None:
    files = {
        (name, pose): str(store.add(picture(), **request(reference=name, pose=pose)))
        for name, pose in ((NAMES[0], "10"), (NAMES[0], "2"), (NAMES[1], "10"))
    }
    store.add(picture(), **request(split="gallery", pose="1"))
    found = find_generated(store.root, PATHS, "query")
    assert found.paths == (
        (files[NAMES[0], "2"], files[NAMES[0], "10"]),
        (None, files[NAMES[1], "10"]),
        (None, None),
    )
    assert (found.split, found.coverage) == ("query", Coverage(2, 1, 1, 1))


def test_a_store_without_the_split_or_its_images_is_refused(store: ImageStore) -> None:
    store.add(picture(), **request())
    check_generated(store.root, "query")
    with pytest.raises(ValueError, match="expected a store with generated images of gallery, got '.*store'"):
        check_generated(store.root, "gallery")
    with pytest.raises(ValueError, match="such as 9.jpg, got none of these in '.*store'"):
        find_generated(store.root, ["9.jpg"], "query")
    with pytest.raises(ValueError, match="unknown split 'train'; choose from query, gallery"):
        find_generated(store.root, PATHS, "train")


def test_different_pictures_of_one_pose_are_refused_and_equal_ones_are_not(store: ImageStore) -> None:
    first = store.add(picture(1), **request())
    store.add(picture(1), **request(provenance={"seed": 8}))
    assert find_generated(store.root, PATHS, "query").coverage.complete == 1
    third = store.add(picture(2), **request(provenance={"seed": 9}))
    with pytest.raises(ValueError, match=f"expected one picture of {NAMES[0]} in pose 1, got ") as caught:
        find_generated(store.root, PATHS, "query")
    assert str(third) in str(caught.value) and caught.value.args[0].count(".png") == 2
    assert first.exists()


def test_dropped_pictures_are_left_out_unless_asked_for_and_are_not_made_again(store: ImageStore) -> None:
    first, second = (store.add(picture(n), **request(pose=str(n))) for n in (1, 2))
    kept, dropped = sorted(store.entries("query"), key=lambda entry: entry.pose)
    store.mark(kept, Mark((), {"similarity": 0.9}))
    store.mark(dropped, Mark(("blank", "other person"), {"similarity": 0.1}, {"similarity": 0.5}))
    assert list(store.entries("query")) == list(store.entries()) == [kept]
    assert store.poses("query") == ["1"] and store.files("query") == {"1": {NAMES[0]: str(first)}}
    assert len(list(store.entries("query", dropped=True))) == len(list(store.entries(dropped=True))) == 2
    assert store.poses("query", dropped=True) == ["1", "2"]
    assert store.files("query", dropped=True)["2"] == {NAMES[0]: str(second)}
    assert store.has(**request(pose="2")) and store.add(picture(3), **request(pose="2")) == second


def test_marks_lie_beside_their_pictures_and_are_read_again(store: ImageStore) -> None:
    path = store.add(picture(), **request())
    (entry,) = store.entries()
    assert store.mark_of(entry) is None
    mark = Mark(("blank",), {"deviation": 0.5}, {"deviation": 4.0})
    store.mark(entry, mark)
    assert ImageStore(store.root).mark_of(entry) == mark
    said = json.loads((path.parent / f"{entry.key}.mark.json").read_text())
    assert (said["kept"], said["reasons"]) == (False, ["blank"])
    store.mark(entry, Mark())
    assert store.mark_of(entry).kept and list(store.entries()) == [entry]


def test_what_is_not_there_is_not_marked(store: ImageStore) -> None:
    store.add(picture(), **request())
    (entry,) = store.entries()
    with pytest.raises(ValueError, match="expected a picture of the store, got Entry"):
        store.mark(Entry("train", entry.reference, entry.pose, {}), Mark())
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.mark(entry, Mark((), {"similarity": float("nan")}))
    assert store.mark_of(entry) is None


def test_a_picture_that_was_cut_off_counts_as_missing_and_is_replaced(store: ImageStore) -> None:
    path = store.add(picture(3), **request())
    whole = path.read_bytes()
    for length in (0, 5, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert not store.has(**request())
        store.add(picture(3), **request())
        assert path.read_bytes() == whole


def test_generated_images_that_were_dropped_are_not_found(store: ImageStore) -> None:
    for name, pose in ((NAMES[0], "1"), (NAMES[0], "2"), (NAMES[1], "1")):
        store.add(picture(), **request(reference=name, pose=pose))
    for entry in [*store.entries()]:
        if entry.pose == "2":
            store.mark(entry, Mark(("blank",)))
    found = find_generated(store.root, PATHS, "query")
    assert found.poses == 1 and found.coverage == Coverage(1, 2, 0, 1)


def test_of_two_who_create_a_store_at_once_the_later_one_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one makes it, and adds a picture, between two looks of ours."""
    root, look = tmp_path / "store", image_store.is_store

    def late(place: Path) -> bool:
        found = look(place)
        monkeypatch.undo()
        ImageStore.create(root).add(picture(), **request())
        return found

    monkeypatch.setattr(image_store, "is_store", late)
    assert len([*ImageStore.create(root).entries()]) == 1


def test_a_folder_that_can_be_written_is_left_as_it_is(store: ImageStore, tmp_path: Path) -> None:
    before = contents(store.root)
    check_writable(store.root)
    check_writable(tmp_path / "a" / "b")
    assert contents(store.root) == before and not (tmp_path / "a").exists()


@pytest.mark.parametrize("number", (errno.EROFS, errno.ENOSPC))
def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    class Full(io.BytesIO):
        def write(self, content: bytes) -> int:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: Full())
    message = f"expected a folder that can be written, got one with '{os.strerror(number)}"
    with pytest.raises(OSError, match=message):
        check_writable(tmp_path / "store")


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="expected a folder that can be written.*file"):
        check_writable(tmp_path / "file" / "store")


def test_what_is_removed_is_gone_and_nothing_else(store: ImageStore) -> None:
    for pose in "12":
        store.add(picture(), **request(pose=pose))
    first, second = store.entries()
    store.mark(first, Mark(("blank",)))
    note = store.path(first).with_suffix(".txt")
    note.touch()
    store.remove(first)
    store.remove(first)
    assert [*store.entries(dropped=True)] == [second] and [*note.parent.iterdir()] == [note]
    assert not store.has(**vars(first)) and store.has(**vars(second))
    store.add(picture(), **vars(first))
    assert len([*store.entries()]) == 2
