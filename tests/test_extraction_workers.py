"""Processes, networks and files that are not as one would like: the same features, or one clear sentence."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.test_extraction import SIZE, images, osnet  # noqa: F401
from torchreid_genext import compat
from torchreid_genext.extraction import Encoder, extract, files, process
from torchreid_genext.extraction.process import Parcel


@pytest.fixture
def start_method(request: pytest.FixtureRequest) -> Iterator[str]:
    before = multiprocessing.get_start_method()
    # So that libraries are loaded once.
    multiprocessing.set_forkserver_preload([__name__, type(osnet()).__module__])
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


WAYS = [("fork", {}), ("spawn", {"precision": "bf16", "channels_last": True}), ("forkserver", {})]
WAYS += [("forkserver", {"precision": "bf16", "channels_last": True})]


@pytest.mark.parametrize(("start_method", "options"), WAYS, indirect=["start_method"], ids=str)
def test_features_are_the_same_however_processes_start(
    images: list[str],  # noqa: F811
    start_method: str,
    options: dict[str, Any],
) -> None:
    encoder = Encoder(osnet(), **SIZE, batch_size=10, **options)
    assert len([*encoder.network.parameters()]) > 170
    expected = extract(encoder, images, workers=0, progress=False).features
    found = extract(encoder, images, workers=1, progress=False).features
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 if not options else 1e-2)


class Tied(nn.Module):
    """Tensors in several places, of several kinds, in several memory orders."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.layer = nn.Conv2d(3, 4, 3).to(torch.bfloat16, memory_format=torch.channels_last)
        self.register_buffer("hidden", torch.arange(3), persistent=False)
        self.register_buffer("scalar", torch.tensor(2.0))
        self.register_buffer("nothing", None)
        self.plain = [torch.ones(2)]


def test_a_parcel_holds_all_that_the_network_held() -> None:
    network = Tied()
    unpack, content = Parcel(network).__reduce__()
    found = unpack(*content).network
    assert found.first.weight is found.second.weight and isinstance(found.first.weight, nn.Parameter)
    tensors = dict(process._named(found))
    for name, tensor in process._named(network):
        assert torch.equal(tensors[name], tensor) and tensors[name].stride() == tensor.stride(), name
        assert (tensors[name].dtype, tensors[name].requires_grad) == (tensor.dtype, tensor.requires_grad)
    assert found.nothing is None and torch.equal(found.plain[0], network.plain[0])
    assert not any(tensor.is_meta for _, tensor in process._named(network))


def test_settings_travel_with_a_parcel(monkeypatch: pytest.MonkeyPatch) -> None:
    before = process.settings()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    torch.set_float32_matmul_precision("medium")
    wanted, (unpack, content) = process.settings(), Parcel(nn.Identity()).__reduce__()
    process.use(before)
    assert process.settings() == before != wanted
    unpack(*content)
    assert process.settings() == wanted
    process.use(before)


@pytest.mark.filterwarnings("ignore:Got pickle error")
@pytest.mark.parametrize("start_method", ["spawn"], indirect=True)
def test_a_network_that_cannot_be_sent_is_refused(images: list[str], start_method: str) -> None:  # noqa: F811
    network = osnet()
    network.act = lambda x: x
    with pytest.raises(ValueError, match=r"sent to processes \(spawn\), got OSNet: .*; workers=0 needs none"):
        extract(Encoder(network, **SIZE, batch_size=10), images, workers=1, progress=False)


class Picky(nn.Module):
    """Fails on pictures, but not on blank ones."""

    def forward(self, x: Tensor) -> Tensor:
        if x.std((2, 3)).max() > 1e-6:
            raise KeyError("weights")
        return x.mean((2, 3))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_of_the_network_names_an_image(images: list[str], workers: int) -> None:  # noqa: F811
    with pytest.raises(
        RuntimeError, match=r"the network failed on images such as .*00\.jpg: KeyError: 'weights'"
    ):
        extract(Encoder(Picky(), **SIZE), images, workers=workers, progress=False)


class Returns(nn.Module):
    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Any:
        return self.change(x)


UNFIT = {
    r"a tuple of float32 \(2, 3\), float32 \(2, 3, 32, 16\)": lambda x: (x.mean((2, 3)), x),
    r"a list of float32 \(2, 3\)": lambda x: [x.mean((2, 3))],
    r"a dict of feat: float32 \(2, 3\), more: a tuple of nothing": lambda x: {
        "feat": x.mean((2, 3)),
        "more": (),
    },
    r"float32 \(2, 3, 32, 16\)": lambda x: x,
    r"float32 \(2,\)": lambda x: x.mean((1, 2, 3)),
    r"float32 \(3, 2\)": lambda x: x.mean((2, 3)).T,
    r"int64 \(2, 3\)": lambda x: x.mean((2, 3)).long(),
    "a NoneType": lambda x: None,
}


