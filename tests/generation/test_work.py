"""What is asked for: seeds that depend on names alone, and works in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from torchreid_genext.generation.work import (
    Work,
    content_hash,
    picture_seed,
    shard_of,
    unit_name,
    units_of,
    works,
)


def test_seed_of_a_picture_is_a_hash_of_what_it_depends_on() -> None:
    # printf '[7, "0002_c1s1_000451_03.jpg", "1"]' | sha256sum: its first 53 bits
    assert picture_seed(7, "0002_c1s1_000451_03.jpg", "1") == 0x32CD47ACCC457CBE >> 11
    asked = [(0, "a.jpg", "1"), (1, "a.jpg", "1"), (0, "b.jpg", "1"), (0, "a.jpg", "2"), (0, "a.jpg1", "")]
    seeds = [picture_seed(*each) for each in asked]
    assert len(set(seeds)) == 5 and all(0 <= seed < 2**53 for seed in seeds)
    torch.Generator().manual_seed(max(seeds))


def test_works_keep_the_poses_of_a_reference_together_and_know_no_folders() -> None:
    found = works("train", ["x/a.jpg", "x/b.jpg"], ["1", "2"], seed=3)
    assert [(work.reference, work.pose) for work in found] == [
        ("x/a.jpg", "1"), ("x/a.jpg", "2"), ("x/b.jpg", "1"), ("x/b.jpg", "2")
    ]  # fmt: skip
    assert [w.seed for w in found] == [w.seed for w in works("train", ["y/a.jpg", "y/b.jpg"], "12", seed=3)]
    assert found[0] == Work("train", "x/a.jpg", "1", picture_seed(3, "a.jpg", "1"))


def test_real_images_of_one_name_are_told_apart_by_folders_and_one_asked_for_twice_is_one() -> None:
    found = works("query", ["d/x/a.jpg", "d/y/a.jpg", "d/y/b.jpg"], ["1"], seed=0)
    assert [work.name for work in found] == ["x/a.jpg", "y/a.jpg", "y/b.jpg"]
    assert found[0].seed == picture_seed(0, "x/a.jpg", "1") != found[1].seed
    deep = ["x/y/a.jpg", "z/y/a.jpg"]
    assert [work.name for work in works("query", deep, "1", seed=0)] == deep
    assert unit_name(found[0]) != unit_name(found[1])
    assert len(works("query", ["x/a.jpg", "x/a.jpg"], ["1"], seed=0)) == 1
    with pytest.raises(ValueError, match="unknown split 'test'; choose from query, gallery, train"):
        works("test", [], [], seed=0)


def test_shards_are_disjoint_and_complete() -> None:
    units = units_of(works("query", [f"{n}.jpg" for n in range(7)], ["1", "2"], seed=0))
    assert [len(unit) for unit in units] == [2] * 7
    parts = [shard_of(units, (index, 3)) for index in range(3)]
    assert sorted(unit[0].reference for part in parts for unit in part) == [f"{n}.jpg" for n in range(7)]
    assert shard_of(units, None) == units


def test_content_hash_is_sha256_of_files_bytes_and_arrays(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of FIPS 180-2
    assert (
        content_hash(tmp_path / "a") == content_hash(str(tmp_path / "a")) == content_hash(b"abc") == expected
    )
    pose = np.array([[1, 2], [3, -1]])
    assert content_hash(pose) == content_hash(pose.tolist()) == content_hash(b"[[1, 2], [3, -1]]")
    assert content_hash(pose) != content_hash(pose + 1)
