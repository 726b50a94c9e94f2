"""References for stores that are filled."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from tests.generation.worker import run


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files survive the death of a process, though not that of the machine, without being flushed."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def references(tmp_path: Path) -> Path:
    """A folder of eight small images of different colours."""
    return draw_references(tmp_path / "query")


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that was filled from such references without interruption."""
    root = tmp_path_factory.mktemp("whole") / "store"
    run(str(root), str(draw_references(root.parent / "query")))
    return root


def draw_references(folder: Path) -> Path:
    folder.mkdir()
    for number in range(8):
        image = Image.new("RGB", (8, 16), (30 * number, 255 - 30 * number, 128))
        image.save(folder / f"{number:04d}_c1s1_000451_03.png")
    return folder
