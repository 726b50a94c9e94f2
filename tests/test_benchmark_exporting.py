"""Backbones as ONNX files: the same features and the same table, or no file."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from yacs.config import CfgNode

from tests.backbones.test_transreid import as_authors_save
from tests.test_benchmark import cfg, features  # noqa: F401
from tests.test_benchmark_backbones import SMALL, osnet, transreid
from torchreid_genext import benchmark
from torchreid_genext.backbones import sources
from torchreid_genext.backbones.card import Card, read_card, write_card
from torchreid_genext.benchmark.exporting import convert, export
from torchreid_genext.benchmark.settings import Backbone, build_encoder
from torchreid_genext.cli.export import main
from torchreid_genext.generators.identity import IdentityGenerator
from torchreid_genext.generators.inverter import Inverter

pytestmark = pytest.mark.usefixtures("registered")
_NEEDED = ("onnx", "onnxscript", "onnxruntime")
needs_onnx = pytest.mark.skipif(not all(map(find_spec, _NEEDED)), reason=f"needs {', '.join(_NEEDED)}")


@needs_onnx
@pytest.mark.slow
def test_the_file_gives_the_same_table(cfg: CfgNode, tmp_path: Path) -> None:  # noqa: F811
    seen = {"height": 48, "width": 24, "mean": [0.5] * 3, "interpolation": "bicubic"}
    weights = osnet(tmp_path, Card(preprocessing=seen, licence="MIT", trained_on=["msmt17"]))
    cfg.model.load_weights = str(weights)
    result = export(cfg, tmp_path / "m.onnx", identities=0)
    assert result.difference < 1e-4 and result.exported_mAP == pytest.approx(result.mAP, abs=1e-6)
    card = read_card(tmp_path / "m.onnx")
    assert (card.licence, card.trained_on) == ("MIT", ["msmt17"])
    assert card.preprocessing["height"] == 48 and card.preprocessing["interpolation"] == "bicubic"
    cfg.model.load_weights, cfg.genext.benchmark.chains = "", ["base"]
    cfg.genext.benchmark.models = [f"network=osnet_x0_25@{weights}", f"file=onnx:{tmp_path}/m.onnx"]
    network, file = benchmark.run(cfg).measurements
    assert file.reports[0].mAP == pytest.approx(network.reports[0].mAP, abs=1e-6)
    assert file.reports[0].mAP == pytest.approx(result.mAP, abs=1e-6)
    assert torch.allclose(file.gallery.features, network.gallery.features, atol=1e-4)


@needs_onnx
@pytest.mark.slow
def test_what_the_card_says_of_the_network_is_done_in_the_file(cfg: CfgNode, tmp_path: Path) -> None:  # noqa: F811
    cfg.model.name = "transreid"
    cfg.model.load_weights = str(transreid(tmp_path, feature="after", camera="zero"))
    result = export(cfg, tmp_path / "m.onnx", identities=3)
    assert result.difference < 1e-4
    card = read_card(tmp_path / "m.onnx")
    assert (card.architecture, card.feature, card.camera, card.options) == ("", "", "none", {})


@needs_onnx
def test_a_file_that_differs_is_not_left_behind(cfg: CfgNode, tmp_path: Path) -> None:  # noqa: F811
    folder = tmp_path / "out"
    cfg.model.name, cfg.model.load_weights = "transreid", str(transreid(tmp_path))
    with pytest.raises(
        ValueError, match="expected features of the ONNX file within -1 of the network's, got .* images"
    ):
        export(cfg, folder / "m.onnx", identities=2, tolerance=-1)
    assert not list(folder.iterdir())


@needs_onnx
@pytest.mark.slow
def test_the_command_says_how_far_both_are_apart(
    reid_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ["model.name", "osnet_x0_25", "model.pretrained", "False", "data.height", "32", "data.width", "16"]
    words = ["-t", "synthreid_tiny", "--root", str(reid_data), "--identities", "2", "use_gpu", "False"]
    main([*words, "--output", str(tmp_path / "m.onnx"), *keys])
    assert "features differ by" in capsys.readouterr().out and (tmp_path / "m.onnx").is_file()


@pytest.mark.parametrize(
    "name, file, words",
    [
        ("osnet_x0_25", "m.pth", r"expected a file \*.onnx, got .*m.pth"),
        ("onnx:m.onnx", "m.onnx", "expected a network to export, got onnx:m.onnx"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    name: str,
    file: str,
    words: str,
    cfg: CfgNode,
    tmp_path: Path,  # noqa: F811
) -> None:
    cfg.model.name = name
    with pytest.raises(ValueError, match=words):
        export(cfg, tmp_path / file)


def test_a_network_that_is_told_cameras_is_refused(cfg: CfgNode, tmp_path: Path) -> None:  # noqa: F811
    cfg.model.name, cfg.model.load_weights = "transreid", str(transreid(tmp_path, camera="image"))
    with pytest.raises(ValueError, match="got camera image; set none or zero in the card"):
        export(cfg, tmp_path / "m.onnx")


def test_a_missing_package_is_named(cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match="exports need the module 'onnx', .*`pip install onnx`"):
        export(cfg, tmp_path / "m.onnx", identities=2)


def test_weights_of_any_origin_are_written_with_their_card(
    cfg: CfgNode,  # noqa: F811
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = sources.build("transreid", 5, options=SMALL)
    state = as_authors_save(network, "module.")
    torch.save({"state_dict": state}, tmp_path / "theirs.pth")
    write_card(tmp_path / "theirs.pth", Card(feature="after", licence="MIT", options=SMALL))
    cfg.model.name, cfg.model.load_weights = "transreid", str(tmp_path / "theirs.pth")
    with caplog.at_level("INFO"):
        path = convert(cfg, tmp_path / "ours.safetensors")
    assert (
        "base.fc.weight" in caplog.text.replace("body.fc", "base.fc") and "classifier.0.weight" in caplog.text
    )
    card = read_card(path)
    assert (card.architecture, card.feature, card.licence) == ("transreid", "after", "MIT")
    assert (card.preprocessing["height"], card.preprocessing["width"]) == (32, 16)
    encoders = [
        build_encoder(cfg, Backbone("x", "transreid", str(file)).with_card())
        for file in (tmp_path / "theirs.pth", path)
    ]
    blank = torch.zeros(2, 32, 16, 3, dtype=torch.uint8)
    assert torch.equal(*(encoder(blank) for encoder in encoders))
    again = read_card(path)
    main(["--output", str(tmp_path / "c.safetensors"), "model.name", "transreid", "--weights", str(path)])
    assert read_card(tmp_path / "c.safetensors") == again


def test_random_weights_are_not_written(cfg: CfgNode, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(
        ValueError, match=r"expected a network with weights, got osnet_x0_25 \(random weights\)"
    ):
        convert(cfg, tmp_path / "w.safetensors")


def inverter(folder: Path) -> Path:
    """Weights of one of 48 x 24 that was trained alone, as its stage of training leaves them."""
    torch.manual_seed(0)
    small = {"code_width": 8, "image_size": (48, 24), "widths": (4, 8), "hidden": (8,)}
    return Inverter(**small).save(folder / "inverter.safetensors")


@needs_onnx
def test_the_identity_inverter_is_exported_as_it_sees_images(cfg: CfgNode, tmp_path: Path) -> None:  # noqa: F811
    cfg.model.name, cfg.model.load_weights = "genid", str(inverter(tmp_path))
    cfg.data.height, cfg.data.width = 48, 24
    result = export(cfg, tmp_path / "m.onnx", identities=3)
    assert result.difference < 1e-4 and result.exported_mAP == pytest.approx(result.mAP, abs=1e-6)
    backbone = Backbone.parse(f"onnx:{tmp_path / 'm.onnx'}").with_card()
    assert backbone.card.preprocessing["height"] == 48
    assert build_encoder(cfg, backbone).network(torch.zeros(3, 3, 48, 24)).shape == (3, 8)


@needs_onnx
def test_a_network_that_asks_a_generator_is_none_that_onnx_holds(
    cfg: CfgNode,  # noqa: F811
    tmp_path: Path,
) -> None:
    cfg.model.name, cfg.model.load_weights = "genid_refined", str(inverter(tmp_path))
    cfg.data.height, cfg.data.width = 48, 24
    small = {"code_width": 8, "image_size": (48, 24), "widths": (4, 8)}
    cfg.genext.inverter.refine.generator = str(IdentityGenerator(3, **small).save(tmp_path / "g.safetensors"))
    cfg.genext.inverter.refine.steps = 1
    with pytest.raises(ValueError, match="expected a network that torch writes as ONNX, got"):
        export(cfg, tmp_path / "m.onnx", identities=2)
    assert not (tmp_path / "m.onnx").exists()