@pytest.mark.parametrize("what", UNFIT)
def test_networks_that_return_something_else_are_refused_before_a_file_is_opened(what: str) -> None:
    rule = rf"^expected features \(B, D\) from Returns in evaluation mode, got {what} for 2 images; wrap"
    with pytest.raises(ValueError, match=rule):
        extract(Encoder(Returns(UNFIT[what]), **SIZE), ["lost.jpg"], progress=False)


@pytest.mark.parametrize(
    "change", [lambda x: x.mean((2, 3), keepdim=True), lambda x: x.mean((2, 3)).squeeze()]
)
def test_features_of_more_or_less_dimensions_are_understood(
    images: list[str],  # noqa: F811
    change: Callable[[Tensor], Tensor],
) -> None:
    encoder = Encoder(Returns(change), **SIZE, batch_size=3)
    expected = extract(Encoder(Returns(lambda x: x.mean((2, 3))), **SIZE), images, workers=0).features
    assert torch.equal(extract(encoder, images, workers=0, progress=False).features, expected)


def test_features_that_are_no_numbers_are_named_and_not_kept(
    images: list[str],  # noqa: F811
    tmp_path: Path,
) -> None:
    Path(images[2]).write_text("no image")
    Image.new("RGB", (16, 32), "white").save(images[4])
    encoder = Encoder(Returns(lambda x: (2.0 - x.mean((2, 3))).log()), **SIZE)
    with pytest.raises(ValueError, match=r"got NaN or infinity for [^,]*/04\.jpg; check"):
        extract(encoder, images[:6], cache_dir=tmp_path / "cache", workers=0, progress=False)
    assert not [*(tmp_path / "cache").glob("*.safetensors")]


