"""Skeletons of a data set: scaled to the size of the pictures, black where nobody is known."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchreid_genext.data.poses import draw_skeleton
from torchreid_genext.data.poses.skeletons import draw_skeletons, pictures, scaled


def pose() -> np.ndarray:
    joints = np.random.default_rng(0).integers(0, 32, (18, 2))
    joints[3] = (-1, 5)
    return joints


def test_joints_keep_their_place_in_the_picture() -> None:
    corners = np.array([[0, 0], [31, 15], [-1, 4]])
    doubled = scaled(corners, (32, 16), (64, 32))
    np.testing.assert_allclose(doubled, [[0.5, 0.5], [62.5, 30.5], [-1, -1]])
    np.testing.assert_allclose(scaled(doubled, (64, 32), (32, 16)), [[0, 0], [31, 15], [-1, -1]])


def test_images_without_joints_are_black_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = [str(tmp_path / f"{name}.jpg") for name in "abc"]
    for path in paths:
        Image.new("RGB", (32, 64)).save(path)
    with caplog.at_level(logging.WARNING):
        pictures, shown = draw_skeletons(paths, {"a.jpg": pose(), "c.jpg": np.full((18, 2), -1)}, (32, 16))
    assert shown.tolist() == [True, False, False] and not pictures[1:].any()
    expected = np.array(draw_skeleton(scaled(pose(), (64, 32), (32, 16)), (32, 16)))
    np.testing.assert_array_equal(pictures[0].permute(1, 2, 0).numpy(), expected)
    assert f"2 of 3 images have no joints, such as {paths[1]}" in caplog.text


def test_skeletons_are_drawn_in_the_style_that_is_asked_for(tmp_path: Path) -> None:
    path = str(tmp_path / "a.jpg")
    Image.new("RGB", (32, 64)).save(path)
    pictures, _ = draw_skeletons([path], {"a.jpg": pose()}, (64, 32), style="official")
    expected = np.array(draw_skeleton(pose(), (64, 32), style="official"))
    np.testing.assert_array_equal(pictures[0].permute(1, 2, 0).numpy(), expected)
    assert not np.array_equal(expected, draw_skeleton(pose(), (64, 32)))


def test_joints_of_other_images_are_of_no_use(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="joints of some of 1 images, got none of a.jpg, but of b.jpg"):
        draw_skeletons(["a.jpg"], {"b.jpg": pose()}, (32, 16))


def test_pictures_are_drawn_skeletons_in_order() -> None:
    drawn = pictures({"2": pose(), "1": pose() + 1}, (64, 32), style="official")
    assert drawn.shape == (2, 3, 64, 32)
    expected = np.array(draw_skeleton(pose(), (64, 32), style="official"))
    np.testing.assert_array_equal(drawn[0].permute(1, 2, 0).numpy(), expected)


def test_pose_without_a_limb_is_refused_by_name() -> None:
    alone = np.full((18, 2), -1)
    alone[[4, 7]] = 5  # both wrists
    with pytest.raises(
        ValueError, match="expected a limb, two joints that belong together, in pose b, got none"
    ):
        pictures({"a": pose(), "b": alone}, (64, 32))
    with pytest.raises(ValueError, match="expected at least one pose, got none"):
        pictures({}, (64, 32))
