"""Weights by which generated pictures are judged: heads of other tasks do not matter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from torchreid_genext import checkpoints, compat, config
from torchreid_genext.backbones import sources
from torchreid_genext.benchmark import settings
from torchreid_genext.cli import evaluate_generators, judge_generated, main
from torchreid_genext.extraction import extract
from torchreid_genext.recipes.training import ipg


def features(folder: Path, leave_out: tuple[str, ...], more: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of one picture, by OSNet with a file of its weights."""
    state = compat.build_model("osnet_x0_25", 1).state_dict()
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(leave_out)}
    weights = checkpoints.save(folder / "w.safetensors", kept | more)
    Image.new("RGB", (64, 128)).save(folder / "a.png")
    keys = ["model.name", "osnet_x0_25", "model.load_weights", str(weights), "data.height", "64"]
    read = judge_generated.features(config.load_config(opts=[*keys, "data.width", "32"]))
    found, kept = read([str(folder / "a.png")])
    assert kept.tolist() == [0]
    return found


@pytest.mark.parametrize("head", ["fc", "classifier"])
def test_weights_with_the_head_of_another_task_are_taken(tmp_path: Path, head: str) -> None:
    more = {f"{head}.weight": torch.zeros(1000, 512), f"{head}.bias": torch.zeros(1000)}
    assert features(tmp_path, ("classifier",), more).shape == (1, 512)


def test_weights_without_what_makes_the_features_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="missing .fc.0.weight"):
        features(tmp_path, ("classifier", "fc."), {})


def card(folder: Path, **more: object) -> str:
    """Of OSNet at 64 x 32 with a normalisation of its own; returns its path, which stands for the weights."""
    checkpoints.save(folder / "w.safetensors", compat.build_model("osnet_x0_25", 1).state_dict())
    seen = {"height": 64, "width": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    content = {"architecture": "osnet_x0_25", "weights": "w.safetensors", "preprocessing": seen, **more}
    return str(checkpoints.write_json(folder / "w.json", content))


def test_a_card_stands_for_weights_wherever_a_backbone_is_named(tmp_path: Path) -> None:
    file = card(tmp_path)
    cfg = config.load_config(opts=["model.name", "osnet_x0_25", "model.load_weights", file])
    Image.new("RGB", (64, 128), "red").save(tmp_path / "a.png")
    wanted = settings.build_encoder(cfg, settings.backbones(cfg)[0], exact=True).cpu()
    by_judge, _ = judge_generated.features(cfg)([str(tmp_path / "a.png")])
    assert torch.allclose(by_judge, extract(wanted, [str(tmp_path / "a.png")]).features, atol=1e-5)
    judge = evaluate_generators.encoder_of(f"osnet_x0_25@{file}")
    assert (judge.height, judge.width) == (64, 32) and judge.std.flatten().tolist() == [0.25] * 3
    encoder, width = ipg._encoder(f"osnet_x0_25@{file}")
    assert width == 512 and encoder.image_size == (64, 32) and encoder.spread.flatten().tolist() == [0.25] * 3
    carded = main.with_card(cfg)
    assert carded.model.load_weights == str(tmp_path / "w.safetensors")
    assert (carded.data.height, carded.data.width, carded.data.norm_mean) == (64, 32, [0.5] * 3)


@pytest.mark.parametrize("more", [{"resize": "letterbox"}, {"interpolation": "bicubic"}])
def test_images_that_a_card_wants_otherwise_than_somebody_can_make_are_refused(
    tmp_path: Path, more: dict[str, str]
) -> None:
    file = card(tmp_path, preprocessing=more)
    cfg = config.load_config(opts=["model.name", "osnet_x0_25", "model.load_weights", file])
    (word,) = more.values()
    with pytest.raises(ValueError, match=f"expected bilinear .*got .*{word}"):
        main.with_card(cfg)
    with pytest.raises(ValueError, match=f"height, width, mean and std alone, got .*{word}"):
        ipg._encoder(f"osnet_x0_25@{file}")


@pytest.mark.usefixtures("registered")
def test_a_card_tells_torchreid_which_feature_to_train(tmp_path: Path) -> None:
    small = {"depth": 2, "width": 32, "heads": 2, "jpm": False}
    network = sources.build("transreid", 1, options=small, image_size=(64, 32))
    checkpoints.save(tmp_path / "t.safetensors", network.state_dict())
    content = {"feature": "after", "options": small, "preprocessing": {"height": 64, "width": 32}}
    checkpoints.write_json(tmp_path / "t.json", content)
    weights = str(tmp_path / "t.safetensors")
    cfg = main.with_card(config.load_config(opts=["model.name", "transreid", "model.load_weights", weights]))
    model = main.build_model(cfg, 3)
    assert model.feature == "after" and model.classifier[0].out_features == 3
