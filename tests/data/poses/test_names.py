"""Joints find their images by name, and fit them as they are seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from torchreid_genext.data.generator_batches.posed_pairs import with_poses
from torchreid_genext.data.images.in_memory import ImageTensor
from torchreid_genext.data.poses.drawing import draw_skeleton
from torchreid_genext.data.poses.names import check_names, image_name
from torchreid_genext.data.poses.skeletons import draw_skeletons, scaled


@pytest.mark.parametrize("path", ["a.jpg", "x/a.jpg", "/x/a.jpg", r"x\a.jpg", r"C:\x\a.jpg", Path("x/a.jpg")])
def test_a_name_has_no_folders_of_any_system(path: str | Path) -> None:
    assert image_name(path) == "a.jpg"


def test_names_of_all_alphabets_are_fine() -> None:
    check_names(["人.jpg", "a b.jpg", "10:30.jpg", "ü.JPG", "😀.png"])
    with pytest.raises(ValueError, match="expected names of images .*, got ''; rename it"):
        check_names([""])


def test_joints_are_those_of_the_upright_picture(tmp_path: Path) -> None:
    """Detectors and generators see phone pictures alike: joints of the one fit the pixels of the other."""
    exif, pose = Image.Exif(), np.full((18, 2), -1.0)
    exif[0x0112] = 6
    Image.new("RGB", (128, 64)).save(tmp_path / "a.jpg", exif=exif)  # 128 high and 64 wide for those who look
    pose[:3] = [120, 50], [100, 20], [100, 30]
    images = ImageTensor(
        torch.zeros(1, 3, 64, 32, dtype=torch.uint8), *torch.zeros(2, 1).long(), (str(tmp_path / "a.jpg"),)
    )
    keypoints = with_poses(images, {"a.jpg": pose}).keypoints[0]
    assert keypoints[0].tolist() == [59.75, 24.75]
    drawn = draw_skeletons(images.paths, {"a.jpg": pose}, (64, 32))[0][0].permute(1, 2, 0).numpy()
    expected = draw_skeleton(scaled(pose, (128, 64), (64, 32)), (64, 32), style="bold")
    np.testing.assert_array_equal(drawn, np.array(expected))
