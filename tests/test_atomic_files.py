"""Files that are replaced stay what they were to the system: permissions, links, and a name that lasts."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from torchreid_genext import checkpoints


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    path = checkpoints.write_text(tmp_path / "a.txt", "old")
    path.chmod(mode)
    checkpoints.write_text(path, "new")
    assert path.read_text() == "new" and mode_of(path) == mode


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    assert mode_of(checkpoints.write_text(tmp_path / "a.txt", "new")) == mode_of(tmp_path / "plain")


@pytest.mark.parametrize("there", [True, False])
def test_links_lead_to_what_is_written(tmp_path: Path, there: bool) -> None:
    (tmp_path / "store").mkdir()
    target, link, second = tmp_path / "store" / "a.txt", tmp_path / "link.txt", tmp_path / "second.txt"
    if there:
        target.write_text("old")
        target.chmod(0o600)
    link.symlink_to("store/a.txt")  # relative to its own folder
    second.symlink_to(link)
    assert checkpoints.write_text(second, "new") == second
    assert link.is_symlink() and second.is_symlink() and target.read_text() == "new"
    assert not there or mode_of(target) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["link.txt", "second.txt", "store"]
    assert os.listdir(tmp_path / "store") == ["a.txt"]


def test_the_folder_is_flushed_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed, flush = [], os.fsync

    def noted(handle: int) -> None:
        flushed.append((stat.S_ISDIR(os.fstat(handle).st_mode), (tmp_path / "a.txt").exists()))
        flush(handle)

    monkeypatch.setattr(os, "fsync", noted)
    checkpoints.write_text(tmp_path / "a.txt", "new")
    assert flushed == [(False, False), (True, True)]


@pytest.mark.parametrize("number", [errno.EBADF, errno.EINVAL, errno.EACCES])
def test_a_folder_that_cannot_be_flushed_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    flush, before = os.fsync, len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else None

    def refused(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        flush(handle)

    monkeypatch.setattr(os, "fsync", refused)
    assert checkpoints.write_text(tmp_path / "a.txt", "new").read_text() == "new"
    assert before is None or len(os.listdir("/proc/self/fd")) == before