def test_features_of_zeros_are_named(
    images: list[str],  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    Path(images[0]).write_text("no image")
    Image.new("RGB", (16, 32)).save(images[1])
    extract(Encoder(Returns(lambda x: x.mean((2, 3)).relu()), **SIZE), images[:3], workers=0, progress=False)
    assert "nothing but zeros, from " + images[1] in caplog.text and images[2] not in caplog.text


ODD = os.fsdecode("人".encode("gbk")) + " 1\n.jpg"


@pytest.mark.parametrize("workers", [0, 1])
def test_names_of_other_encodings_pass_through_everything(
    images: list[str],  # noqa: F811
    tmp_path: Path,
    workers: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    odd = [str(tmp_path / ODD), str(tmp_path / f"black{ODD}"), str(tmp_path / f"torn{ODD}")]
    os.link(images[0], odd[0])
    Image.new("RGB", (16, 32)).save(odd[1], format="PNG")
    Path(odd[2]).write_bytes(b"torn")
    encoder = Encoder(Returns(mean_of_bright), ODD, **SIZE, batch_size=10)
    for computed in (43, 0):
        found = extract(encoder, [*odd, *images], cache_dir=tmp_path / "c", workers=workers, progress=False)
        assert (found.computed, [*found.unreadable]) == (computed, odd[2:])
        assert torch.equal(found.features[0], found.features[2])
    with pytest.raises(ValueError, match="torn") as error:
        extract(encoder, odd[2:], progress=False)
    for text in (caplog.text, str(error.value), *found.unreadable.values()):
        text.encode()
    assert "black\\udcc8" in caplog.text


def mean_of_bright(x: Tensor) -> Tensor:
    return x.mean((2, 3)).relu() * (x.std() > 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_files_of_all_kinds_are_listed(
    images: list[str],  # noqa: F811
    tmp_path: Path,
    workers: int,
) -> None:
    whole = Path(images[0]).read_bytes()
    contents = {"empty": b"", "cut": whole[:-60], "end": whole[:-2], "text": b"no image", "head": whole[:20]}
    for name, content in contents.items():
        (tmp_path / f"{name}.jpg").write_bytes(content)
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    bad = [str(tmp_path / f"{name}.jpg") for name in (*contents, "folder", "circle", "lost", "nul\0")]
    encoder = Encoder(Returns(mean), **SIZE, batch_size=10)
    for _ in range(2):
        found = extract(encoder, [*bad, *images], cache_dir=tmp_path / "c", workers=workers, progress=False)
        assert [*found.unreadable] == bad and all(found.unreadable.values())
        assert len(found.features) == 40
    assert found.unreadable[bad[0]] == "the file is empty" and "0x" not in "".join(found.unreadable.values())


def mean(x: Tensor) -> Tensor:
    return x.mean((2, 3))


# The encoder


def test_features_may_be_used_in_a_training() -> None:
    pixels = torch.randint(0, 256, (2, 32, 16, 3), dtype=torch.uint8)
    features = Encoder(Returns(mean), **SIZE)(pixels)
    assert not features.is_inference() and not features.requires_grad
    nn.Linear(3, 1)(features).sum().backward()


def test_batches_are_of_the_size_that_was_asked_for(images: list[str]) -> None:  # noqa: F811
    sizes: list[int] = []

    def watched(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return mean(x)

    extract(Encoder(Returns(watched), **SIZE, batch_size=7), images, workers=0, progress=False)
    assert sizes == [2, *[7] * 5, 5]
    assert Encoder(Returns(mean)).batch_size == 16 and Encoder(Returns(mean), device="meta").batch_size == 128
    with pytest.raises(ValueError, match="expected batch_size 1 or more, or None, got 0"):
        Encoder(Returns(mean), batch_size=0)


def test_an_encoder_sees_images_as_an_engine_does(images: list[str]) -> None:  # noqa: F811
    model = osnet()
    _, transform = compat.build_transforms(32, 16, norm_mean=[0.5, 0.4, 0.3], norm_std=[0.1, 0.2, 0.3])
    encoder = Encoder.like(nn.DataParallel(model), transform, "own", batch_size=5)
    options = {"norm_mean": [0.5, 0.4, 0.3], "norm_std": [0.1, 0.2, 0.3]}
    assert encoder.key == Encoder(model, "own", **SIZE, **options).key and encoder.batch_size == 5
    pixels = torch.stack([transform(Image.open(path).convert("RGB")) for path in images[:4]])
    with torch.no_grad():
        torch.testing.assert_close(extract(encoder, images[:4], workers=0).features, model(pixels))


def test_an_engine_with_another_transform_is_refused() -> None:
    train, _ = compat.build_transforms(32, 16)
    for transform in (train, lambda image: image):
        with pytest.raises(ValueError, match="expected a transform for tests that resizes"):
            Encoder.like(osnet(), transform)


def test_a_setting_of_pillow_reaches_the_features(
    images: list[str],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path(images[0]).write_bytes(Path(images[0]).read_bytes()[:-2])
    encoder = Encoder(Returns(mean), **SIZE)
    options = {"cache_dir": tmp_path / "c", "workers": 0, "progress": False}
    assert [*extract(encoder, images, **options).unreadable] == images[:1]
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    assert not extract(encoder, images, **options).unreadable


class Decoded(Encoder):
    """As on an accelerator: processes only decode."""

    runs_in_workers = False


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
@pytest.mark.parametrize("workers", [0, 1])
def test_features_are_the_same_where_processes_only_decode(
    images: list[str],  # noqa: F811
    workers: int,
) -> None:
    Path(images[5]).write_text("no image")
    model = osnet()
    expected = extract(Encoder(model, **SIZE), images, workers=0, progress=False)
    found = extract(Decoded(model, **SIZE, batch_size=10), images, workers=workers, progress=False)
    torch.testing.assert_close(found.features, expected.features)
    assert found.unreadable == expected.unreadable and torch.equal(found.kept, expected.kept)


def test_log_and_errors_name_a_few_images_only() -> None:
    assert files._listed([f"{i}.jpg" for i in range(7)]) == "0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg and 2 more"


class Descending(nn.Module):
    """A network that asks autograd, as those do that search for the code of an image."""

    differentiates, images = True, 0

    @torch.inference_mode(False)
    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        with torch.enable_grad():
            code = x.clone().mean((2, 3)).requires_grad_()
            return torch.autograd.grad(code.square().sum(), code)[0]


def test_a_network_that_asks_autograd_runs_in_this_process(images: list[str]) -> None:  # noqa: F811
    """It would refuse in one that was forked after autograd had threads, as it has once torch wrote ONNX."""
    encoder = Encoder(Descending(), **SIZE)
    found = extract(encoder, images, workers=2, progress=False).features
    assert encoder.network.images >= len(found)
    expected = extract(Encoder(Descending(), **SIZE), images, workers=0, progress=False).features
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_network_that_fails_on_images_of_a_size_is_told_in_a_sentence(images: list[str], workers: int) -> None:  # noqa: F811
    """Before the work, in this process, whoever would run it."""
    encoder = Encoder(compat.build_model("osnet_x0_25", 1, pretrained=False), height=1, width=1)
    with pytest.raises(ValueError, match="expected a network that takes images of 1 x 1, got OSNet: RuntimeError"):
        extract(encoder, images, workers=workers, progress=False)
