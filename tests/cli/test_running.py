"""How commands end: in one sentence, or stopped in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from torchreid_genext import checkpoints
from torchreid_genext.cli import run
from torchreid_genext.generation import processes


@pytest.fixture(autouse=True)
def late_errors_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that are stopped silence them, for the little time that is left."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)


def ending(tool: object) -> object:
    with pytest.raises(SystemExit) as caught:
        run(tool)
    return caught.value.code


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("expected a,\n  got b"), "error: expected a, got b"),
        (OSError(28, "No space left on device"), "error: [Errno 28] No space left on device"),
        (ImportError("install it"), "error: install it"),
        (MemoryError(), "error: MemoryError"),
        (RuntimeError("DataLoader worker (pid 7) is killed"), "error: DataLoader worker"),
    ],
)  # fmt: skip
def test_what_users_can_mend_is_one_line(error: Exception, sentence: str) -> None:
    def tool() -> None:
        raise error

    code = ending(tool)
    assert code.startswith(sentence) and "\n" not in code


def test_a_killed_process_is_told_in_a_sentence() -> None:
    class Killed:
        exitcode = -9

        def is_alive(self) -> bool:
            return False

    class Nothing:
        def empty(self) -> bool:
            return True

    assert "got exit code -9 of one" in ending(lambda: processes._check_alive([Killed()], Nothing(), 0))


@pytest.mark.parametrize(
    "fault", [RuntimeError("shapes"), TypeError("None"), KeyError("x"), ZeroDivisionError()]
)
def test_faults_of_the_program_are_seen_in_full(fault: Exception) -> None:
    def tool() -> None:
        raise fault

    with pytest.raises(type(fault)):
        run(tool)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_in_order(number: int, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    before, unwound = signal.getsignal(number), []

    def tool() -> None:
        try:
            signal.raise_signal(number)
            time.sleep(5)
        finally:
            unwound.append(True)
            raise RuntimeError("a child of it ended, too")

    assert ending(tool) == code and unwound == [True]
    assert signal.getsignal(number) == before
    assert capsys.readouterr().err == "stopped; what is finished is kept\n"


def test_a_forked_process_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    def tool() -> int:
        if child := os.fork():
            time.sleep(0.2)
            os.kill(child, signal.SIGTERM)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143
            return 0
        try:
            time.sleep(10)
        except SystemExit as ended:
            os._exit(ended.code)

    run(tool)
    assert capfd.readouterr().err == ""


def test_names_that_are_no_text_can_be_told(capsys: pytest.CaptureFixture[str]) -> None:
    run(lambda: print(os.fsdecode(b"\xc8\xcb.jpg")))
    assert capsys.readouterr().out == "\\udcc8\\udccb.jpg\n"


def test_a_reader_that_has_gone_is_no_error(tmp_path: Path) -> None:
    code = "from torchreid_genext.cli import run; run(lambda: print('line\\n' * 100_000))"
    line = f'{sys.executable} -c "{code}" | head -n 1'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("line\n", "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_drawing_stops_and_leaves_nothing_half_done(number: int, code: int, tmp_path: Path) -> None:
    """As a terminal does it: processes that draw get the signal, too."""
    words = ["make-synthreid", "--size", "small", "--workers", "2", "--root", str(tmp_path)]
    drawing = subprocess.Popen(
        [sys.executable, "-m", "torchreid_genext", *words], cwd=tmp_path, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    begun = time.monotonic() + 60
    while not [*tmp_path.rglob("*.jpg")] and time.monotonic() < begun:
        time.sleep(0.05)
    (os.killpg if number == signal.SIGINT else os.kill)(drawing.pid, number)
    told = drawing.communicate(timeout=60)[1]
    assert drawing.returncode == code and "Traceback" not in told
    assert told.endswith("stopped; what is finished is kept\n")
    assert not [*tmp_path.iterdir()]


def test_disk_that_is_full_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left" in ending(lambda: checkpoints.write_text(tmp_path / "a", "b"))
