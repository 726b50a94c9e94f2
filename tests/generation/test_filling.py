"""Filling a store: nothing twice, nothing lost, the same pictures whoever makes them."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.generation.worker import MADE, POSES, draw, generator, run
from torchreid_genext.data.store import ImageStore, pose2id_folders
from torchreid_genext.data.store.lookup import find_generated
from torchreid_genext.data.store.work_claims import Claims
from torchreid_genext.generation import Filled, Work, fill, works
from torchreid_genext.generation.work import unit_name


def contents(root: Path) -> dict[str, bytes]:
    """Every file of a store, but for claims, the index and what killed processes were writing."""
    files = (path for path in root.glob("**/[!.]*") if path.is_file() and path.parent.name != "claims")
    return {str(path.relative_to(root)): path.read_bytes() for path in files if path.name != "index.jsonl"}


def claims_of(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("claims/[!.]*"))


@pytest.fixture
def asked(references: Path) -> list[Work]:
    return works("query", sorted(map(str, references.iterdir())), POSES, seed=7)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore.create(tmp_path / "store")


def fill_with(
    store: ImageStore, asked: Sequence[Work], generate: Callable = generator(), **options: Any
) -> Filled:
    return fill(store, asked, generate, **{"provenance": MADE, "batch_size": 4, "progress": False} | options)


def test_every_work_is_made_once_and_then_found(store: ImageStore, asked: list[Work]) -> None:
    assert fill_with(store, asked) == Filled(24, 0, {})
    assert fill_with(store, asked, generate=lambda _: pytest.fail("nothing is missing")) == Filled(0, 24, {})
    assert store.poses("query") == POSES and len(store.files("query")["1"]) == 8
    assert claims_of(store.root) == []


def test_provenance_tells_seed_and_content_of_the_reference(store: ImageStore, asked: list[Work]) -> None:
    fill_with(store, asked[:1])
    (entry,) = store.entries("query")
    # sha256sum of the reference
    read = subprocess.run(["sha256sum", asked[0].reference], capture_output=True, check=True).stdout[:64]
    expected = MADE | {"seed": asked[0].seed, "reference_sha256": read.decode()}
    assert entry.provenance == expected and entry.reference == Path(asked[0].reference).name


def test_provenance_may_depend_on_the_work(store: ImageStore, asked: list[Work]) -> None:
    fill_with(store, asked[:3], provenance=lambda work: {"pose_sha256": work.pose * 2})
    assert sorted(entry.provenance["pose_sha256"] for entry in store.entries()) == ["11", "22", "33"]


@pytest.mark.parametrize("batch_size", (1, 7, 100))
def test_pictures_are_the_same_whatever_the_batch_and_the_order(
    store: ImageStore, asked: list[Work], whole: Path, batch_size: int
) -> None:
    fill_with(store, asked[::-1], batch_size=batch_size)
    assert contents(store.root) == contents(whole)


def test_pictures_are_the_same_whatever_the_shards(store: ImageStore, asked: list[Work], whole: Path) -> None:
    made = [fill_with(store, asked, shard=(index, 3)).made for index in (2, 0, 1)]
    assert made == [6, 9, 9] and contents(store.root) == contents(whole)


def test_batches_keep_references_whole_where_they_fit_and_mix_them(
    store: ImageStore, asked: list[Work]
) -> None:
    batches: list[list[Work]] = []

    def note(works: list[Work]) -> list[Image.Image]:
        batches.append(works)
        return [draw(work) for work in works]

    fill_with(store, asked, note, batch_size=7)
    assert batches == [asked[i : i + 6] for i in range(0, 24, 6)]
    batches.clear()
    fill_with(ImageStore.create(store.root.parent / "narrow"), asked[:6], note, batch_size=2)
    assert batches == [asked[:2], asked[2:3], asked[3:5], asked[5:6]]


def test_a_work_that_is_asked_for_twice_is_made_once(store: ImageStore, asked: list[Work]) -> None:
    assert fill_with(store, asked[:4] + asked[:4]) == Filled(4, 0, {})


def test_only_what_is_missing_of_a_reference_is_made(store: ImageStore, asked: list[Work]) -> None:
    fill_with(store, asked[1:2])
    assert fill_with(store, asked[:3]) == Filled(2, 1, {})


def test_a_picture_that_was_cut_off_is_made_again(store: ImageStore, asked: list[Work], whole: Path) -> None:
    fill_with(store, asked)
    first, second = sorted(store.root.glob("images/*/*.png"))[:2]
    first.write_bytes(first.read_bytes()[:-20])
    second.write_bytes(b"")
    assert fill_with(store, asked) == Filled(2, 22, {}) and contents(store.root) == contents(whole)


def spoil(path: str, content: bytes = b"no picture") -> None:
    Path(path).write_bytes(content)


def test_a_corrupt_reference_is_reported_and_all_others_are_made(
    store: ImageStore, asked: list[Work], whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad, gone, cut = asked[3].reference, asked[9].reference, asked[12].reference
    spoil(bad)
    Path(gone).unlink()
    spoil(cut, Path(cut).read_bytes()[:45])
    filled = fill_with(store, asked, batch_size=24)
    assert (filled.made, filled.present, sorted(filled.failed)) == (15, 0, [bad, gone, cut])
    assert "cannot identify" in filled.failed[bad] and "No such file" in filled.failed[gone]
    assert f"left out, since it cannot be read: {bad}: cannot identify" in caplog.text
    assert contents(store.root).items() <= contents(whole).items() and claims_of(store.root) == []
    assert str(filled) == "15 pictures made, 0 there already, 3 references failed"


def test_a_reference_that_fails_alone_costs_one_extra_call_for_each_of_its_batch(
    store: ImageStore, asked: list[Work], tmp_path: Path
) -> None:
    spoil(asked[0].reference)
    fill_with(store, asked[:12], generator(tmp_path / "log"), batch_size=6)
    calls = Counter(line.split()[0] for line in (tmp_path / "log").read_text().splitlines())
    assert sorted(calls.values()) == [3, 3, 6, 6]


def test_a_fault_of_every_reference_ends_the_run(store: ImageStore, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number in range(40):
        spoil(str(many / f"{number}.jpg"))
    with pytest.raises(ValueError, match="expected references that can be read, got 20 that cannot"):
        fill_with(store, works("query", sorted(map(str, many.iterdir())), POSES, seed=0))
    assert claims_of(store.root) == []


FATAL = [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), RuntimeError("out of memory")]


@pytest.mark.parametrize("error", FATAL, ids=lambda error: type(error).__name__)
def test_other_errors_end_the_run_and_cost_one_batch(
    store: ImageStore, asked: list[Work], whole: Path, error: BaseException
) -> None:
    def failing(works: list[Work]) -> list[Image.Image]:
        if asked[12] in works:
            raise error
        return [draw(work) for work in works]

    with pytest.raises(type(error)):
        fill_with(store, asked, failing)
    assert len(list(store.entries())) == 12 and claims_of(store.root) == []
    assert fill_with(store, asked) == Filled(12, 12, {}) and contents(store.root) == contents(whole)


def test_a_full_disk_ends_the_run_with_whole_pictures_and_a_repetition_completes_it(
    store: ImageStore, asked: list[Work], whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, flush = [17], os.fsync

    def flush_until_full(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(descriptor)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device"):
        patch.setattr(os, "fsync", flush_until_full)
        fill_with(store, asked)
    found = contents(store.root)
    assert 0 < len(list(store.entries())) < 24 and found.items() <= contents(whole).items()
    assert fill_with(store, asked).made == 24 - sum(name.endswith(".json") for name in found) + 1
    assert contents(store.root) == contents(whole)


def test_too_few_pictures_are_refused(store: ImageStore, asked: list[Work]) -> None:
    with pytest.raises(ValueError, match="expected 3 pictures of as many works, got 2"):
        fill_with(store, asked, lambda works: [draw(work) for work in works[:2]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "expected batch_size >= 1, got 0"),
        ({"shard": (2, 2)}, r"expected a shard \(index, count\) with 0 <= index < count, got \(2, 2\)"),
        ({"shard": (-1, 2)}, "expected a shard"),
        ({"timeout": 0}, "expected timeout > 0, got 0"),
    ],
)
def test_bad_options_are_refused(
    store: ImageStore, asked: list[Work], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fill_with(store, asked, **options)


def start(root: Path, references: Path, **options: Any) -> subprocess.Popen:
    """A process that fills a store."""
    given = json.dumps({"root": str(root), "references": str(references), **options})
    command = [sys.executable, "-m", "tests.generation.worker", given]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def wait_for_entries(root: Path, count: int) -> None:
    end = time.monotonic() + 60
    while len(list(root.glob("images/??/[!.]*.json"))) < count and time.monotonic() < end:
        time.sleep(0.005)


def test_killed_again_and_again_the_store_ends_as_without_interruption(
    tmp_path: Path, references: Path, whole: Path
) -> None:
    root, log = tmp_path / "store", tmp_path / "log"
    for goal in (1, 8, 14):
        process = start(root, references, log=str(log), delay=0.02)
        wait_for_entries(root, goal)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
    begun = len(list(ImageStore(root).entries()))
    assert 14 <= begun < 24
    assert run(str(root), str(references), log=str(log)) == Filled(24 - begun, begun, {})
    assert contents(root) == contents(whole)
    calls = Counter(tuple(line.split()[:2]) for line in log.read_text().splitlines())
    # A kill loses a batch at most: of one reference here, since two of three poses are more than four.
    assert len(calls) == 24 and calls.total() <= 24 + 3 * 3
    assert claims_of(root) == []


def test_processes_on_one_store_make_every_picture_once_and_return_when_all_is_there(
    tmp_path: Path, references: Path, whole: Path
) -> None:
    root, log = tmp_path / "store", tmp_path / "log"
    processes = [start(root, references, log=str(log), delay=0.05, meet=str(tmp_path)) for _ in range(3)]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    lines = [line.split() for line in log.read_text().splitlines()]
    assert len(lines) == len({(reference, pose) for reference, pose, _ in lines}) == 24
    assert len({worker for *_, worker in lines}) > 1
    counts = [[int(word) for word in line.split() if word.isdigit()] for line in said]
    assert [made + present for made, present in counts] == [24] * 3 and sum(made for made, _ in counts) == 24
    assert contents(root) == contents(whole) and claims_of(root) == []


def test_what_another_holds_is_waited_for(store: ImageStore, asked: list[Work]) -> None:
    with Claims(store.root / "claims") as other:
        other.take(unit_name(asked[0]))

        def generate(works: list[Work]) -> list[Image.Image]:
            """The other one is done before we are done with what it left to us."""
            fill_with(store, asked[:3], shard=(0, 1))
            other.release(unit_name(asked[0]))
            return [draw(work) for work in works]

        assert fill_with(store, asked[:6], generate) == Filled(3, 3, {})


def test_what_another_holds_without_a_heartbeat_is_made_after_all(
    store: ImageStore, asked: list[Work]
) -> None:
    assert Claims(store.root / "claims").take(unit_name(asked[0]))
    assert fill_with(store, asked[:6], timeout=0.2) == Filled(6, 0, {})
    assert claims_of(store.root) == []


def test_many_that_fail_after_some_that_did_not_do_not_end_the_run(store: ImageStore, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number in range(30):
        Image.new("RGB", (8, 16)).save(many / f"{number:02}.png")
        if number > 3:
            spoil(str(many / f"{number:02}.png"))
    filled = fill_with(store, works("query", sorted(map(str, many.iterdir())), POSES, seed=0))
    assert filled.made == 12 and len(filled.failed) == 26


@pytest.mark.parametrize("number", (errno.EPERM, errno.ENOTSUP, errno.ENOSYS))
def test_a_store_needs_no_hard_links(
    store: ImageStore, asked: list[Work], whole: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def link(*paths: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    assert fill_with(store, asked) == Filled(24, 0, {}) and contents(store.root) == contents(whole)
    assert claims_of(store.root) == []


def test_references_of_strange_names_are_drawn(store: ImageStore, tmp_path: Path) -> None:
    names = [os.fsdecode(b"caf\xe9.png"), "two\nlines.png", "x" * 251 + ".png", "10:30:00 \u00fc.png"]
    for name in names:
        Image.new("RGB", (8, 16)).save(tmp_path / "plain.png")
        (tmp_path / "plain.png").rename(tmp_path / name)
    wanted = works("query", [str(tmp_path / name) for name in names], POSES, seed=0)
    assert fill_with(store, wanted) == Filled(12, 0, {})
    assert fill_with(store, wanted) == Filled(0, 12, {})
    assert {*store.files("query")["1"]} == {*names}


def test_people_in_folders_of_their_own_are_drawn_found_and_exported_under_no_wrong_name(
    store: ImageStore, tmp_path: Path
) -> None:
    paths = [tmp_path / "people" / person / "1.png" for person in ("anna", "bert", "carl")]
    for shade, path in enumerate(paths):
        path.parent.mkdir(parents=True)
        Image.new("RGB", (8, 16), (80 * shade, 0, 0)).save(path)
    wanted = works("query", [*map(str, paths)], POSES, seed=0)
    assert fill_with(store, wanted) == Filled(9, 0, {}) and fill_with(store, wanted) == Filled(0, 9, {})
    found = find_generated(store.root, [*map(str, paths)], "query")
    for path, (first, *_) in zip(paths, found.paths):
        with Image.open(first) as image, Image.open(path) as real:
            assert image.getpixel((4, 8)) == real.getpixel((4, 8))
    with pytest.raises(ValueError, match="expected real images of different names, got one in a folder, 1.png"):
        pose2id_folders.export(store, tmp_path / "exported", progress=False)
