from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import torchreid_genext as genext
from torchreid_genext import compat
from torchreid_genext.data.filenames import parse
from torchreid_genext.data.images.in_memory import ImageTensor, channel_statistics, load_images

FOLDER = Path("market1501") / "Market-1501-v15.09.15"
SIZE = {"height": 24, "width": 12, "workers": 0, "progress": False}


@pytest.fixture(scope="module", autouse=True)
def switched_on() -> None:
    genext.register()
    yield
    genext.unregister()


@pytest.fixture
def market(tmp_path: Path) -> Path:
    """A root with a Market-1501 of six noisy pictures."""
    generator = np.random.default_rng(0)
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (tmp_path / FOLDER / folder).mkdir(parents=True)
        for name in ("0002_c1s1_000451_03", "0002_c2s1_000301_01", "0007_c1s6_028546_01"):
            pixels = generator.integers(0, 256, (128, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / FOLDER / folder / f"{name}.jpg")
    return tmp_path


def files(market: Path) -> list[Path]:
    return sorted((market / FOLDER / "bounding_box_train").glob("*.jpg"))


@pytest.mark.parametrize("split", ("train", "query", "gallery"))
def test_a_split_is_its_files_resized_with_the_labels_of_the_data_set(reid_data: Path, split: str) -> None:
    loaded = load_images("synthreid_tiny", reid_data, split=split, **SIZE)
    records = getattr(compat.init_image_dataset("synthreid_tiny", root=str(reid_data), verbose=False), split)
    assert loaded.images.dtype == torch.uint8 and loaded.images.shape == (len(records), 3, 24, 12)
    assert list(zip(loaded.paths, loaded.pids.tolist(), loaded.camids.tolist())) == [r[:3] for r in records]
    assert loaded.raw_pids.tolist() == [parse(path, "synthreid").pid for path in loaded.paths]
    last = Image.open(records[-1][0]).convert("RGB").resize((12, 24), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(loaded.images[-1].permute(1, 2, 0), np.asarray(last))


def test_training_people_count_from_zero_and_keep_their_numbers_beside(market: Path) -> None:
    loaded = load_images("market1501", market, **SIZE)
    assert sorted(zip(loaded.pids.tolist(), loaded.raw_pids.tolist())) == [(0, 2), (0, 2), (1, 7)]


def test_processes_read_what_one_process_reads(reid_data: Path) -> None:
    options = SIZE | {"workers": 2}
    loaded = load_images("synthreid_tiny", reid_data, **options)
    assert len(loaded) >= 64  # four batches, so that there is work for two processes
    assert torch.equal(loaded.images, load_images("synthreid_tiny", reid_data, **SIZE).images)


def test_damaged_images_are_left_out_and_said_once(market: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = load_images("market1501", market, **SIZE)
    damaged, missing_bytes, _ = files(market)
    damaged.write_bytes(b"no picture")
    missing_bytes.write_bytes(missing_bytes.read_bytes()[:500])
    with caplog.at_level(logging.WARNING):
        loaded = load_images("market1501", market, **SIZE)
    assert set(loaded.unreadable) == {str(damaged), str(missing_bytes)}
    (kept,) = (whole.paths.index(path) for path in loaded.paths)
    for name in ("images", "pids", "camids", "raw_pids"):
        assert torch.equal(getattr(loaded, name), getattr(whole, name)[[kept]]), name
    (message,) = (record.getMessage() for record in caplog.records)
    assert message.startswith("market1501 train: 2 of 3 images cannot be read") and str(damaged) in message


def test_no_readable_image_is_an_error(market: Path) -> None:
    for file in files(market):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="expected a readable image among 3 of market1501 train, got none"):
        load_images("market1501", market, **SIZE)


def test_the_second_start_reads_no_picture(
    market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(market)[0].write_bytes(b"no picture")
    first = load_images("market1501", market, cache_dir=tmp_path / "cache", **SIZE)
    monkeypatch.setattr("torchreid_genext.data.images.in_memory._read", None)  # calling it would fail
    again = load_images("market1501", market, cache_dir=tmp_path / "cache", **SIZE)
    assert torch.equal(again.images, first.images) and again.paths == first.paths
    assert again.unreadable == first.unreadable and len(again.unreadable) == 1


def test_a_changed_file_or_size_is_read_again(market: Path, tmp_path: Path) -> None:
    first = load_images("market1501", market, cache_dir=tmp_path, **SIZE)
    Image.new("RGB", (64, 128), (255, 0, 0)).save(first.paths[1])
    again = load_images("market1501", market, cache_dir=tmp_path, **SIZE)
    assert torch.equal(again.images[0], first.images[0]) and again.images[1, 0].min() > 250
    taller = load_images("market1501", market, cache_dir=tmp_path, **SIZE | {"height": 30})
    assert taller.images.shape[2] == 30 and len(list(tmp_path.glob("*.safetensors"))) == 3


def test_the_size_of_a_file_tells_of_a_change_too(market: Path, tmp_path: Path) -> None:
    first = load_images("market1501", market, cache_dir=tmp_path, **SIZE)
    before = os.stat(first.paths[1])
    Image.new("RGB", (64, 128), (255, 0, 0)).save(first.paths[1])
    os.utime(first.paths[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(first.paths[1]).st_size != before.st_size
    assert load_images("market1501", market, cache_dir=tmp_path, **SIZE).images[1, 0].min() > 250


def test_a_fault_that_has_passed_is_not_kept(market: Path, tmp_path: Path) -> None:
    whole = load_images("market1501", market, **SIZE)
    path, content = Path(whole.paths[1]), Path(whole.paths[1]).read_bytes()
    before = os.stat(path)
    for part in (bytes(len(content)), content):  # of the same size and time
        path.write_bytes(part)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        found = load_images("market1501", market, cache_dir=tmp_path, **SIZE)
        assert len(found) == len(whole) - (part != content)
    assert torch.equal(found.images, whole.images) and not found.unreadable
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


@pytest.mark.parametrize("damage", (lambda content: content[:-100], lambda content: b"{}"))
def test_a_damaged_cache_is_replaced(
    market: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage
) -> None:
    first = load_images("market1501", market, cache_dir=tmp_path, **SIZE)
    (file,) = tmp_path.glob("*.safetensors")
    good = file.read_bytes()
    file.write_bytes(damage(good))
    assert torch.equal(load_images("market1501", market, cache_dir=tmp_path, **SIZE).images, first.images)
    assert "images are read again" in caplog.text and file.read_bytes() == good


def test_a_selection_takes_everything_along(reid_data: Path) -> None:
    loaded = load_images("synthreid_tiny", reid_data, **SIZE)
    for rows in (slice(3, 9, 2), [3, 5, 7], torch.tensor([3, 5, 7]), torch.arange(len(loaded)) % 8 == 3):
        some = loaded.select(rows)
        assert some.paths[:3] == (loaded.paths[3],) + some.paths[1:3] and len(some.paths) == len(some)
        assert torch.equal(some.raw_pids, torch.tensor([parse(p, "synthreid").pid for p in some.paths]))
        assert torch.equal(some.images[0], loaded.images[3]) and some.camids[0] == loaded.camids[3]
    assert loaded.to("cpu").paths == loaded.paths


@pytest.mark.parametrize(
    ("options", "message"),
    (
        ({"split": "test"}, "unknown split 'test'; choose from train, query, gallery"),
        ({"height": 0}, "expected height and width >= 1, got 0 and 12"),
        ({"name": "market"}, "unknown image data set 'market'; choose from .*synthreid_tiny"),
    ),
)
def test_bad_arguments_are_named(market: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_images(**{"name": "market1501", "root": market} | SIZE | options)


def test_statistics_are_those_of_all_pixels_and_channels() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1500, 3, 5, 4), generator=generator).to(torch.uint8)
    images[:, 1] //= 9
    images[:, 2] = 200
    mean, variance = channel_statistics(images)
    every = images.numpy().transpose(1, 0, 2, 3).reshape(3, -1) / 255
    np.testing.assert_allclose(mean, every.mean(1), rtol=1e-13)
    np.testing.assert_allclose(variance, every.var(1), rtol=1e-12, atol=1e-25)
    assert mean.dtype == variance.dtype == torch.float64 and variance[2] == 0 and mean[2] == 200 / 255


@pytest.mark.parametrize("images", (torch.rand(2, 3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.uint8)))
def test_statistics_want_pixels(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 images \(N, 3, H, W\), got"):
        channel_statistics(images)


def test_file_names_of_unknown_pattern_have_no_raw_pids() -> None:
    assert ImageTensor(torch.zeros(1, 3, 2, 2), torch.zeros(1), torch.zeros(1), ("a.jpg",)).raw_pids is None


def test_averages_are_the_mean_images_of_people() -> None:
    images = torch.randint(0, 256, (5, 3, 4, 2), dtype=torch.uint8)
    pids = torch.tensor([7, 2, 7, 2, 7])
    people, averages = ImageTensor(images, pids, torch.zeros(5), ("",) * 5).averages()
    assert people.tolist() == [2, 7]
    for person, average in zip(people, averages, strict=True):
        torch.testing.assert_close(average, (images[pids == person].double() / 255).mean(0).float())
