"""The command line that finds poses, with a tiny network of torchvision's in place of its large one."""

from __future__ import annotations

import shutil
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
from torchreid_genext.cli import command, extract_poses
from torchreid_genext.data.poses import read_market_annotations, write_market_annotations

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
    words = ["--images", str(images), "--weights", str(weights), "--score", "0", "--device", "cpu"]
    extract_poses.main([*words, "--plan"])
    output = capsys.readouterr().out
    assert "3 of 3 images to do" in output and "GFLOP" in output
    assert not (images / "poses.csv").exists()
    extract_poses.main([*words, "--openpose", str(tmp_path / "json")])
    output = capsys.readouterr().out
    assert f"left out, cannot be read: {images / 'broken.jpg'}" in output
    assert sorted(read_market_annotations(images / "poses.csv")) == ["a.jpg", "b.png"]
    assert len(list((tmp_path / "json").glob("*_keypoints.json"))) == 2
    extract_poses.main(words)
    assert "1 of 3 images to do, 2 are in" in capsys.readouterr().out


def test_poses_of_a_data_set_stand_where_training_looks_for_them(
    weights: Path, reid_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "synthreid_tiny").symlink_to(reid_data / "synthreid_tiny")
    before = (reid_data / "synthreid_tiny" / "poses.csv").read_bytes()
    words = ["-s", "synthreid_tiny", "--root", str(tmp_path), "--weights", str(weights), "--device", "cpu"]
    extract_poses.main([*words, "--split", "query", "--plan"])
    assert "0 of " in capsys.readouterr().out  # SynthReID has its own
    extract_poses.main([*words, "--split", "query", "--plan", "--output", str(tmp_path / "own.csv")])
    queries = len(list((reid_data / "synthreid_tiny" / "query").glob("*.jpg")))
    assert f"{queries} of {queries} images to do" in capsys.readouterr().out
    assert (reid_data / "synthreid_tiny" / "poses.csv").read_bytes() == before


@pytest.fixture
def people(tmp_path: Path) -> str:
    """A folder as users have it, in which names begin anew for each person, seen by two cameras."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 4), ("query", 1), ("gallery", 2)):
        for person in "ab":
            for number in range(count):
                file = tmp_path / "mine" / split / person / f"c{number % 2}.{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(generator.integers(0, 256, (64, 32, 3), np.uint8)).save(file)
    return rf"folder:{tmp_path}/mine?pattern=(?P<pid>\w)/c(?P<camid>\d)"


def test_a_folder_has_poses_and_trains_generators(people: str, weights: Path, tmp_path: Path) -> None:
    command(["extract-poses", "-s", people, "--weights", str(weights), "--score", "0", "--device", "cpu"])
    names = list(read_market_annotations(tmp_path / "mine" / "poses.csv"))
    assert len(names) == 14 and {"train/a/c0.0.png", "query/a/c0.0.png", "query/b/c0.0.png"} <= {*names}
    # The tiny network is not trained: let it have found somebody.
    whole = np.stack(np.meshgrid(np.linspace(8, 50, 3), np.linspace(8, 24, 6), indexing="ij"), -1).reshape(18, 2)
    write_market_annotations(tmp_path / "mine" / "poses.csv", dict.fromkeys(names, whole))
    small = ["genext.training.image_size", "[32,16]", "genext.training.steps", "1", "use_gpu", "False",
             "genext.training.mixed_precision", "no", "genext.training.batch_size", "2"]  # fmt: skip
    pg2 = ["genext.pg2.channels", "4", "genext.pg2.discriminator_channels", "4"]
    camstyle = [f"genext.camstyle.{key}" for key in ("channels", "blocks", "discriminator_channels", "layers")]
    for name, keys in (("pg2", pg2), ("camstyle", [word for key in camstyle for word in (key, "1")])):
        command(["train-gan", "-s", people, "--generator", name, "--output", str(tmp_path), *small, *keys])
        assert (tmp_path / name / f"{name}.safetensors").is_file()


def test_a_folder_without_training_images_says_so(people: str, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "mine" / "train")
    with pytest.raises(ValueError, match="expected images in the split train of folder:.*, got none; add a folder train"):
        command(["train-gan", "-s", people, "--generator", "camstyle", "--output", str(tmp_path / "out")])


def test_published_weights_are_the_default_and_told_where_they_cannot_be_had(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(url: str, file: str, hash_prefix: str) -> None:
        raise OSError(f"no way to {url} for {hash_prefix}")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    with pytest.raises(OSError, match="in .*hub.*fc266e95.pth, got no way to https.* for fc266e95; fetch https"):
        extract_poses.main(["--images", str(images), "--device", "cpu"])


def test_folder_without_images_is_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected images in .*empty, got no such folder"):
        extract_poses.main(["--images", str(tmp_path / "empty"), "--weights", str(weights)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="expected images in .*empty, got none"):
        extract_poses.main(["--images", str(tmp_path / "empty"), "--weights", str(weights)])
