"""Several processes of one machine fill a store as one does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.conftest import ROOT
from tests.generation.test_filling import MADE
from torchreid_genext.data.store import ImageStore
from torchreid_genext.generation import Work, fill, works
from torchreid_genext.generation.processes import fill_by_processes, processes_for

OPTIONS = {"provenance": MADE, "batch_size": 4}


def draw(batch: Sequence[Work]) -> list[Image.Image]:
    return [Image.new("RGB", (8, 16), (work.seed % 256, len(work.pose), 7)) for work in batch]


@pytest.fixture
def wanted(tmp_path: Path) -> list[Work]:
    for number in range(20):
        Image.new("RGB", (8, 16), (number, 0, 0)).save(tmp_path / f"{number:02}.png")
    return works("query", sorted(map(str, tmp_path.glob("*.png"))), ["1", "2"], seed=3)


def contents(store: ImageStore) -> dict[str, bytes]:
    files = (path for path in (store.root / "images").rglob("*") if path.is_file())
    return {str(path.relative_to(store.root)): path.read_bytes() for path in files}


@pytest.mark.parametrize("shard", (None, (1, 3)))
def test_the_store_is_that_of_one_process(
    wanted: list[Work], tmp_path: Path, shard: tuple[int, int] | None
) -> None:
    alone, together = (ImageStore.create(tmp_path / name) for name in ("alone", "together"))
    expected = fill(alone, wanted, draw, shard=shard, progress=False, **OPTIONS)
    found = fill_by_processes(3, together, wanted, draw, shard=shard, progress=False, **OPTIONS)
    assert found == expected and found.made > 0
    assert contents(together) == contents(alone)


def test_what_is_there_is_not_made_again(wanted: list[Work], tmp_path: Path) -> None:
    store = ImageStore.create(tmp_path / "store")
    fill(store, wanted[:10], draw, progress=False, **OPTIONS)
    found = fill_by_processes(2, store, wanted, draw, progress=False, **OPTIONS)
    assert (found.made, found.present) == (len(wanted) - 10, 10)


def test_references_that_cannot_be_read_are_told_once(wanted: list[Work], tmp_path: Path) -> None:
    def picky(batch: Sequence[Work]) -> list[Image.Image]:
        if any("07" in Path(work.reference).name for work in batch):
            raise OSError("damaged")
        return draw(batch)

    found = fill_by_processes(
        2, ImageStore.create(tmp_path / "store"), wanted, picky, progress=False, **OPTIONS
    )
    assert (found.made, found.present, [Path(path).name for path in found.failed]) == (38, 0, ["07.png"])


def test_an_error_of_one_is_an_error_of_all(wanted: list[Work], tmp_path: Path) -> None:
    def broken(batch: Sequence[Work]) -> list[Image.Image]:
        raise KeyError("pose")

    with pytest.raises(KeyError, match="pose"):
        fill_by_processes(2, ImageStore.create(tmp_path / "s"), wanted, broken, progress=False, **OPTIONS)


def test_a_killed_process_is_told_and_the_next_run_makes_the_rest(wanted: list[Work], tmp_path: Path) -> None:
    def deadly(batch: Sequence[Work]) -> list[Image.Image]:
        if any("11" in Path(work.reference).name for work in batch):
            os.kill(os.getpid(), signal.SIGKILL)
        return draw(batch)

    store = ImageStore.create(tmp_path / "store")
    with pytest.raises(RuntimeError, match="of 2 processes to end well, got exit code -9"):
        fill_by_processes(2, store, wanted, deadly, progress=False, timeout=0.5, **OPTIONS)
    found = fill_by_processes(2, store, wanted, draw, progress=False, timeout=0.5, **OPTIONS)
    assert found.made + found.present == len(wanted) and len(store.files("query")["1"]) == 20


def test_few_pictures_and_accelerators_take_one_process() -> None:
    threads = torch.get_num_threads()
    assert processes_for(10_000, 8, torch.device("cpu")) == threads
    assert processes_for(10, 8, torch.device("cpu")) == 1
    assert processes_for(10_000, 8, torch.device("meta")) == 1


def test_daemons_take_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may have no children."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert processes_for(10_000, 8, torch.device("cpu")) == 2
        monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
        assert processes_for(10_000, 8, torch.device("cpu")) == 1
    finally:
        torch.set_num_threads(threads)


ORPHANS = """
import os, sys, time
from PIL import Image
from torchreid_genext.data.store import ImageStore
from torchreid_genext.generation import works
from torchreid_genext.generation.processes import fill_by_processes

root, log, *paths = sys.argv[1:]

def draw(batch):
    with open(log, "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(0.2)
    return [Image.new("RGB", (8, 16)) for _ in batch]

wanted = works("query", paths, [str(pose) for pose in range(200)], seed=0)
fill_by_processes(2, ImageStore.create(root), wanted, draw, provenance={}, batch_size=1)
"""


def test_children_of_a_killed_process_end(wanted: list[Work], tmp_path: Path) -> None:
    log = tmp_path / "log"
    paths = [*dict.fromkeys(work.reference for work in wanted)]
    command = [sys.executable, "-c", ORPHANS, str(tmp_path / "store"), str(log), *paths]
    parent = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while (not log.exists() or len({*log.read_text().split()}) < 2) and time.monotonic() < end:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    time.sleep(2)
    drawn = log.stat().st_size
    time.sleep(2)
    assert log.stat().st_size == drawn > 0
