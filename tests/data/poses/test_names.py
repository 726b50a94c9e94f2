"""Joints find their images, by the name or by what files of poses tell of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from torchreid_genext.data.generator_batches.posed_pairs import with_poses
from torchreid_genext.data.images.in_memory import ImageTensor
from torchreid_genext.data.poses.names import check_names, image_name, pose_finder_of
from torchreid_genext.data.poses.reading import read_poses, write_openpose
from torchreid_genext.data.poses.skeletons import draw_skeletons


@pytest.mark.parametrize("path", ["a.jpg", "x/a.jpg", "/x/a.jpg", r"x\a.jpg", r"C:\x\a.jpg", Path("x/a.jpg")])
def test_a_name_has_no_folders_of_any_system(path: str | Path) -> None:
    assert image_name(path) == "a.jpg"


def test_names_of_all_alphabets_are_fine() -> None:
    check_names(["人.jpg", "a b.jpg", "10:30.jpg", "ü.JPG", "😀.png"])
    with pytest.raises(ValueError, match="expected names of images .*, got ''; rename it"):
        check_names([""])


def test_the_own_name_comes_first_and_a_stem_must_be_of_one() -> None:
    find = pose_finder_of({"a.jpg": 1, "a.png": 2, "b.jpg": 3})
    assert [find(path) for path in ("x/a.jpg", "a.png", "a.webp", "b.jpeg", "c.jpg", "b.jpg.png")] == [
        1, 2, None, 3, None, None
    ]  # fmt: skip


def posed(folder: Path, suffix: str) -> tuple[list[str], dict[str, np.ndarray]]:
    """Images and the files of OpenPose about them, which do not tell their extension."""
    pose = np.random.default_rng(0).integers(3, 60, (18, 2)).astype(float)
    write_openpose(folder / "joints", {"0001.jpg": pose})
    Image.new("RGB", (64, 128)).save(folder / f"0001{suffix}")
    return [str(folder / f"0001{suffix}")], read_poses(folder / "joints")


@pytest.mark.parametrize("suffix", [".png", ".jpeg", ".JPG", ".jpg"])
def test_joints_of_files_that_tell_no_extension_find_their_images(tmp_path: Path, suffix: str) -> None:
    paths, poses = posed(tmp_path, suffix)
    assert draw_skeletons(paths, poses, (128, 64))[1].all()
    images = ImageTensor(torch.zeros(1, 3, 8, 4, dtype=torch.uint8), *torch.zeros(2, 1).long(), tuple(paths))
    assert len(with_poses(images, poses)) == 1


def test_joints_that_find_no_image_name_one_of_each(tmp_path: Path) -> None:
    images = ImageTensor(torch.zeros(1, 3, 8, 4, dtype=torch.uint8), *torch.zeros(2, 1).long(), ("x/1.png",))
    with pytest.raises(ValueError, match="expected joints of images such as x/1.png, got those of 2.jpg"):
        with_poses(images, {"2.jpg": np.ones((18, 2))})


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
    drawn, upright = (draw_skeletons([str(path)], {path.name: pose}, (64, 32))[0] for path in
                      (tmp_path / "a.jpg", upright_copy(tmp_path)))  # fmt: skip
    assert torch.equal(drawn, upright)


def upright_copy(folder: Path) -> Path:
    Image.new("RGB", (64, 128)).save(folder / "b.jpg")
    return folder / "b.jpg"
