"""Annotation files, heat-maps and skeleton pictures of 18 OpenPose joints."""

from __future__ import annotations

import io
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import shared_data
from torchreid_genext.data.poses import (
    COLOURS,
    JOINTS,
    LIMBS,
    STYLES,
    draw_skeleton,
    heatmaps,
    read_market_annotations,
    read_visibility,
    write_market_annotations,
)

EIGHTEEN = list(range(18))


def some_pose(seed: int = 0, missing: tuple[int, ...] = ()) -> np.ndarray:
    pose = np.random.default_rng(seed).integers(0, [128, 64], (18, 2))
    pose[list(missing)] = -1
    return pose


def naive_heatmap(joint: np.ndarray, height: int, width: int, sigma: float) -> np.ndarray:
    """The formula word for word, one pixel after another."""
    hill = np.zeros((height, width))
    for r in range(height):
        for c in range(width):
            if -1 not in joint:
                hill[r, c] = math.exp(-((r - joint[0]) ** 2 + (c - joint[1]) ** 2) / (2 * sigma**2))
    return hill


def file_of(tmp_path: Path, *lines: str, header: str = "name:keypoints_y:keypoints_x") -> Path:
    path = tmp_path / "poses.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_annotations_are_read_back_as_written(tmp_path: Path) -> None:
    poses = {f"{i:04d}_c1s1_000001_00.jpg": some_pose(i, missing=(0, i)) for i in range(5)}
    write_market_annotations(tmp_path / "poses.csv", poses)
    found = read_market_annotations(tmp_path / "poses.csv")
    assert list(found) == list(poses)
    assert all(np.array_equal(found[name], poses[name]) for name in poses)


def test_written_line_looks_like_the_market_file(tmp_path: Path) -> None:
    write_market_annotations(tmp_path / "poses.csv", {"a.jpg": np.stack([EIGHTEEN, [-1] * 18], 1)})
    ones = ", ".join(["-1"] * 18)
    expected = f"name:keypoints_y:keypoints_x\na.jpg: [{', '.join(map(str, EIGHTEEN))}]: [{ones}]\n"
    assert (tmp_path / "poses.csv").read_text() == expected


def test_visibility_is_the_fourth_field_or_what_is_annotated(tmp_path: Path) -> None:
    pose, seen = some_pose(), np.arange(18) % 3 == 0
    write_market_annotations(tmp_path / "full.csv", {"a.jpg": pose}, {"a.jpg": seen})
    assert np.array_equal(read_visibility(tmp_path / "full.csv")["a.jpg"], seen)
    assert np.array_equal(read_market_annotations(tmp_path / "full.csv")["a.jpg"], pose)
    write_market_annotations(tmp_path / "plain.csv", {"a.jpg": some_pose(missing=(2, 9))})
    assert np.flatnonzero(~read_visibility(tmp_path / "plain.csv")["a.jpg"]).tolist() == [2, 9]


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "poses.csv"
    write_market_annotations(path, {"a.jpg": some_pose()})
    before = path.read_text()
    with pytest.raises(ValueError, match=r"shape \(18, 2\) of a.jpg, got \(17, 2\)"):
        write_market_annotations(path, {"a.jpg": some_pose()[:17]})
    assert path.read_text() == before and os.listdir(tmp_path) == ["poses.csv"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (f"a.jpg: {EIGHTEEN}", "expected 3 fields in .*line 3, got 2"),
        (f"a.jpg: {EIGHTEEN}: {EIGHTEEN}: {EIGHTEEN}", "expected 3 fields in .*line 3, got 4"),
        (f"a.jpg: {EIGHTEEN}: {EIGHTEEN[:17]}", "list of 18 finite numbers in .*line 3"),
        (f"a.jpg: {EIGHTEEN}: [1, 2", "list of 18 finite numbers in .*line 3, got '\\[1, 2'"),
        (f"a.jpg: {EIGHTEEN}: {[10**400] * 18}", "list of 18 finite numbers in .*line 3"),
        (f"a.jpg: {EIGHTEEN}: {[2**63] * 18}", "list of 18 finite numbers in .*line 3"),
        (f"a.jpg: {EIGHTEEN}: [{', '.join(['NaN'] * 18)}]", "list of 18 finite numbers in .*line 3"),
        (f"good.jpg: {EIGHTEEN}: {[9] * 18}", "expected each image once, got other .* of good.jpg .*line 3"),
        (f"gallery/good.jpg: {EIGHTEEN}: {[9] * 18}", "expected each image once, got other .* of good.jpg"),
        (f"a.jpg: {EIGHTEEN}: {[True] * 18}".lower(), "list of 18 finite numbers in .*line 3"),
        (f"a.jpg: {EIGHTEEN}: __import__('os').getcwd()", "expected 3|list of 18 finite numbers in .*line 3"),
        ("nothing of the kind", "expected 3 fields in .*line 3, got 1"),
    ],
)
def test_malformed_line_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = file_of(tmp_path, f"good.jpg: {EIGHTEEN}: {EIGHTEEN}", line)
    with pytest.raises(ValueError, match=complaint):
        read_market_annotations(path)


