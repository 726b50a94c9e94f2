"""Claims: one holder at a time, among threads and processes, through death, delay and full disks."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import ROOT
from torchreid_genext.data.store.work_claims import Claims


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def age(folder: Path, seconds: float) -> None:
    """Make all claims look as if their last heartbeat was so long ago."""
    for path in folder.iterdir():
        os.utime(path, (time.time() - seconds,) * 2)


def at_once(count: int, take: Callable[[int], bool]) -> list[int]:
    """Who succeeded of as many threads that start at the same moment."""
    start = threading.Barrier(count)

    def attempt(number: int) -> bool:
        start.wait()
        return take(number)

    with ThreadPoolExecutor(count) as pool:
        return [number for number, taken in enumerate(pool.map(attempt, range(count))) if taken]


def test_what_is_claimed_is_refused_to_others_until_it_is_released(tmp_path: Path) -> None:
    with Claims(tmp_path) as first, Claims(tmp_path) as second:
        assert first.take("a") and second.take("b")
        assert not second.take("a") and not first.take("b") and not first.take("a")
        first.release("a")
        assert second.take("a") and not first.take("a")
    assert files(tmp_path) == []


def test_an_error_releases_what_is_held(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Claims(tmp_path) as claims:
        claims.take("a")
        raise KeyboardInterrupt
    assert files(tmp_path) == []


def test_of_all_who_claim_at_once_one_succeeds(tmp_path: Path) -> None:
    everyone = [Claims(tmp_path) for _ in range(8)]
    for piece in range(20):
        assert len(at_once(8, lambda number, piece=piece: everyone[number].take(f"work{piece}"))) == 1
    assert files(tmp_path) == sorted(f"work{piece}" for piece in range(20))


def test_of_all_who_take_over_at_once_one_succeeds_again_and_again(tmp_path: Path) -> None:
    assert Claims(tmp_path, timeout=60).take("a")
    for turn in range(1, 12):
        everyone = [Claims(tmp_path, timeout=60) for _ in range(8)]
        assert at_once(8, lambda number, among=everyone: among[number].take("a")) == []
        age(tmp_path, 61)
        assert len(at_once(8, lambda number, among=everyone: among[number].take("a"))) == 1
        assert len(files(tmp_path)) == 1 + turn


def test_whoever_was_taken_over_from_does_not_release_the_claim_of_the_next(tmp_path: Path) -> None:
    late, next_one, third = (Claims(tmp_path, timeout=60) for _ in range(3))
    late.take("a")
    age(tmp_path, 61)
    assert next_one.take("a")
    late.release("a")
    assert not third.take("a")
    next_one.release("a")
    assert files(tmp_path) == [] and third.take("a")


def test_whoever_takes_over_too_late_finds_that_others_have_claimed_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, slow, fast, third = (Claims(tmp_path, timeout=60) for _ in range(4))
    dead.take("a")
    age(tmp_path, 61)
    link = os.link

    def delayed(*paths: Path) -> None:
        monkeypatch.undo()
        assert fast.take("a")
        fast.release("a")
        assert third.take("a")
        link(*paths)

    monkeypatch.setattr(os, "link", delayed)
    assert not slow.take("a")
    assert files(tmp_path) == ["a"] and not fast.take("a")


def test_claims_that_come_while_others_release_and_take_over_are_never_held_twice(tmp_path: Path) -> None:
    """Every thread claims, is alone for a moment, and lets go or seems to die."""
    inside, overlaps = [], []

    def work(number: int) -> bool:
        for turn in range(25):
            claims = Claims(tmp_path, timeout=60)
            if claims.take("a"):
                inside.append(number)
                overlaps.extend(inside[1:])
                ours = [*tmp_path.glob("a*")]
                inside.remove(number)
                if (number + turn) % 3:
                    claims.release("a")
                else:
                    make_old(ours)
        return True

    assert len(at_once(6, work)) == 6 and overlaps == []


def make_old(paths: list[Path]) -> None:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # the first ones may be taken over before the last
            os.utime(path, (0, 0))


def test_claims_are_renewed_as_long_as_the_context_lasts(tmp_path: Path) -> None:
    with Claims(tmp_path, timeout=0.3) as holder:
        holder.take("a")
        for _ in range(2):
            age(tmp_path, 3600)
            end = time.monotonic() + 60
            while time.time() - (tmp_path / "a").stat().st_mtime > 60 and time.monotonic() < end:
                time.sleep(0.01)
            assert not Claims(tmp_path, timeout=600).take("a")
    assert "heartbeat of claims" not in [thread.name for thread in threading.enumerate()]


def test_without_a_context_claims_are_not_renewed(tmp_path: Path) -> None:
    assert Claims(tmp_path, timeout=0.05).take("a")
    time.sleep(0.1)
    assert Claims(tmp_path, timeout=0.05).take("a")


DIE = """
import os, signal, sys
from torchreid_genext.data.store.work_claims import Claims
Claims(sys.argv[1]).take("a")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_claim_of_a_dead_process_of_this_machine_is_taken_over_without_delay(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIE, str(tmp_path)], cwd=ROOT, check=False)
    assert files(tmp_path) == ["a"]
    with Claims(tmp_path, timeout=3600) as claims:
        assert claims.take("a")
    assert files(tmp_path) == []


