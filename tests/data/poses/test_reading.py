"""Poses in the files of OpenPose, DWPose, COCO and Market-1501: read, written, and refused by name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchreid_genext.data.poses import JOINTS
from torchreid_genext.data.poses.joints import COCO_JOINTS
from torchreid_genext.data.poses.reading import (
    read_poses,
    write_coco,
    write_market_annotations,
    write_openpose,
)

BODY_25 = (*JOINTS[:8], "middle_hip", *JOINTS[8:], *(f"{foot}_{n}" for foot in "lr" for n in range(3)))


def some_pose(seed: int = 0, missing: tuple[int, ...] = ()) -> np.ndarray:
    pose = np.random.default_rng(seed).integers(3, [128, 64], (18, 2)).astype(float)
    pose[list(missing)] = -1
    return pose


def with_middle_neck(pose: np.ndarray) -> np.ndarray:
    """What COCO, which has no neck, makes of a pose."""
    pose = pose.copy()
    pose[1] = (pose[2] + pose[5]) / 2 if (pose[[2, 5]] != -1).all() else -1
    return pose


def flat(pose: np.ndarray, confidence: float = 1.0) -> list[float]:
    return [v for y, x in pose.tolist() for v in ((x, y, confidence) if y != -1 else (0, 0, 0))]


def frame(*people: Any, **more: Any) -> dict[str, Any]:
    return {"people": [{"pose_keypoints_2d": numbers} for numbers in people], **more}


def file_of(folder: Path, content: Any, name: str = "a_keypoints.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-9, err_msg=name)


POSES = {
    "0001_c1s1_000001_00.jpg": some_pose(1, (0, 3)),
    "b.png": some_pose(2),
    "nobody.jpg": -np.ones((18, 2)),
}


def test_openpose_files_are_read_back_as_written(tmp_path: Path) -> None:
    write_openpose(tmp_path, POSES)
    assert sorted(os.listdir(tmp_path)) == [
        "0001_c1s1_000001_00_keypoints.json", "b.png_keypoints.json", "nobody_keypoints.json"
    ]  # fmt: skip
    assert_same(read_poses(tmp_path), POSES)


@pytest.mark.parametrize("shares", [False, True])
def test_files_with_a_canvas_are_read_back_as_written(tmp_path: Path, shares: bool) -> None:
    write_openpose(tmp_path, POSES, size=(128, 64), shares=shares)
    assert json.loads((tmp_path / "b.png_keypoints.json").read_text())["canvas_height"] == 128
    assert_same(read_poses(tmp_path), POSES)


def test_shares_are_shares_of_the_canvas(tmp_path: Path) -> None:
    write_openpose(tmp_path, {"a.jpg": some_pose()}, size=(128, 64), shares=True)
    person = json.loads((tmp_path / "a_keypoints.json").read_text())["people"][0]["pose_keypoints_2d"]
    assert person[:3] == [some_pose()[0, 1] / 64, some_pose()[0, 0] / 128, 1]


def test_coco_results_are_read_back_as_written(tmp_path: Path) -> None:
    write_coco(tmp_path / "results.json", POSES)
    assert_same(
        read_poses(tmp_path / "results.json"), {name: with_middle_neck(pose) for name, pose in POSES.items()}
    )


def test_market_annotations_are_recognised(tmp_path: Path) -> None:
    write_market_annotations(tmp_path / "poses.csv", POSES)
    assert_same(read_poses(tmp_path / "poses.csv"), POSES)


def test_body_25_is_read_by_the_names_of_its_joints(tmp_path: Path) -> None:
    places = {name: (float(2 * n + 5), float(n + 3)) for n, name in enumerate(BODY_25)}
    assert BODY_25[8:13] == ("middle_hip", "right_hip", "right_knee", "right_ankle", "left_hip")
    numbers = [v for x, y in places.values() for v in (x, y, 0.9)]
    found = read_poses(file_of(tmp_path, frame(numbers)))["a.jpg"]
    assert [tuple(joint) for joint in found] == [places[name][::-1] for name in JOINTS]


def test_most_confident_person_counts_and_among_equals_the_largest(tmp_path: Path) -> None:
    small, large = some_pose(0), some_pose(0) * 2
    sure = file_of(tmp_path, frame(flat(large, 0.5), flat(small, 0.6)))
    assert_same(read_poses(sure), {"a.jpg": small})
    equal = file_of(tmp_path, frame(flat(small), flat(large)))
    assert_same(read_poses(equal), {"a.jpg": large})
    partial = some_pose(3, tuple(range(10)))
    assert_same(read_poses(file_of(tmp_path, frame(flat(partial, 0.9), flat(small, 0.6)))), {"a.jpg": small})


def test_joints_of_little_confidence_can_be_left_out(tmp_path: Path) -> None:
    numbers = flat(some_pose(), 0.9)
    numbers[2] = 0.2
    path = file_of(tmp_path, frame(numbers))
    assert_same(read_poses(path), {"a.jpg": some_pose()})
    assert_same(read_poses(path, confidence=0.2), {"a.jpg": some_pose(0, (0,))})


@pytest.mark.parametrize("people", [[], [{"pose_keypoints_2d": []}], [{"pose_keypoints_2d": None}]])
def test_image_without_anybody_has_a_pose_without_joints(tmp_path: Path, people: list[Any]) -> None:
    assert_same(read_poses(file_of(tmp_path, {"people": people})), {"a.jpg": -np.ones((18, 2))})


def test_frame_in_a_list_and_the_key_of_old_files_are_read(tmp_path: Path) -> None:
    old = {"people": [{"pose_keypoints": flat(some_pose())}]}
    assert_same(read_poses(file_of(tmp_path, [old], "b.json")), {"b.jpg": some_pose()})


def test_joints_are_scaled_from_the_canvas_to_the_size_of_the_images(tmp_path: Path) -> None:
    write_openpose(tmp_path, {"a.jpg": some_pose(0, (4,))}, size=(128, 64))
    found = read_poses(tmp_path, size=(256, 128))["a.jpg"]
    expected = np.where(some_pose(0, (4,)) == -1, -1, 2 * some_pose() + 0.5)  # pixels are areas
    np.testing.assert_allclose(found, expected)
    assert_same(read_poses(tmp_path, size=(128, 64)), {"a.jpg": some_pose(0, (4,))})


def test_other_extensions_of_images_can_be_told(tmp_path: Path) -> None:
    write_openpose(tmp_path, {"a.jpg": some_pose(), "b.webp": some_pose()})
    assert list(read_poses(tmp_path, extension=".png")) == ["a.png", "b.webp"]


def coco_numbers(pose: np.ndarray) -> list[float]:
    return [v for name in COCO_JOINTS for v in (*pose[JOINTS.index(name)][::-1], 2)]


def test_coco_annotations_are_read_with_names_sizes_and_scores(tmp_path: Path) -> None:
    first, second = with_middle_neck(some_pose(1)), with_middle_neck(some_pose(2))
    people = [
        {"image_id": 7, "keypoints": coco_numbers(first), "score": 0.4},
        {"image_id": 7, "keypoints": coco_numbers(second), "score": 0.8},
        {"image_id": 9, "category_id": 3},
    ]
    images = [
        {"id": 7, "file_name": "train/a.png", "height": 128, "width": 64},
        {"id": 9, "file_name": "b.jpg"},
    ]
    path = file_of(tmp_path, {"images": images, "annotations": people}, "coco.json")
    assert_same(read_poses(path), {"a.png": second, "b.jpg": -np.ones((18, 2))})
    np.testing.assert_allclose(read_poses(path, size=(64, 32))["a.png"], second / 2 - 0.25)


PERSON = {"image_id": "a.jpg", "keypoints": [1.0] * 51}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "expected JSON in .*a_keypoints.json"),
        ("[" * 100_000, "expected JSON in .*a_keypoints.json"),
        (3, "people .* or annotations .* in .*a_keypoints.json, got int"),
        ({"persons": []}, r"people .* or annotations .* in .*a_keypoints.json, got \['persons'\]"),
        ({"people": 3}, "expected a list of people in .*a_keypoints.json, got int"),
        ({"people": [{}]}, "expected pose_keypoints_2d in .*a_keypoints.json, person 1, got none"),
        ({"people": ["x"]}, "expected pose_keypoints_2d in .*a_keypoints.json, person 1, got none"),
        (frame(flat(some_pose()), [1.0] * 51), "54 or 75 finite numbers .*json, person 2, got 51 values"),
        (frame(["1"] * 54), "54 or 75 finite numbers .* person 1, got 54 values"),
        (frame([True] * 54), "54 or 75 finite numbers .* person 1"),
        (frame([float("nan")] * 54), "54 or 75 finite numbers .* person 1"),
        (frame([10**400] * 54), "54 or 75 finite numbers .* person 1"),
        (frame("abc"), "54 or 75 finite numbers .* person 1, got str"),
        (frame([0.5] * 54), "expected pixels, or canvas_height and canvas_width, in .*json, got only shares"),
        (frame(canvas_height=0, canvas_width=64), r"canvas_height and canvas_width > 0 in .*, got \(0, 64\)"),
        ([frame(), frame()], "expected one image a file of OpenPose, got 2 in .*a_keypoints.json"),
        ([3], "expected keypoints in .*json, person 1, got int"),
        ([{"image_id": "a.jpg", "bbox": []}], "expected 51 finite numbers .* person 1, got NoneType"),
        ([PERSON | {"image_id": 7}], "expected a file name as image_id in .*json, person 1, got 7"),
        ([PERSON, PERSON | {"keypoints": [1] * 54}], "expected 51 finite numbers .*person 2, got 54 values"),
        ([PERSON | {"score": "high"}], "expected a number as score in .*person 1, got 'high'"),
        ({"annotations": []}, "expected lists of images and annotations in .*json"),
        ({"images": [{"id": 1}], "annotations": []}, "expected id and file_name of each image in .*json"),
        ({"images": [], "annotations": [PERSON]}, "the id of an image as image_id in .*1, got 'a.jpg'"),
        (
            {"images": [{"id": n, "file_name": f"{n}/a.jpg"} for n in (1, 2)], "annotations": []},
            "expected images of different names in .*json, got 1 of 2",
        ),
    ],
)  # fmt: skip
def test_malformed_files_are_named(tmp_path: Path, content: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_poses(file_of(tmp_path, content))


def test_image_in_two_files_is_named(tmp_path: Path) -> None:
    for name in ("a.json", "a_keypoints.json"):
        file_of(tmp_path, frame(), name)
    with pytest.raises(ValueError, match="expected each image once, got a.jpg again in .*a_keypoints.json"):
        read_poses(tmp_path)


def test_what_holds_no_poses_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a file or folder of poses, got .*nowhere"):
        read_poses(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="expected poses in .csv, .json or a folder of .json, got"):
        read_poses(tmp_path)
    (tmp_path / "poses.txt").touch()
    with pytest.raises(
        ValueError, match="expected poses in .csv, .json or a folder of .json, got .*poses.txt"
    ):
        read_poses(tmp_path / "poses.txt")


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for write in (write_openpose, write_coco):
        with pytest.raises(ValueError, match=r"pose of shape \(18, 2\) of a.jpg, got \(17, 2\)"):
            write(tmp_path / "out.json", {"a.jpg": np.zeros((17, 2))})
    with pytest.raises(
        ValueError, match="expected the size of the images for places as shares of it, got None"
    ):
        write_openpose(tmp_path, POSES, shares=True)
    assert os.listdir(tmp_path) == []
