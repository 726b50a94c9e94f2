"""Extraction and the engine's hook with a network on the pretended accelerator: the CPU's numbers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.accelerator import DEVICE, counting_syncs, pretended_accelerator
from tests.test_engine import build_engine, measure, pictures, tiny_config, tiny_datasets  # noqa: F401
from tests.test_extraction import SIZE, images, osnet  # noqa: F401
from torchreid_genext import config
from torchreid_genext import engine as hooks
from torchreid_genext.benchmark import settings, study
from torchreid_genext.engine import hook
from torchreid_genext.extraction import Encoder, extract, read_image

CHAINS = ("base", "camera_norm+nfc(neighbours=cross_camera)", "l2+rerank(k1=6)")


@pytest.fixture(autouse=True)
def accelerator() -> None:
    with pretended_accelerator():
        yield


def close(found: Tensor, expected: Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(found.cpu(), expected.cpu(), rtol=1e-5, atol=atol)


@pytest.mark.parametrize(
    "options",
    ({}, {"channels_last": True}, {"flip": True}, {"precision": "bf16"}),
    ids=("fp32", "channels_last", "flip", "bf16"),
)
def test_encoder_gives_the_same(images: list[str], options: dict[str, Any]) -> None:  # noqa: F811
    pixels = torch.stack([torch.from_numpy(read_image(path, 32, 16)) for path in images[:6]])
    encoders = (Encoder(osnet(), "osnet", **SIZE, **options, device=device) for device in (DEVICE, "cpu"))
    found, expected = (encoder(pixels) for encoder in encoders)
    close(
        found, expected, atol=5e-3 if "precision" in options else 1e-6
    )  # kernels of bf16 round in their own ways


@pytest.mark.parametrize("workers", (0, 2))
def test_extraction_gives_the_same(images: list[str], workers: int) -> None:  # noqa: F811
    found, expected = (
        extract(Encoder(osnet(), **SIZE, device=device), images, workers=workers, progress=False)
        for device in (DEVICE, "cpu")
    )
    assert found.kept.tolist() == expected.kept.tolist()
    close(found.features, expected.features)


def test_cached_features_are_the_computed_ones(images: list[str], tmp_path: Path) -> None:  # noqa: F811
    encoder = Encoder(osnet(), **SIZE, device=DEVICE)
    first, again = (
        extract(encoder, images, cache_dir=tmp_path / "cache", workers=0, progress=False) for _ in "ab"
    )
    assert (first.computed, again.computed) == (40, 0)
    close(again.features, first.features)


def test_features_stay_where_the_network_is(images: list[str]) -> None:  # noqa: F811
    encoder = Encoder(osnet(), **SIZE, device=DEVICE)
    pixels = torch.stack([torch.from_numpy(read_image(path, 32, 16)) for path in images[:6]])
    with counting_syncs() as count:
        features = encoder(pixels)
    assert features.device == DEVICE and not count.total()
    assert extract(encoder, images, workers=0, progress=False).features.device == DEVICE


def report(model: nn.Module, folder: Path, chain: str, **options: Any) -> dict[str, Any]:
    """What an engine with this network reports after a chain."""
    cfg = tiny_config("genext.evaluation.enabled", "True", "genext.evaluation.chain", chain)
    engine = build_engine(cfg)
    engine.model.load_state_dict(model.state_dict())
    engine.model.to(next(model.parameters()).device)
    measure(hooks.attach(engine, cfg), save_dir=str(folder), **options)
    return json.loads((folder / "genext_report_tiny_image.json").read_text())


@pytest.mark.parametrize("chain", CHAINS)
def test_engine_evaluates_the_same(tiny_datasets: None, tmp_path: Path, chain: str) -> None:  # noqa: F811
    model = osnet()
    expected = report(model, tmp_path / "cpu", chain)
    found = report(copy.deepcopy(model).to(DEVICE), tmp_path / "there", chain)
    for name in ("mAP", "cmc", "map_bounds", "mINP", "id2_query", "id2_gallery"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6), name


def test_the_hosts_reranking_is_the_same(tiny_datasets: None, tmp_path: Path) -> None:  # noqa: F811
    model = osnet()
    expected = report(model, tmp_path / "cpu", "nfc", rerank=True)["rerank"]
    found = report(copy.deepcopy(model).to(DEVICE), tmp_path / "there", "nfc", rerank=True)["rerank"]
    assert found["mAP"] == pytest.approx(expected["mAP"], abs=1e-6)
    assert found["cmc"] == pytest.approx(expected["cmc"], abs=1e-6)


@pytest.mark.usefixtures("tiny_datasets")
def test_features_of_the_engine_stay_with_its_model() -> None:
    engine = build_engine(tiny_config())
    engine.model.to(DEVICE)
    engine.set_model_mode("eval")
    with torch.no_grad():
        loader = engine.test_loader["tiny_image"]["gallery"]
        found, _ = hook._extract(engine, loader, "gallery", hook._device(engine))
    assert found.features.device == DEVICE


def test_of_several_backbones_one_at_a_time_is_on_the_device(
    registered: None, reid_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config.get_default_config()
    cfg.merge_from_list(["data.root", str(reid_data), "data.targets", ["synthreid_tiny"], "data.workers", 0])
    cfg.merge_from_list(["data.height", 32, "data.width", 16, "data.save_dir", str(tmp_path)])
    cfg.merge_from_list(["model.pretrained", False, "genext.benchmark.pictures", False])
    cfg.genext.benchmark.models = ["a=osnet_x0_25", "b=osnet_x0_25"]
    cfg.genext.benchmark.chains, cfg.genext.benchmark.bootstrap = ["base"], 10
    monkeypatch.setattr(settings, "_device", lambda cfg: DEVICE)
    build, forward, encoders, resident = settings.build_encoder, Encoder.forward, [], []

    def kept(*given: Any) -> Encoder:
        encoders.append(build(*given))
        return encoders[-1]

    monkeypatch.setattr(settings, "build_encoder", kept)

    def counted(self: Encoder, pixels: Tensor) -> Tensor:
        resident.append([next(encoder.parameters()).device for encoder in encoders].count(DEVICE))
        return forward(self, pixels)

    monkeypatch.setattr(Encoder, "forward", counted)
    study.run(cfg)
    assert len(encoders) == 2 and set(resident) == {1}