def test_of_other_machines_only_the_heartbeat_counts(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIE, str(tmp_path)], cwd=ROOT, check=False)
    claim = tmp_path / "a"
    claim.write_text(claim.read_text().replace('"machine": "', '"machine": "elsewhere-'))
    claims = Claims(tmp_path, timeout=60)
    assert not claims.take("a")
    age(tmp_path, 61)
    assert claims.take("a")


def test_sweeping_removes_what_the_dead_left_and_nothing_else(tmp_path: Path) -> None:
    dead, alive = Claims(tmp_path, timeout=60), Claims(tmp_path, timeout=60)
    dead.take("a")
    age(tmp_path, 61)
    Claims(tmp_path, timeout=60).take("a")
    (tmp_path / ".0123").write_text("")
    age(tmp_path, 61)
    (tmp_path / ".4567").write_text("")
    alive.take("b")
    alive.sweep()
    assert files(tmp_path) == [".4567", "b"]


def test_a_claim_that_cannot_be_removed_is_left_to_be_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Path, **options: bool) -> None:
        raise OSError(errno.EIO, "Input/output error", str(self))

    with Claims(tmp_path) as claims, monkeypatch.context() as patch:
        claims.take("a")
        patch.setattr(Path, "unlink", fail)
        claims.release("a")
    assert "a claim is left to be taken over: [Errno 5]" in caplog.text and files(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "..", "a\\b"])
def test_names_that_would_be_others_files_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="expected a name without dots and folders, got"):
        Claims(tmp_path).take(name)


def test_timeouts_that_never_end_are_refused(tmp_path: Path) -> None:
    for timeout in (0, -1, float("nan")):
        with pytest.raises(ValueError, match=f"expected timeout > 0, got {timeout}"):
            Claims(tmp_path, timeout=timeout)


def test_what_is_no_claim_is_named(tmp_path: Path) -> None:
    for content in ("no claim", "[]", '{"token": "a"}'):
        (tmp_path / "a").write_text(content)
        with pytest.raises(ValueError, match="expected a claim, got other content in .*a"):
            Claims(tmp_path).take("a")


LINKLESS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)


@pytest.fixture(params=LINKLESS, ids=lambda number: errno.errorcode[number])
def linkless(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without hard links."""

    def link(*paths: Path) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(os, "link", link)


@pytest.mark.usefixtures("linkless")
def test_claims_need_no_hard_links(tmp_path: Path) -> None:
    with Claims(tmp_path) as first, Claims(tmp_path) as second:
        assert first.take("a") and second.take("b") and not second.take("a")
        first.release("a")
        assert second.take("a")
    assert files(tmp_path) == []


@pytest.mark.usefixtures("linkless")
def test_without_hard_links_one_of_all_succeeds_to_claim_and_to_take_over(tmp_path: Path) -> None:
    everyone = [Claims(tmp_path, timeout=60) for _ in range(8)]
    for piece in range(10):
        take = lambda number, piece=piece: everyone[number].take(f"work{piece}")  # noqa: E731
        assert len(at_once(8, take)) == 1
        age(tmp_path, 61)
        assert len(at_once(8, take)) == 1
        assert at_once(8, take) == []


@pytest.mark.usefixtures("linkless")
def test_a_claim_that_was_never_written_is_held_until_its_time_is_over(tmp_path: Path) -> None:
    """Its process was killed between the two steps."""
    (tmp_path / "a").touch()
    first, second = Claims(tmp_path, timeout=60), Claims(tmp_path, timeout=60)
    assert not first.take("a")
    age(tmp_path, 61)
    assert first.take("a") and not second.take("a")
    first.release("a")
    assert files(tmp_path) == [] and second.take("a")


@pytest.mark.usefixtures("linkless")
def test_without_hard_links_a_full_disk_leaves_no_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = Claims(tmp_path)
    read = Path.read_bytes

    def full(path: Path) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(Path, "read_bytes", full)
        claims.take("a")
    assert Path.read_bytes is read and files(tmp_path) == [] and claims.take("a")


def test_other_errors_of_links_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*paths: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(OSError, match="Input/output error"):
        Claims(tmp_path).take("a")


def test_claims_are_renewed_well_before_others_may_take_them_over(tmp_path: Path) -> None:
    with Claims(tmp_path, timeout=6) as holder:
        holder.take("a")
        age(tmp_path, 3600)
        time.sleep(4)
        assert time.time() - (tmp_path / "a").stat().st_mtime < 60
