"""One path, one folder: ``~`` is the home folder to all that reads and writes, as it is to torchreid."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from torchreid_genext.data.store import ImageStore
from torchreid_genext.data.store.pose2id_folders import export, import_layout
from torchreid_genext.extraction.cache import FeatureCache
from torchreid_genext.training.checkpointing import Checkpoints


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder, beside the one in which the test works."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    yield tmp_path / "home"
    assert not os.listdir(tmp_path / "work")


def test_pictures_go_to_folders_there_and_come_back(home: Path) -> None:
    store = ImageStore.create("~/store")
    store.add(Image.new("RGB", (8, 16)), split="query", reference="a.jpg", pose="1", provenance={})
    assert export(store, "~/out", progress=False) == 1 and (home / "out/query_gen/pose1/a.jpg").is_file()
    assert import_layout("~/out", ImageStore.create("~/again"), {}, progress=False) == 1


def test_checkpoints_are_found_there(home: Path) -> None:
    (home / "training").mkdir()
    (home / "training" / "step-00000001.safetensors").touch()
    assert Checkpoints("~/training", 1).paths() == [home / "training" / "step-00000001.safetensors"]


def test_features_are_kept_there(home: Path) -> None:
    FeatureCache("~/features", "key").prepare()
    assert (home / "features").is_dir()
