"""Backbones that people bring, in the benchmark: what their cards say is done and stands in the report."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from tests.test_benchmark import cfg, features  # noqa: F401
from torchreid_genext import benchmark, checkpoints
from torchreid_genext.backbones import sources
from torchreid_genext.backbones.card import Card, write_card
from torchreid_genext.benchmark import extracting
from torchreid_genext.benchmark.extracting import Split
from torchreid_genext.benchmark.settings import Backbone, Images, build_encoder, open_dataset
from torchreid_genext.data.images.reading import open_image
from torchreid_genext.data.images.resizing import resized
from torchreid_genext.extraction import Encoder, extract, read_image

pytestmark = pytest.mark.usefixtures("registered")
SMALL: dict[str, Any] = {"image_size": (32, 16), "width": 8, "depth": 1, "heads": 2}


def osnet(folder: Path, card: Card | None = None) -> Path:
    torch.manual_seed(0)
    path = checkpoints.save_backbone(folder / "w.safetensors", sources.build("osnet_x0_25", 5), {})
    if card is not None:
        write_card(path, card)
    return path


def transreid(folder: Path, **card: Any) -> Path:
    """With cameras that matter."""
    torch.manual_seed(0)
    network = sources.build("transreid", 5, options={**SMALL, "cameras": 6})
    nn.init.normal_(network.sie)
    path = checkpoints.save_backbone(folder / "t.safetensors", network, {})
    write_card(path, Card(architecture="transreid", options=SMALL, **card))
    return path


def told(cfg: CfgNode, folder: Path, camera: str) -> Encoder:  # noqa: F811
    """The small TransReID that is told no camera, that of each image, or the first."""
    return build_encoder(cfg, Backbone("x", "transreid", str(transreid(folder, camera=camera))).with_card())


def reports(result: benchmark.Result) -> list[str]:
    return [benchmark.table(result), (result.folder / "report.md").read_text()]


# What the card says


def test_what_a_card_expects_stands_beside_what_is_measured(cfg: CfgNode, tmp_path: Path) -> None:  # noqa: F811
    expected = {"synthreid_tiny": {"base": {"mAP": 79.88, "rank1": 91.48}, "l2": {"mAP": 1}}}
    card = Card(
        expected=expected, trained_on=["market1501", "synthreid_tiny"], licence="MIT", source="a shelf"
    )
    cfg.genext.benchmark.models = [f"a=osnet_x0_25@{osnet(tmp_path, card)}", "b=osnet_x0_25"]
    cfg.genext.benchmark.chains = ["base", "l2", "nfc"]
    result = benchmark.run(cfg)
    for text in reports(result):
        assert text.count("79.88 / 91.48") == 1 and text.count("1.00 / -") == 1
        assert text.count("expected mAP / R1") == 1  # not in the table of the other
        assert text.count("seen: it was trained on synthreid_tiny") == 1
        assert text.count("licence MIT; source a shelf") == 1
    model, other = json.loads((result.folder / "report.json").read_text())["models"]
    assert model["card"]["licence"] == "MIT" and (model["seen"], other["seen"]) == (True, False)
    assert [chain["expected"] for chain in model["chains"]] == [*expected["synthreid_tiny"].values(), None]
    rows = list(csv.DictReader((result.folder / "report.csv").open()))
    assert [row["expected_mAP"] for row in rows[:4]] == ["79.88", "1", "", ""]
    assert [row["seen"] for row in rows] == ["True"] * 3 + ["False"] * 3


def test_without_a_card_nothing_is_said(cfg: CfgNode, tmp_path: Path) -> None:  # noqa: F811
    cfg.genext.benchmark.models = [f"osnet_x0_25@{osnet(tmp_path)}"]
    cfg.genext.benchmark.chains = ["base"]
    for text in reports(benchmark.run(cfg)):
        assert not any(word in text for word in ("expected", "seen", "licence"))


def test_images_are_seen_as_the_card_says(cfg: CfgNode, tmp_path: Path) -> None:  # noqa: F811
    seen = {
        "height": 48,
        "width": 24,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "interpolation": "bicubic",
        "resize": "letterbox",
    }
    path = osnet(tmp_path, Card(preprocessing=seen))
    encoder = build_encoder(cfg, Backbone("x", "osnet_x0_25", str(path)).with_card())
    image = open_dataset(cfg)[0].paths[0]
    pixels = np.array(resized(open_image(image), 48, 24, "bicubic", "letterbox"))
    x = (torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.25
    network = sources.build("osnet_x0_25", 1)
    checkpoints.load_weights(network, path)
    found = extract(encoder, [image], workers=0, progress=False).features
    assert torch.allclose(found, network.eval()(x), atol=1e-5)
    plain = build_encoder(cfg, Backbone("x", "osnet_x0_25", str(path)))
    assert plain.key != encoder.key and (plain.height, encoder.height) == (32, 48)


def test_a_letterbox_keeps_shapes_between_black_bars(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (10, 10), "white").save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png", 20, 10)
    assert (found == 255).all()
    pixels = np.array(resized(open_image(tmp_path / "a.png"), 20, 10, "nearest", "letterbox"))
    assert (pixels[5:15] == 255).all() and (pixels[:5] == 0).all() and (pixels[15:] == 0).all()


def test_the_feature_is_the_one_of_the_card(cfg: CfgNode, tmp_path: Path) -> None:  # noqa: F811
    widths = {}
    for feature in ("before", "concatenated"):
        path = transreid(tmp_path, feature=feature)
        encoder = build_encoder(cfg, Backbone("x", "transreid", str(path)).with_card())
        widths[feature] = encoder(torch.zeros(2, 32, 16, 3, dtype=torch.uint8)).shape[1]
    assert widths == {"before": 40, "concatenated": 80}
    path = osnet(tmp_path, Card(feature="after"))
    with pytest.raises(
        ValueError, match="expected no feature in the card of x, since osnet_x0_25 gives but one, got 'after'"
    ):
        build_encoder(cfg, Backbone("x", "osnet_x0_25", str(path)).with_card())


# Cameras


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_each_image_is_seen_with_its_own_camera(cfg: CfgNode, tmp_path: Path, precision: str) -> None:  # noqa: F811
    cfg.genext.inference.precision = precision
    images = open_dataset(cfg)[1]
    cameras = ("none", "image", "zero")
    found = {camera: Split(cfg, told(cfg, tmp_path, camera), images).images for camera in cameras}
    network = sources.build("transreid", 1, image_size=(32, 16), options=SMALL)
    checkpoints.load_weights(network, tmp_path / "t.safetensors")
    gallery, camids = found["image"], found["image"].camids
    known = {"none": None, "image": camids, "zero": torch.zeros_like(camids)}
    for camera, numbers in known.items():
        wanted = network.eval()(seen(cfg, gallery.paths), cameras=numbers)
        close = 1e-4 if precision == "fp32" else 0.3
        assert torch.allclose(found[camera].features, wanted, atol=close), camera
        assert found[camera].paths == gallery.paths and torch.equal(found[camera].camids, camids)
    assert not torch.equal(found["none"].features, found["zero"].features)
    assert len(camids.unique()) > 1


def seen(cfg: CfgNode, paths: list[str]) -> Tensor:  # noqa: F811
    encoder = Encoder(nn.Flatten(), height=32, width=16)
    return encoder.normalized(torch.from_numpy(np.stack([read_image(path, 32, 16) for path in paths])))


def test_cached_features_know_the_camera(cfg: CfgNode, tmp_path: Path) -> None:  # noqa: F811
    cfg.genext.benchmark.cache_dir = str(tmp_path / "features")
    encoder, gallery = told(cfg, tmp_path, "image"), open_dataset(cfg)[1]
    first, again = (Split(cfg, encoder, gallery) for _ in range(2))
    assert not any(run.computed for run in again.runs)
    assert torch.equal(first.images.features, again.images.features)
    moved = replace(gallery, camids=[1 - gallery.camids[0], *gallery.camids[1:]])
    assert sum(plan.to_compute for plan in extracting.plans(cfg, encoder, [moved])) == 1


def test_more_cameras_than_the_weights_know_are_refused(cfg: CfgNode, tmp_path: Path) -> None:  # noqa: F811
    encoder = told(cfg, tmp_path, "image")
    with pytest.raises(ValueError, match="expected one of 6 cameras, which transreid knows, got 6"):
        encoder.of_camera(6)
    path = osnet(tmp_path, Card(camera="image"))
    with pytest.raises(ValueError, match="expected a network that takes cameras, got OSNet"):
        build_encoder(cfg, Backbone("x", "osnet_x0_25", str(path)).with_card())


def test_copies_for_cameras_share_their_weights(cfg: CfgNode, tmp_path: Path) -> None:  # noqa: F811
    encoder = told(cfg, tmp_path, "image")
    other = encoder.of_camera(3)
    assert {id(weight) for weight in other.parameters()} == {id(weight) for weight in encoder.parameters()}
    assert encoder.camera == -1 and other.camera == 3 and other.key != encoder.key


# Features of others


def test_features_of_a_file_give_the_same_table(cfg: CfgNode, tmp_path: Path) -> None:  # noqa: F811
    cfg.genext.benchmark.models = [f"a=osnet_x0_25@{osnet(tmp_path)}"]
    result = benchmark.run(cfg)
    (measured,) = result.measurements
    names = [
        f"{split}/{Path(path).name}"
        for split, part in (("query", measured.query), ("bounding_box_test", measured.gallery))
        for path in part.paths
    ]
    folders = {Path(path).parent.name for path in measured.query.paths + measured.gallery.paths}
    assert folders == {"query", "bounding_box_test"}
    rows = torch.cat([measured.query.features, measured.gallery.features]).numpy()
    np.savez(tmp_path / "f.npz", features=rows, names=np.array(names))
    cfg.genext.benchmark.models = [f"mine=features:{tmp_path}/f.npz"]
    (found,) = benchmark.run(cfg).measurements
    assert [r.mAP for r in found.reports] == [r.mAP for r in measured.reports]
    assert found.backbone.title == "mine" and found.backbone.origin == f"{tmp_path}/f.npz"
    assert "all" in benchmark.describe(cfg)
    cfg.genext.benchmark.chains = ["fuse(eta=2)"]
    with pytest.raises(
        ValueError, match=r"expected a network for the images of fuse\(eta=2\), got features of mine"
    ):
        benchmark.run(cfg)


@pytest.mark.parametrize(
    "name, words",
    [
        ("osnet_x9", "unknown model"),
        ("features:none.npz", "got none.npz"),
        ("onnx:none.onnx", "got none.onnx|onnxruntime"),
    ],
)
def test_what_is_not_there_is_told_before_work(name: str, words: str, cfg: CfgNode, tmp_path: Path) -> None:  # noqa: F811
    cfg.genext.benchmark.models = [name]
    with pytest.raises((ValueError, FileNotFoundError, ImportError), match=words):
        benchmark.run(cfg)
    assert not math.isnan(0.0) and not (tmp_path / "run" / "report.md").exists()


def test_timms_own_weights_see_images_as_timm_says(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    timm = pytest.importorskip("timm")
    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained, **options: create(name, False, **options)
    )
    cfg.model.pretrained = True
    encoder = build_encoder(cfg, Backbone("x", "timm:test_vit", ""))
    assert encoder.mean.flatten().tolist() == [0.5] * 3 and encoder.reading == (32, 16, "bicubic", "stretch")
    cfg.model.pretrained = False
    assert build_encoder(cfg, Backbone("x", "timm:test_vit", "", pretrained=False)).reading[2] == "bilinear"


@pytest.mark.parametrize("camera", ["none", "image"])
def test_images_without_cameras_are_of_an_unknown_one(cfg: CfgNode, tmp_path: Path, camera: str) -> None:  # noqa: F811
    path = transreid(tmp_path, camera=camera)
    encoder = build_encoder(cfg, Backbone("x", "transreid", str(path)).with_card())
    paths = open_dataset(cfg)[0].paths[:3]
    found = Split(cfg, encoder, Images(paths, [0, 1, 2], None)).images
    network = sources.build("transreid", 1, image_size=(32, 16), options=SMALL)
    checkpoints.load_weights(network, path)
    assert torch.allclose(found.features, network.eval()(seen(cfg, paths)), atol=1e-4)
