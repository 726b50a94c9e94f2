"""Shared by all tests: no network, a fixed seed, and one tiny SynthReID for the whole session."""

from __future__ import annotations

import functools
import gc
import os
import signal
import socket
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils import collect_env
from tqdm import tqdm

import torchreid_genext as genext

ROOT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """What is imported stays to the end: looking for garbage in it, again and again, takes seconds."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # libraries that count what is left at the end would complain


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Networks this small gain nothing from threads, and wait long for them on a machine with other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def interruptions() -> None:
    """Shells let what they start in the background ignore them, and Python then leaves it at that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def progress_bars_of_each_process() -> None:
    """tqdm's lock is shared with forked processes, and one killed while it has it never gives it back."""
    tqdm.set_lock(threading.RLock())
    tqdm.monitor_interval = 0  # no thread that has the lock while another one forks


@pytest.fixture(scope="session", autouse=True)
def system_that_is_looked_at_once() -> None:
    """For the head of a log torch asks a dozen programs what is installed; the answer stays the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect_env, "get_pretty_env_info", functools.cache(collect_env.get_pretty_env_info))
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is allowed (download tests use it); anything else is a mistake of the test."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        local = not isinstance(address, tuple) or address[0] in ("127.0.0.1", "::1", "localhost")
        if not local:
            raise OSError(f"tests do not use the network, got {address!r}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def registered() -> None:
    """The plugin switched on for one test, and off again after it."""
    genext.register()
    yield
    genext.unregister()


@pytest.fixture(scope="session")
def reid_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root that holds SynthReID `tiny`, written once per session."""
    from torchreid_genext.data.synthetic import write_dataset

    root = tmp_path_factory.mktemp("reid-data")
    write_dataset(root / "synthreid_tiny", size="tiny", progress=False)
    return root


@pytest.fixture(scope="session")
def few() -> str:
    """A size of SynthReID, a third of `tiny`, for tests that write a whole data set."""
    from torchreid_genext.data.synthetic.world import SIZES

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "few", replace(SIZES["tiny"], train=4, test=4, distractors=2, junk=1))
        yield "few"


def shared_data() -> Path | None:
    """The folder of research-only data (Market-1501, real weights), or None when it is absent."""
    folder = Path(os.environ.get("GENEXT_DATA", ROOT.parent / "shared" / "data"))
    return folder if folder.is_dir() else None
