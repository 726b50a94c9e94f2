"""Weights by which generated pictures are judged: heads of other tasks do not matter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from torchreid_genext import checkpoints, compat, config
from torchreid_genext.cli import judge_generated


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
