"""Rows of features by the content of their images: what is found again, never kept, and what heals."""

from __future__ import annotations

import builtins
import errno
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.test_extraction import SIZE, images  # noqa: F401
from torchreid_genext.extraction import Encoder, Extraction, cache, extract, plan
from torchreid_genext.extraction.cache import FeatureCache, Part


class Colours(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


@pytest.fixture
def encoder() -> Encoder:
    return Encoder(Colours(), **SIZE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def extracted(encoder: Encoder, paths: list[str], folder: Path | None) -> Extraction:
    return extract(encoder, paths, cache_dir=folder, workers=0, progress=False)


def test_an_image_in_front_is_all_that_is_computed(
    encoder: Encoder,
    images: list[str],  # noqa: F811
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache, "SHARD", 16)
    extracted(encoder, images[1:], folder)
    whole = extracted(encoder, images, folder)
    assert whole.computed == 1
    assert torch.equal(whole.features, extracted(encoder, images, None).features)


def test_selections_and_other_orders_are_known(
    encoder: Encoder,
    images: list[str],  # noqa: F811
    folder: Path,
) -> None:
    Path(images[7]).write_text("no image")
    extracted(encoder, images, folder)
    for some in (images[5:9], images[::-1], [images[3]] * 3 + images[6:8]):
        found, expected = extracted(encoder, some, folder), extracted(encoder, some, None)
        assert found.computed == 0 and torch.equal(found.features, expected.features)
        assert torch.equal(found.kept, expected.kept) and found.unreadable == expected.unreadable


def test_many_small_runs_leave_few_files(
    encoder: Encoder,
    images: list[str],  # noqa: F811
    folder: Path,
) -> None:
    Path(images[7]).write_text("no image")
    for path in images[:7] + images[8:]:
        extracted(encoder, [path], folder)
    assert len([*folder.iterdir()]) <= cache._SMALL_FILES + 2
    found = extracted(encoder, images, folder)
    assert found.computed == 1
    assert torch.equal(found.features, extracted(encoder, images, None).features)


def failing(path: str, code: int, monkeypatch: pytest.MonkeyPatch, after: int = 0) -> None:
    """Opening this file fails from the second time on, or the first."""
    opened, left = builtins.open, [after]

    def broken(file: Any, *args: Any, **options: Any) -> Any:
        if str(file) == path:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(code, os.strerror(code), path)
        return opened(file, *args, **options)

    monkeypatch.setattr(builtins, "open", broken)


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO, errno.ESTALE], ids=errno.errorcode.get)
def test_faults_of_reading_are_not_remembered(
    encoder: Encoder,
    images: list[str],  # noqa: F811
    folder: Path,
    code: int,
    after: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        failing(images[3], code, patch, after)
        assert os.strerror(code) in extracted(encoder, images, folder).unreadable[images[3]]
    again = extracted(encoder, images, folder)
    assert (again.computed, again.unreadable, again.kept.tolist()) == (1, {}, [*range(40)])


def test_features_are_kept_under_the_bytes_that_were_decoded(
    encoder: Encoder,
    images: list[str],  # noqa: F811
    folder: Path,
) -> None:
    planned, first = plan(encoder, images[:2], folder), Path(images[0]).read_bytes()
    Path(images[0]).write_bytes(Path(images[5]).read_bytes())
    Path(images[1]).write_bytes(b"damaged")
    assert planned.run(workers=0, progress=False).kept.tolist() == [0]
    assert extracted(encoder, [images[5]], folder).computed == 0
    Path(images[0]).write_bytes(first)
    restored = extracted(encoder, images[:1], folder)
    assert restored.computed == 1 and torch.equal(
        restored.features, extracted(encoder, images[:1], None).features
    )


def test_what_is_decoded_is_not_read_a_second_time_for_its_name(
    encoder: Encoder,
    images: list[str],  # noqa: F811
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planned, opened, times = plan(encoder, images[:3], folder), builtins.open, []

    def watched(file: Any, *args: Any, **options: Any) -> Any:
        times.extend([file] if str(file) in images else [])
        return opened(file, *args, **options)

    monkeypatch.setattr(builtins, "open", watched)
    planned.run(workers=0, progress=False)
    assert times == images[:3]


def test_a_damaged_file_costs_its_rows_alone(
    encoder: Encoder,
    images: list[str],  # noqa: F811
    folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    extracted(encoder, images[:30], folder)
    (file,) = folder.glob("*.safetensors")
    extracted(encoder, images, folder)
    file.write_bytes(file.read_bytes()[:-7])
    assert extracted(encoder, images, folder).computed == 30
    caplog.clear()
    assert extracted(encoder, images, folder).computed == 0 and not caplog.records


def test_damaged_files_of_other_images_do_not_stay(
    encoder: Encoder,
    images: list[str],  # noqa: F811
    folder: Path,
) -> None:
    extracted(encoder, images[:30], folder)
    (file,) = folder.glob("*.safetensors")
    file.write_bytes(b"")
    assert extracted(encoder, images[30:], folder).computed == 10
    assert not file.exists()


def part(start: int, rows: int) -> Part:
    """Rows whose features are their numbers, which their digests say."""
    numbers = range(start, start + rows)
    return Part(torch.tensor([[float(n)] for n in numbers]), {}, [f"{n:064d}" for n in numbers])


def fill(folder: Path, start: int) -> None:
    for first in range(start, start + 300, 3):
        store = FeatureCache(folder, "k" * 64)
        store.known([f"{first:064d}"])
        store.prepare()
        store.add(part(first, 3))
        store.merge()


def test_two_processes_lose_nothing_and_no_row_is_anothers(folder: Path) -> None:
    """They add the same rows, then others, and merge what the other one has just written."""
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=fill, args=(folder, start)) for start in (0, 0, 150)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    digests = [f"{n:064d}" for n in range(450)]
    found = FeatureCache(folder, "k" * 64).known(digests)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert [int(found.features[found.rows[digest], 0]) for digest in digests] == [*range(450)]
    assert len([*folder.iterdir()]) <= cache._SMALL_FILES + 2


def test_merged_shards_hold_a_shard_each(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SHARD", 10)
    store = FeatureCache(folder, "k" * 64)
    for i in range(20):
        store.add(part(4 * i, 4))
    store.add(Part(torch.empty(0, 0), {0: "bad", 1: "unopened"}, ["f" * 64, ""]))
    store.merge()
    assert len([*folder.glob("*.safetensors")]) == 8
    found = FeatureCache(folder, "k" * 64).known(["f" * 64, f"{79:064d}"])
    assert found.faults == {"f" * 64: "bad"} and float(found.features[found.rows[f"{79:064d}"]]) == 79


def test_files_of_half_a_shard_are_not_written_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SHARD", 8)
    store = FeatureCache(folder, "k" * 64)
    for i in range(20):
        store.add(part(4 * i, 4))
    before = {*folder.iterdir()}
    store.merge()
    assert {*folder.iterdir()} == before


def test_file_of_another_key_under_this_one_s_name_is_refused(folder: Path) -> None:
    FeatureCache(folder, "j" * 64).add(part(0, 4))
    (file,) = folder.iterdir()
    file.rename(folder / file.name.replace("j" * 32, "k" * 32))
    assert not FeatureCache(folder, "k" * 64).known([f"{0:064d}"]).rows
