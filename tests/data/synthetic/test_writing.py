"""SynthReID on disk: whole or not at all, once, and readable by others."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from torchreid_genext.data.filenames import parse
from torchreid_genext.data.poses import read_market_annotations, read_visibility
from torchreid_genext.data.synthetic import VERSION, read_manifest, write_dataset
from torchreid_genext.data.synthetic.writing import FOLDERS

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def tiny(reid_data: Path, tmp_path: Path) -> Path:
    """A copy of the session's tiny dataset that a test may spoil."""
    return Path(shutil.copytree(reid_data / "synthreid_tiny", tmp_path / "synthreid_tiny"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for part in FOLDERS for path in (folder / part).glob("*.jpg"))


def start_writer(folder: Path, size: str, progress: Callable[[int, int], None]) -> BaseProcess:
    options = {"size": size, "progress": progress}
    writer = FORK.Process(target=write_dataset, args=(folder,), kwargs=options)
    writer.start()
    return writer


def test_folder_holds_what_its_manifest_says(reid_data: Path) -> None:
    folder = reid_data / "synthreid_tiny"
    manifest = read_manifest(folder)
    assert (manifest.version, manifest.size, manifest.seed, manifest.mode) == (VERSION, "tiny", 0, "visible")
    assert manifest.counts == {part: len(list((folder / part).glob("*.jpg"))) for part in FOLDERS}
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*FOLDERS, "manifest.json", "poses.csv", "poses_full.csv"]
    )


def test_images_are_jpegs_of_the_size_of_market(reid_data: Path) -> None:
    for part in FOLDERS:
        with Image.open(next((reid_data / "synthreid_tiny" / part).glob("*.jpg"))) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 128))


def test_every_image_has_its_pose_and_hidden_joints_are_missing_in_one_file_only(reid_data: Path) -> None:
    folder = reid_data / "synthreid_tiny"
    plain, full = (read_market_annotations(folder / name) for name in ("poses.csv", "poses_full.csv"))
    visible = read_visibility(folder / "poses_full.csv")
    assert sorted(plain) == sorted(full) == names(folder)
    for name in plain:
        np.testing.assert_array_equal(plain[name], np.where(visible[name][:, None], full[name], -1))
        if parse(name).pid > 0:
            assert (full[name] != -1).all() and visible[name].any()
    assert any((plain[name] == -1).any() for name in plain)


def test_visible_joints_lie_inside_the_image(reid_data: Path) -> None:
    for pose in read_market_annotations(reid_data / "synthreid_tiny" / "poses.csv").values():
        present = pose[(pose != -1).all(axis=1)]
        assert (present >= 0).all() and (present < [128, 64]).all()


def test_empty_folder_is_filled_with_the_same_bytes_as_another_one(reid_data: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path, size="tiny", progress=False)
    assert read_manifest(tmp_path).counts["query"] > 0
    for part in FOLDERS:
        for path in sorted((reid_data / "synthreid_tiny" / part).iterdir())[::9]:
            assert path.read_bytes() == (tmp_path / part / path.name).read_bytes()


def test_several_processes_draw_the_same_and_leave_randomness_alone(few: str, tmp_path: Path) -> None:
    before, told = torch.get_rng_state(), []
    for workers in (0, 2):
        write_dataset(tmp_path / str(workers), size=few, workers=workers, progress=lambda *n: told.append(n))
    files = [path.relative_to(tmp_path / "0") for path in (tmp_path / "0").rglob("*.*")]
    assert any(path.suffix == ".jpg" for path in files) and Path("poses_full.csv") in files
    for path in files:
        assert (tmp_path / "0" / path).read_bytes() == (tmp_path / "2" / path).read_bytes(), path
    assert told[len(told) // 2 :] == told[: len(told) // 2]
    assert torch.equal(before, torch.get_rng_state())


def test_finished_dataset_is_not_drawn_again(tiny: Path) -> None:
    calls = []
    write_dataset(tiny, size="tiny", progress=lambda *done: calls.append(done))
    assert not calls


def test_plan_is_announced_before_the_work_begins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with caplog.at_level(logging.INFO), pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "d", size="tiny", progress=stop)
    assert "Drawing SynthReID tiny (visible, seed 0)" in caplog.text and "images" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_interrupted_writing_leaves_nothing_behind(workers: int, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "d", size="tiny", workers=workers, progress=stop)
    assert list(tmp_path.iterdir()) == [] and not multiprocessing.active_children()