@pytest.mark.parametrize("header", ["", "name,y,x", f"a.jpg: {EIGHTEEN}: {EIGHTEEN}"])
def test_file_without_the_header_is_refused(tmp_path: Path, header: str) -> None:
    with pytest.raises(ValueError, match="expected the header 'name:keypoints_y:keypoints_x'"):
        read_market_annotations(file_of(tmp_path, header=header))


def test_blank_lines_are_skipped(tmp_path: Path) -> None:
    path = file_of(tmp_path, "", f"a.jpg: {EIGHTEEN}: {EIGHTEEN}", "", "")
    assert list(read_market_annotations(path)) == ["a.jpg"]


def test_real_market_annotations_are_read() -> None:
    if shared_data() is None:
        pytest.skip("needs the Market-1501 annotations of $GENEXT_DATA")
    poses = read_market_annotations(shared_data() / "market_poses" / "market-annotation-train.csv")
    assert len(poses) == 12_936
    assert poses["0224_c6s1_055726_02.jpg"][0].tolist() == [8, 39]


def test_heatmaps_equal_the_formula() -> None:
    pose = some_pose(3, missing=(4, 11))
    maps = heatmaps(pose, (32, 16), sigma=3.0).numpy()
    for joint, found in zip(pose, maps, strict=True):
        np.testing.assert_allclose(found, naive_heatmap(joint, 32, 16, 3.0), atol=1e-6)


def test_heatmap_is_one_at_the_joint_and_zero_without_one() -> None:
    pose = some_pose(missing=(5,))
    maps = heatmaps(torch.as_tensor(pose), (128, 64))
    assert maps.shape == (18, 128, 64) and maps.dtype == torch.float32
    assert maps[5].count_nonzero() == 0
    assert all(maps[i, y, x] == 1 for i, (y, x) in enumerate(pose) if i != 5)
    assert maps.min() >= 0 and maps.max() <= 1


def test_joint_with_one_coordinate_missing_is_missing() -> None:
    pose = some_pose()
    pose[7, 1] = -1
    assert heatmaps(pose, (128, 64))[7].count_nonzero() == 0


def test_heatmaps_of_a_batch_equal_those_of_its_members() -> None:
    batch = np.stack([some_pose(i, missing=(i,)) for i in range(3)])
    together = heatmaps(batch, (64, 32))
    assert torch.equal(together, torch.stack([heatmaps(pose, (64, 32)) for pose in batch]))


