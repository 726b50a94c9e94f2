"""Images to features: torchreid's numbers, quarantine, and a cache that is never trusted blindly."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.conftest import ROOT
from torchreid_genext import compat
from torchreid_genext.extraction import Encoder, cache, extract, fold_batch_norm, plan, read_image

SIZE = {"height": 32, "width": 16}


def osnet(seed: int = 0) -> nn.Module:
    """The smallest torchreid model, with batch statistics that are not the neutral ones of a new network."""
    torch.manual_seed(seed)
    model = compat.build_model("osnet_x0_25", 4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    return model.eval()


class Counting(nn.Module):
    """Mean colours; its images, but for blank ones, are counted, and it is interrupted after some of them."""

    def forward(self, images: Tensor) -> Tensor:
        count(int((images.std((2, 3)) > 1e-6).any(1).sum()))
        return images.mean((2, 3))


def count(images: int) -> None:
    """In a file, so that the network stays as it is and all processes count together."""
    if seen() + images > int(os.environ.get("LIMIT", "1000000000")):
        os.kill(os.getpid(), int(os.environ.get("SIGNAL", signal.SIGINT)))
        time.sleep(10)
    with open(os.environ["SEEN"], "a") as file:
        file.write("." * images)


def seen() -> int:
    return Path(os.environ["SEEN"]).stat().st_size


@pytest.fixture(autouse=True)
def counted(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path_factory.mktemp("counted") / "seen"
    file.touch()
    monkeypatch.setenv("SEEN", str(file))


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Forty JPEGs of 24x48 pixels with smooth random content."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(40):
        coarse = generator.integers(0, 256, (6, 3, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((24, 48), Image.Resampling.BICUBIC).save(folder / f"{i:02d}.jpg")
    return sorted(map(str, folder.iterdir()))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SHARD", 16)


def host_pixels(paths: list[str], **size: int) -> Tensor:
    _, transform = compat.build_transforms(size["height"], size["width"])
    return torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])


def host_features(model: nn.Module, paths: list[str]) -> Tensor:
    with torch.no_grad():
        return model(host_pixels(paths, **SIZE))


# What is computed


def test_pixels_are_those_of_torchreid_to_the_last_bit(images: list[str]) -> None:
    encoder = Encoder(nn.Identity(), height=80, width=30)
    pixels = torch.stack([torch.from_numpy(read_image(path, 80, 30)) for path in images])
    assert torch.equal(encoder.normalized(pixels), host_pixels(images, height=80, width=30))


def test_other_normalization_is_torchreids_too(images: list[str]) -> None:
    encoder = Encoder(nn.Identity(), **SIZE, norm_mean=[0.5, 0.4, 0.3], norm_std=[0.1, 0.2, 0.3])
    _, transform = compat.build_transforms(64, 32, norm_mean=[0.5, 0.4, 0.3], norm_std=[0.1, 0.2, 0.3])
    pixels = torch.from_numpy(read_image(images[0], 64, 32))[None]
    assert torch.equal(encoder.normalized(pixels)[0], transform(Image.open(images[0]).convert("RGB")))


@pytest.mark.parametrize("workers", [0, 2])
def test_fp32_features_are_those_of_torchreid(images: list[str], workers: int) -> None:
    model = osnet()
    extraction = extract(Encoder(model, **SIZE), images, workers=workers, progress=False)
    expected = host_features(model, images)
    assert (extraction.features - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert extraction.kept.tolist() == list(range(40)) and not extraction.unreadable


def test_fp32_features_are_those_of_the_engine_on_synthreid(registered: None, reid_data: Path) -> None:
    options = {"batch_size_train": 4, "batch_size_test": 100, "workers": 0, **SIZE}
    manager = compat.image_data_manager(
        root=str(reid_data), sources=["synthreid_tiny"], targets=["synthreid_tiny"], use_gpu=False, **options
    )
    engine = compat.engine_class("image", "softmax")(manager, osnet(), None, use_gpu=False)
    engine.set_model_mode("eval")
    with torch.no_grad():
        batches = [
            (engine.extract_features(batch["img"]), batch["impath"])
            for batch in manager.test_loader["synthreid_tiny"]["query"]
        ]
    expected, paths = (
        torch.cat([features for features, _ in batches]),
        [path for _, names in batches for path in names],
    )
    features = extract(Encoder(engine.model, **SIZE), paths, progress=False).features
    assert (features - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_flipped_features_are_the_mean_over_image_and_mirror_image(images: list[str]) -> None:
    model, pixels = osnet(), host_pixels(images[:4], **SIZE)
    with torch.no_grad():
        expected = (model(pixels) + model(pixels.flip(3))) / 2
    features = extract(Encoder(model, **SIZE, flip=True), images[:4], workers=0, progress=False).features
    torch.testing.assert_close(features, expected)


@pytest.mark.parametrize("channels_last", [False, True])
def test_bf16_features_point_the_same_way(images: list[str], channels_last: bool) -> None:
    model = osnet()
    encoder = Encoder(model, **SIZE, precision="bf16", channels_last=channels_last)
    features = extract(encoder, images, workers=0, progress=False).features
    assert features.dtype == torch.float32
    assert torch.cosine_similarity(features, host_features(model, images)).min() > 0.99
    assert not torch.equal(features, host_features(model, images))


def test_folding_removes_every_batch_norm_of_osnet_and_changes_only_rounding(images: list[str]) -> None:
    model = osnet()
    folded, pixels = fold_batch_norm(model), host_pixels(images[:8], **SIZE)
    assert not [node for node in folded.graph.nodes if "bn" in str(node.target)]
    with torch.no_grad():
        torch.testing.assert_close(folded(pixels), model(pixels), rtol=1e-4, atol=1e-4)
    assert isinstance(model.conv1.bn, nn.BatchNorm2d)


class TwoPaths(nn.Module):
    """A convolution used twice, of which only one use is normalised; and one whose output is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.forked = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.first.running_var.fill_(4.0)
        self.second.running_mean.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        forked = self.forked(x)
        return self.first(self.shared(x)) + self.shared(x) + self.second(forked) + forked


