"""Filling a store by several processes of a machine: on a CPU faster than as many threads on one batch."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from torchreid_genext.data.store import ImageStore
from torchreid_genext.generation.filling import Filled, Generate, fill
from torchreid_genext.generation.work import Work, shard_of, units_of
from torchreid_genext.processes import processes_that_pay

__all__ = ["fill_by_processes", "processes_for"]

_LOOK_EVERY = 0.5  # seconds


def processes_for(count: int, batch_size: int, device: torch.device) -> int:
    """How many processes shall draw so many pictures: on a CPU `processes_that_pay`, elsewhere one."""
    return processes_that_pay(count, 2 * batch_size) if device.type == "cpu" else 1


def fill_by_processes(
    processes: int,
    store: ImageStore,
    works: Sequence[Work],
    generate: Generate,
    *,
    shard: tuple[int, int] | None = None,
    progress: bool = True,
    **options: Any,
) -> Filled:
    """As `fill`, by forked processes with a thread each, which share the work as strangers would.

    Raises:
        ValueError, OSError: as `fill`, from whichever process first failed; the others end.
        RuntimeError: if a process was killed.
    """
    if shard:  # nobody makes claims there, so that it is divided further
        works = [work for unit in shard_of(units_of(works), shard) for work in unit]
    context = multiprocessing.get_context("fork")
    results, made = context.SimpleQueue(), context.Value("q", 0)
    team = [
        context.Process(
            target=_work, daemon=True,
            args=(results, made, store, works, generate, shard and (number, processes), options),
        )
        for number in range(processes)
    ]  # fmt: skip
    for each in team:
        each.start()
    try:
        return _gathered(team, results, made, works, progress)
    finally:
        for each in team:
            each.terminate()
            each.join()


def _work(results: Any, made: Any, store: ImageStore, works: Sequence[Work], generate: Generate,
          shard: tuple[int, int] | None, options: dict[str, Any]) -> None:  # fmt: skip
    torch.set_num_threads(1)  # in this process alone
    count = _Counted(generate, made)
    try:
        results.put(fill(store, works, count, shard=shard, progress=False, **options))
    except Exception as error:  # it is raised by the process that waits
        results.put(error)


@dataclass
class _Counted:
    """A generator that tells how many pictures it made, and stops when nobody waits for them any more."""

    generate: Generate
    made: Any

    def __call__(self, works: list[Work]) -> Sequence[Any]:
        if not multiprocessing.parent_process().is_alive():
            raise SystemExit(1)
        pictures = self.generate(works)
        with self.made.get_lock():
            self.made.value += len(pictures)
        return pictures


def _gathered(team: Sequence[Any], results: Any, made: Any, works: Sequence[Work], progress: bool) -> Filled:
    """What came of all processes."""
    found: list[Filled] = []
    with tqdm(total=len(works), unit="img", desc="pictures", disable=None if progress else True) as bar:
        while len(found) < len(team):
            bar.update(made.value - bar.n)
            if results.empty():
                _check_alive(team, results, len(found))
                time.sleep(_LOOK_EVERY)
                continue
            if isinstance(result := results.get(), Exception):
                raise result
            found.append(result)
    failed = {path: why for each in found for path, why in each.failed.items()}
    lost = sum(work.reference in failed for work in works)
    count = sum(each.made for each in found)
    return Filled(count, len(works) - count - lost, failed)


def _check_alive(team: Sequence[Any], results: Any, found: int) -> None:
    ended = [each for each in team if not each.is_alive()]
    if len(ended) > found and results.empty() and (killed := [each for each in ended if each.exitcode]):
        raise RuntimeError(
            f"expected all of {len(team)} processes to end well, got exit code {killed[0].exitcode} of one; "
            "what it made is there, and the next run makes the rest"
        )
