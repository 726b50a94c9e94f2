"""The command line that finds poses, with a tiny network of torchvision's in place of its large one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from tests.data.poses.test_detecting import tiny_keypoint_rcnn
from torchreid_genext import checkpoints
from torchreid_genext.cli import extract_poses
from torchreid_genext.data.poses import read_market_annotations

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def build(weights: Any, weights_backbone: Any, min_size: int) -> nn.Module:
        return tiny_keypoint_rcnn(box_score_thresh=0.0, box_detections_per_img=2)

    monkeypatch.setattr(torchvision.models.detection, "keypointrcnn_resnet50_fpn", build)
    torch.manual_seed(0)
    return checkpoints.save(tmp_path / "weights.safetensors", tiny_keypoint_rcnn().state_dict())


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.jpg", "sub/b.png")):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


def test_folder_is_announced_written_and_reported(
    weights: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--images", str(images), "--weights", str(weights), "--score", "0", "--device", "cpu"]
    extract_poses.main([*command, "--plan"])
    output = capsys.readouterr().out
    assert "3 of 3 images to do" in output and "GFLOP" in output
    assert not (images / "poses.csv").exists()
    extract_poses.main([*command, "--openpose", str(tmp_path / "json")])
    output = capsys.readouterr().out
    assert f"left out, cannot be read: {images / 'broken.jpg'}" in output
    assert sorted(read_market_annotations(images / "poses.csv")) == ["a.jpg", "b.png"]
    assert len(list((tmp_path / "json").glob("*_keypoints.json"))) == 2
    extract_poses.main(command)
    assert "1 of 3 images to do, 2 are in" in capsys.readouterr().out


def test_poses_of_a_data_set_stand_where_training_looks_for_them(
    weights: Path, reid_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "synthreid_tiny").symlink_to(reid_data / "synthreid_tiny")
    before = (reid_data / "synthreid_tiny" / "poses.csv").read_bytes()
    command = ["-s", "synthreid_tiny", "--root", str(tmp_path), "--weights", str(weights), "--device", "cpu"]
    extract_poses.main([*command, "--split", "query", "--plan"])
    assert "0 of " in capsys.readouterr().out  # SynthReID has its own
    extract_poses.main([*command, "--split", "query", "--plan", "--output", str(tmp_path / "own.csv")])
    queries = len(list((reid_data / "synthreid_tiny" / "query").glob("*.jpg")))
    assert f"{queries} of {queries} images to do" in capsys.readouterr().out
    assert (reid_data / "synthreid_tiny" / "poses.csv").read_bytes() == before


def test_folder_without_images_is_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected images in .*empty, got no such folder"):
        extract_poses.main(["--images", str(tmp_path / "empty"), "--weights", str(weights)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="expected images in .*empty, got none"):
        extract_poses.main(["--images", str(tmp_path / "empty"), "--weights", str(weights)])