def test_layers_with_other_uses_are_not_folded() -> None:
    model, x = TwoPaths().eval(), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(fold_batch_norm(model)(x), model(x))


def test_channels_last_serves_models_that_view_their_feature_maps() -> None:
    torch.manual_seed(0)
    model, images = (
        compat.build_model("pcb_p4", 2).eval(),
        torch.randint(0, 256, (2, 64, 32, 3), dtype=torch.uint8),
    )
    exact = Encoder(model, **SIZE)(images)
    for precision, tolerance in (("fp32", 1e-5), ("bf16", 0.05)):
        features = Encoder(model, **SIZE, precision=precision, channels_last=True)(images)
        torch.testing.assert_close(features, exact, rtol=tolerance, atol=tolerance)


class Brightness(nn.Module):
    """Its control flow depends on the image, so it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x if x.mean() > 1e9 else x + 1).mean((2, 3))


def test_model_that_cannot_be_traced_runs_under_autocast(images: list[str]) -> None:
    model = Brightness().eval()
    exact = extract(Encoder(model, **SIZE), images, workers=0, progress=False).features
    rounded = extract(Encoder(model, **SIZE, precision="bf16"), images, workers=0, progress=False).features
    torch.testing.assert_close(rounded, exact, rtol=0.03, atol=0.03)
    assert not torch.equal(rounded, exact)


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_compiled_features_are_the_same(images: list[str]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    compiled = extract(Encoder(model, **SIZE, compile=True), images, progress=False)
    torch.testing.assert_close(
        compiled.features, extract(Encoder(model, **SIZE), images, progress=False).features
    )


def test_compile_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"expected a C\+\+ compiler .* got none"):
        Encoder(nn.Identity(), compile=True)


def test_unknown_precision_lists_the_choices() -> None:
    with pytest.raises(ValueError, match="unknown precision 'fp8'; choose from fp32, bf16"):
        Encoder(nn.Identity(), precision="fp8")


def test_empty_split_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one image, got an empty list"):
        extract(Encoder(Counting()), [])


# What cannot be read


@pytest.fixture
def damaged(images: list[str]) -> dict[str, str]:
    """Four of the images made unreadable: path -> part of the reason."""
    Path(images[3]).write_bytes(Path(images[3]).read_bytes()[:-60])
    Path(images[17]).write_text("not an image")
    Image.new("RGB", (24, 48)).save(images[20], format="GIF")
    Path(images[39]).unlink()
    reasons = ("truncated", "cannot identify", "cannot identify", "No such file")
    return dict(zip((images[3], images[17], images[20], images[39]), reasons))


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_left_out_and_listed(
    images: list[str], damaged: dict[str, str], workers: int
) -> None:
    encoder = Encoder(Counting(), **SIZE)
    extraction = extract(encoder, images, workers=workers, progress=False)
    good = [path for path in images if path not in damaged]
    assert list(extraction.unreadable) == list(damaged)
    assert all(reason in extraction.unreadable[path] for path, reason in damaged.items())
    assert [images[i] for i in extraction.kept] == good
    torch.testing.assert_close(extraction.features, extract(encoder, good, progress=False).features)


def test_unreadable_images_stay_listed_when_features_come_from_the_cache(
    images: list[str], damaged: dict[str, str], tmp_path: Path, small_shards: None
) -> None:
    encoder = Encoder(Counting(), **SIZE)
    first, second = (extract(encoder, images, cache_dir=tmp_path / "cache", progress=False) for _ in range(2))
    assert second.computed == 1  # the file that is missing, which may be there now
    assert second.unreadable == first.unreadable
    assert torch.equal(first.kept, second.kept) and torch.equal(first.features, second.features)


def test_strict_stops_at_the_first_unreadable_image(
    images: list[str], damaged: dict[str, str], tmp_path: Path
) -> None:
    encoder = Encoder(Counting(), **SIZE)
    with pytest.raises(ValueError, match=r"expected only readable images, got .*03\.jpg: .*truncated"):
        extract(encoder, images, strict=True, workers=0, progress=False)
    assert seen() < 20
    extract(encoder, images, cache_dir=tmp_path / "cache", progress=False)
    with pytest.raises(ValueError, match=r"03\.jpg"):
        extract(encoder, images, strict=True, cache_dir=tmp_path / "cache", progress=False)


def test_picture_above_pillows_pixel_cap_is_left_out(
    images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (200, 200)).save(images[0])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 48)
    extraction = extract(Encoder(Counting(), **SIZE), images, workers=0, progress=False)
    assert list(extraction.unreadable) == [images[0]]
    assert "decompression bomb" in extraction.unreadable[images[0]]


def test_split_without_a_readable_image_is_refused(images: list[str]) -> None:
    for path in images:
        Path(path).write_bytes(b"")
    with pytest.raises(ValueError, match="expected a readable image among 40, got none"):
        extract(Encoder(Counting(), **SIZE), images, workers=0, progress=False)


# What is kept


def test_second_run_reads_no_image(images: list[str], tmp_path: Path) -> None:
    encoder = Encoder(Counting(), **SIZE)
    first = extract(encoder, images, cache_dir=tmp_path / "cache", workers=0, progress=False)
    second = extract(encoder, images, cache_dir=tmp_path / "cache", workers=0, progress=False)
    assert (first.computed, second.computed, seen()) == (40, 0, 40)
    assert torch.equal(first.features, second.features)


def test_plan_says_what_is_missing_and_writes_nothing(
    images: list[str], tmp_path: Path, small_shards: None
) -> None:
    encoder, folder = Encoder(Counting(), **SIZE), tmp_path / "cache"
    assert plan(encoder, images, folder).to_compute == 40
    assert not folder.exists()
    extract(encoder, images[:16], cache_dir=folder, progress=False)
    assert plan(encoder, images, folder).to_compute == 24
    assert seen() == 16


def test_cache_goes_by_content_not_by_name(images: list[str], tmp_path: Path) -> None:
    encoder = Encoder(Counting(), **SIZE)
    extract(encoder, images, cache_dir=tmp_path / "cache", progress=False)
    moved = shutil.copytree(Path(images[0]).parent, tmp_path / "moved")
    assert plan(encoder, sorted(moved.iterdir()), tmp_path / "cache").to_compute == 0
    shutil.copy(images[1], moved / "00.jpg")
    swapped = extract(encoder, sorted(moved.iterdir()), cache_dir=tmp_path / "cache", progress=False)
    assert swapped.computed == 0 and torch.equal(swapped.features[0], swapped.features[1])
    assert not torch.equal(swapped.features[1], swapped.features[2])


@pytest.mark.parametrize(
    "other",
    [{"height": 65}, {"norm_mean": [0.5, 0.5, 0.5]}, {"norm_std": [0.5, 0.5, 0.5]}, {"precision": "bf16"}]
    + [{"channels_last": True}, {"flip": True}, {"name": "other"}],
    ids=str,
)
def test_features_depend_on_every_setting(
    images: list[str], tmp_path: Path, other: dict[str, object]
) -> None:
    extract(Encoder(Counting(), **SIZE), images, cache_dir=tmp_path, workers=0, progress=False)
    assert plan(Encoder(Counting(), **(SIZE | other)), images, tmp_path).to_compute == 40


def test_features_depend_on_the_weights() -> None:
    model = osnet()
    key = Encoder(model).key
    assert Encoder(osnet()).key == key
    model.conv1.conv.weight.data[0, 0, 0, 0] += 1e-6
    assert Encoder(model).key != key


def test_interrupted_run_continues_where_it_was(
    images: list[str], tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder(Counting(), **SIZE)
    monkeypatch.setenv("LIMIT", "35")
    with pytest.raises(KeyboardInterrupt):
        extract(encoder, images, cache_dir=tmp_path, workers=0, progress=False)
    monkeypatch.delenv("LIMIT")
    assert seen() == 32
    resumed = extract(encoder, images, cache_dir=tmp_path, workers=0, progress=False)
    assert (seen(), resumed.computed) == (40, 8)
    assert torch.equal(resumed.features, extract(encoder, images, workers=0, progress=False).features)


KILLED = """
import sys
from tests.test_extraction import SIZE, Counting
from torchreid_genext.extraction import Encoder, cache, extract
cache.SHARD = 16
extract(Encoder(Counting(), **SIZE), sys.argv[2:], cache_dir=sys.argv[1], workers=0, progress=False)
"""
PLANNED = """
import sys
from tests.test_extraction import SIZE, Counting
from torchreid_genext.extraction import Encoder, plan
print(plan(Encoder(Counting(), **SIZE), sys.argv[2:], sys.argv[1]).to_compute)
"""


def test_killed_run_loses_at_most_one_shard(images: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "LIMIT": "35", "SIGNAL": str(int(signal.SIGKILL))}
    killed, planned = (
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "cache"), *images],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        )
        for code in (KILLED, PLANNED)
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    assert planned.stdout.strip() == "8", planned.stderr


def cache_file(folder: Path) -> Path:
    (file,) = folder.glob("*.safetensors")
    return file


@pytest.mark.parametrize("damage", ["truncated", "foreign", "other features", "empty"])
def test_damaged_cache_file_is_reported_and_replaced(
    images: list[str], tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = Encoder(Counting(), **SIZE)
    expected = extract(encoder, images, cache_dir=tmp_path / "cache", progress=False).features
    file = cache_file(tmp_path / "cache")
    content = file.read_bytes()
    if damage == "foreign":
        extract(Encoder(Counting(), "x", **SIZE), images, cache_dir=tmp_path / "other", progress=False)
        shutil.copy(cache_file(tmp_path / "other"), file)
    else:
        changed = content[:-1] + bytes([content[-1] ^ 1])
        file.write_bytes({"truncated": content[:-100], "other features": changed, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        again = extract(encoder, images, cache_dir=tmp_path / "cache", progress=False)
    assert "extracted again" in caplog.text and str(file) in caplog.text
    assert again.computed == 40 and torch.equal(again.features, expected)
    assert file.read_bytes() == content


def test_cache_that_cannot_be_written_stops_before_the_work(images: list[str], tmp_path: Path) -> None:
    encoder = Encoder(Counting(), **SIZE)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="expected a folder that can be written"):
        extract(encoder, images, cache_dir=tmp_path / "file" / "cache", workers=0, progress=False)
    assert seen() == 0