def test_killed_writer_leaves_no_dataset_and_the_next_one_cleans_up(few: str, tmp_path: Path) -> None:
    begun = FORK.Event()

    def stand_still(done: int, total: int) -> None:
        begun.set()
        time.sleep(60)

    writer = start_writer(tmp_path / "d", few, stand_still)
    assert begun.wait(60)
    writer.kill()
    writer.join()
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".partial") and names(left) and not (tmp_path / "d").exists()
    for path in (left, *(left / part for part in FOLDERS)):
        os.utime(path, (0, 0))
    write_dataset(tmp_path / "d", size=few, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    read_manifest(tmp_path / "d")


def test_folder_of_a_living_writer_is_left_alone(few: str, tmp_path: Path) -> None:
    other = tmp_path / ".d.0123456789ab.partial"
    (other / "query").mkdir(parents=True)
    write_dataset(tmp_path / "d", size=few, progress=False)
    assert other.is_dir()


def test_two_writers_at_once_end_with_one_whole_dataset(few: str, tmp_path: Path) -> None:
    both = FORK.Barrier(2)

    def finish_together(done: int, total: int) -> None:
        if done == total:
            both.wait(60)

    writers = [start_writer(tmp_path / "d", few, finish_together) for _ in range(2)]
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    assert read_manifest(tmp_path / "d").size == few


def test_folder_without_manifest_is_refused(tiny: Path) -> None:
    (tiny / "manifest.json").unlink()
    with pytest.raises(ValueError, match="got no manifest.json there: it is none, or not whole; choose"):
        write_dataset(tiny, size="tiny")


@pytest.mark.parametrize("text", ["", "{", '{"version": "1"}', "[]"])
def test_broken_manifest_is_refused(tiny: Path, text: str) -> None:
    (tiny / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="expected a SynthReID manifest in"):
        write_dataset(tiny, size="tiny")


def test_missing_image_is_noticed(tiny: Path) -> None:
    next((tiny / "query").glob("*.jpg")).unlink()
    with pytest.raises(ValueError, match="move it away and write it anew"):
        write_dataset(tiny, size="tiny")


def test_missing_folder_is_noticed(tiny: Path) -> None:
    shutil.rmtree(tiny / "query")
    with pytest.raises(ValueError, match="move it away and write it anew"):
        read_manifest(tiny)


def test_a_foreign_folder_is_named_and_nobody_is_told_to_delete_it(tmp_path: Path) -> None:
    (tmp_path / "market1501" / "query").mkdir(parents=True)
    (tmp_path / "market1501" / "query" / "mine.jpg").touch()
    for use in (read_manifest, lambda folder: write_dataset(folder, size="tiny")):
        with pytest.raises(ValueError, match="SynthReID in .*market1501, got no manifest") as raised:
            use(tmp_path / "market1501")
        assert "delete" not in str(raised.value)
    assert (tmp_path / "market1501" / "query" / "mine.jpg").exists()


def test_a_data_set_that_cannot_get_its_name_is_an_error(
    few: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def refused(old: Path, new: Path) -> None:
        if new == tmp_path / "d":
            raise PermissionError(errno.EACCES, "Permission denied", str(new))
        replace(old, new)

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(PermissionError, match="Permission denied"):
        write_dataset(tmp_path / "d", size=few, workers=0, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_data_sets_stand_in_the_home_folder(
    few: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_dataset("~/d", size=few, workers=0, progress=False)
    assert read_manifest("~/d") == read_manifest(tmp_path / "d")


def test_another_world_in_the_folder_is_refused(tiny: Path) -> None:
    with pytest.raises(
        ValueError, match="expected SynthReID tiny/visible, seed 1.* got tiny/visible, seed 0"
    ):
        write_dataset(tiny, size="tiny", seed=1)


def test_older_version_of_the_renderer_is_refused(tiny: Path) -> None:
    manifest = json.loads((tiny / "manifest.json").read_text())
    (tiny / "manifest.json").write_text(json.dumps(manifest | {"version": "0"}))
    with pytest.raises(ValueError, match=f"version {VERSION} in .* got .*version 0"):
        write_dataset(tiny, size="tiny")


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("")
    with pytest.raises(ValueError, match="expected a folder, got the file"):
        write_dataset(tmp_path / "d", size="tiny")


def test_folder_that_cannot_be_written_gives_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write SynthReID to .*d: "):
        write_dataset(tmp_path / "file" / "d", size="tiny")