@pytest.mark.parametrize(("shape", "sigma"), [((18, 3), 6.0), ((18,), 6.0), ((18, 2), 0.0), ((18, 2), -1.0)])
def test_heatmaps_refuse_wrong_shapes_and_widths(shape: tuple[int, ...], sigma: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        heatmaps(np.ones(shape), (8, 8), sigma=sigma)


def test_skeleton_shows_each_present_joint_in_its_colour() -> None:
    pose = np.stack([7 * np.arange(18) + 3, np.full(18, 30)], 1)
    pixels = np.asarray(draw_skeleton(pose, (128, 64), thickness=3))
    assert pixels.shape == (128, 64, 3)
    for (y, x), colour in zip(pose, COLOURS, strict=True):
        assert tuple(pixels[y, x]) == colour


def test_skeleton_leaves_out_limbs_with_a_missing_end() -> None:
    pose = np.full((18, 2), -1)
    assert np.asarray(draw_skeleton(pose, (128, 64))).sum() == 0
    pose[2], pose[3] = (40, 10), (60, 10)
    whole = np.asarray(draw_skeleton(pose, (128, 64)))
    assert whole[50, 10].any()
    pose[3] = -1
    assert not np.asarray(draw_skeleton(pose, (128, 64)))[50, 10].any()


def test_limbs_connect_known_joints_and_touch_all() -> None:
    assert {joint for limb in LIMBS for joint in limb} == set(range(len(JOINTS)))


def test_skeleton_refuses_another_number_of_joints() -> None:
    with pytest.raises(ValueError, match=r"shape \(18, 2\), got \(17, 2\)"):
        draw_skeleton(np.zeros((17, 2)), (128, 64))


def official_poses() -> dict[str, np.ndarray]:
    """Joints found in the official standard poses by search, to a quarter of a pixel."""
    content = json.loads((Path(__file__).parent / "official_standard_poses.json").read_text())
    return {name: np.array(pose) for name, pose in content.items()}


def drawn_by_opencv(pose: np.ndarray, size: tuple[int, int], limb: int, joint: int) -> np.ndarray:
    """The usual drawing by OpenCV's own ellipses and discs."""
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV, which draws what ours is compared with")
    canvas, present = np.zeros((*size, 3), np.uint8), (pose != -1).all(axis=1)
    for (start, end), colour in zip(LIMBS, COLOURS):
        if present[start] and present[end]:
            (y0, x0), (y1, x1) = pose[start], pose[end]
            middle, length = (int((x0 + x1) / 2), int((y0 + y1) / 2)), int(math.hypot(y0 - y1, x0 - x1) / 2)
            angle = int(math.degrees(math.atan2(y0 - y1, x0 - x1)))
            cv2.fillConvexPoly(canvas, cv2.ellipse2Poly(middle, (length, limb), angle, 0, 360, 1), colour)
    canvas = (0.6 * canvas).astype(np.uint8)
    for (y, x), colour in zip(pose[present], np.array(COLOURS)[present].tolist()):
        cv2.circle(canvas, (int(x), int(y)), joint, colour, thickness=-1)
    return canvas


def as_published(image: Image.Image) -> np.ndarray:
    """Through a JPEG file with red and blue swapped, as the official pictures have been."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(image)[..., ::-1].copy()).save(file, "JPEG", quality=95, subsampling=2)
    return np.asarray(Image.open(file), np.float32)[..., ::-1]


@pytest.mark.parametrize("name", official_poses())
def test_official_style_is_that_of_the_official_pictures(name: str) -> None:
    """Mean difference in grey levels; what is left are joints that the search missed by a pixel."""
    if shared_data() is None or not (shared_data() / "pose2id" / "standard_poses").is_dir():
        pytest.skip("needs the official standard poses in pose2id/standard_poses of $GENEXT_DATA")
    with Image.open(shared_data() / "pose2id" / "standard_poses" / f"{name}.jpg") as image:
        official = np.asarray(image.convert("RGB"), np.float32)[..., ::-1]
    pose = official_poses()[name]
    far = {
        style: np.abs(as_published(draw_skeleton(pose, (128, 64), style=style)) - official).mean()
        for style in STYLES
    }
    assert far["official"] < 0.85 and far["bold"] > 5
    thicker = as_published(draw_skeleton(pose, (128, 64), thickness=4, style="official"))
    assert np.abs(thicker - official).mean() > 5


@pytest.mark.parametrize("name", official_poses())
def test_official_style_has_the_pixels_of_opencv(name: str) -> None:
    pose = official_poses()[name]
    found = np.asarray(draw_skeleton(pose, (128, 64), style="official"))
    np.testing.assert_array_equal(found, drawn_by_opencv(pose, (128, 64), limb=1, joint=2))


def test_official_style_grows_with_the_picture() -> None:
    pose = np.where((pose := official_poses()["2"]) == -1, -1, np.rint(4 * pose))
    found = np.asarray(draw_skeleton(pose, (512, 256), style="official"))
    expected = drawn_by_opencv(pose, (512, 256), limb=4, joint=8)
    different = (found != expected).any(axis=2).sum()  # single pixels along the edges of limbs
    assert different < 0.05 * expected.any(axis=2).sum()


def test_unknown_style_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="unknown style 'thin'; choose from bold, official"):
        draw_skeleton(some_pose(), (128, 64), style="thin")
