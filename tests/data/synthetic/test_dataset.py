"""SynthReID through torchreid: by our names, and through the host's own Market-1501 reader."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest

from torchreid_genext import compat
from torchreid_genext.data import image_datasets
from torchreid_genext.data.filenames import parse
from torchreid_genext.data.synthetic import read_manifest


@pytest.fixture
def tiny(registered: None, reid_data: Path) -> object:
    return compat.init_image_dataset("synthreid_tiny", root=str(reid_data), verbose=False)


def test_names_are_those_users_rely_on() -> None:
    assert list(image_datasets()) == [
        "synthreid", "synthreid_tiny", "synthreid_full", "synthreid_full_turning", "synthreid_ir",
        "synthreid_occluded",
    ]  # fmt: skip


def test_torchreid_finds_every_dataset_by_name(registered: None) -> None:
    assert set(image_datasets()) <= set(compat.image_dataset_names())


def test_records_are_the_files_without_junk(tiny: object, reid_data: Path) -> None:
    counts = read_manifest(reid_data / "synthreid_tiny").counts
    junk = sum(
        path.name.startswith("-1") for path in (reid_data / "synthreid_tiny" / "bounding_box_test").iterdir()
    )
    assert junk > 0
    found = [len(tiny.train), len(tiny.query), len(tiny.gallery)]
    assert found == [counts["bounding_box_train"], counts["query"], counts["bounding_box_test"] - junk]


def test_training_labels_count_the_sorted_people(tiny: object) -> None:
    people = sorted({parse(path).pid for path, *_ in tiny.train})
    assert len(people) == tiny.num_train_pids
    assert all(people[label] == parse(path).pid for path, label, *_ in tiny.train)


def test_test_records_keep_pid_and_camera_of_the_name(tiny: object) -> None:
    for path, pid, camid, *_ in tiny.query + tiny.gallery:
        assert (pid, camid) == (parse(path).pid, parse(path).camid)


def test_images_can_be_read(tiny: object) -> None:
    assert tiny[0]["img"].size == (64, 128)


def test_combining_all_leaves_out_the_distractors(registered: None, reid_data: Path) -> None:
    whole = compat.init_image_dataset("synthreid_tiny", root=str(reid_data), verbose=False, combineall=True)
    assert whole.num_train_pids == 24


def test_dataset_travels_to_worker_processes(tiny: object) -> None:
    assert pickle.loads(pickle.dumps(tiny)).query == tiny.query


@pytest.mark.parametrize("name", ["synthreid_ir", "synthreid_occluded", "synthreid"])
def test_dataset_writes_itself_on_first_use(
    name: str, few: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As small as possible: each kind of world, with few people."""
    kind = image_datasets()[name]
    monkeypatch.setattr(kind, "size", few)
    first = kind(root=str(tmp_path), verbose=False)
    assert read_manifest(tmp_path / name).mode == kind.world
    assert kind(root=str(tmp_path), verbose=False).query == first.query


def test_hosts_own_market_reader_reads_the_folder(
    registered: None, reid_data: Path, tmp_path: Path, tiny: object
) -> None:
    shutil.copytree(reid_data / "synthreid_tiny", tmp_path / "market1501" / "Market-1501-v15.09.15")
    market = compat.init_image_dataset("market1501", root=str(tmp_path), verbose=False)

    def part(items: list[tuple]) -> list[tuple]:
        return sorted((Path(path).name, pid, camid) for path, pid, camid, *_ in items)

    assert part(market.query) == part(tiny.query) and part(market.gallery) == part(tiny.gallery)
    assert (market.num_train_pids, len(market.train)) == (tiny.num_train_pids, len(tiny.train))
