"""Poses in the files of OpenPose, DWPose, COCO and Market-1501: read, written, and refused by name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchreid_genext.data.poses import JOINTS
from torchreid_genext.data.poses.joints import COCO_JOINTS, to_coco
from torchreid_genext.data.poses.market_csv import read_market_annotations
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
        ([PERSON | {"score": "high"}], "expected a finite number as score in .*person 1, got 'high'"),
        ([PERSON | {"score": float("nan")}], "expected a finite number as score in .*person 1, got nan"),
        ([PERSON | {"score": 10**400}], "expected a finite number as score in .*person 1"),
        ([PERSON | {"category_id": 3}], "expected people, of category_id 1, in .*json, got only 3"),
        ([PERSON | {"keypoints": [0.5] * 51}], "expected pixels, or height and width .*person 1, got only"),
        (
            [PERSON | {"keypoints": [0.5] * 48 + [9.0] * 3}],
            r"expected pixels, or shares of the image, in .*json, got most in 0..1, and \[9.0, 9.0\]",
        ),
        (
            frame([0.5] * 51 + [625.0, 9.0, 1.0], canvas_height=64, canvas_width=64),
            r"expected pixels, or shares of the image, in .*json, got most in 0..1, and \[625.0, 9.0\]",
        ),
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
    for name in ("a.gif", "a"):
        with pytest.raises(ValueError, match=f"expected names of images with .jpg, .*, got '{name}'"):
            write_openpose(tmp_path, {"b.jpg": some_pose(), name: some_pose()})
    assert os.listdir(tmp_path) == []


WRITERS = {"poses.csv": write_market_annotations, "poses.json": write_coco, "poses": write_openpose}
NAMES = ("10:30:00 a.JPG", "a:b:c.jpg", " a b .jpg", "人.png", "a_keypoints.jpg", "x.png.jpg", "c.jpg.webp")


@pytest.mark.parametrize("file", WRITERS)
def test_names_that_are_written_are_read_back(tmp_path: Path, file: str) -> None:
    poses = {name: some_pose(row) for row, name in enumerate(NAMES)}
    WRITERS[file](tmp_path / file, poses)
    assert sorted(read_poses(tmp_path / file)) == sorted(NAMES)


@pytest.mark.parametrize("file", WRITERS)
@pytest.mark.parametrize(
    "name", ["a\nb.jpg", "a\rb.jpg", "/b.jpg", r"a\b.jpg", os.fsdecode("人.jpg".encode("gbk"))]
)
def test_names_that_could_not_be_read_back_are_refused(tmp_path: Path, file: str, name: str) -> None:
    with pytest.raises(ValueError, match="expected names of images .*; rename it"):
        WRITERS[file](tmp_path / file, {"good.jpg": some_pose(), name: some_pose()})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("file", WRITERS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**63])
def test_joints_that_are_nowhere_are_refused(tmp_path: Path, file: str, value: float) -> None:
    pose = some_pose()
    pose[4, 1] = value
    with pytest.raises(ValueError, match="expected joints of a.jpg in pixels, -1 where missing, got NaN or"):
        WRITERS[file](tmp_path / file, {"a.jpg": pose})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("folder", ["query/", "query\\", "C:\\x\\", "/a/b/"])
def test_folders_before_names_do_not_matter(tmp_path: Path, folder: str) -> None:
    images = {"images": [{"id": 1, "file_name": folder + "a.jpg"}], "annotations": []}
    assert [*read_poses(file_of(tmp_path, images, "annotations.json"))] == ["a.jpg"]
    results = [PERSON | {"image_id": folder + "a.jpg", "keypoints": [5.0] * 51}]
    assert [*read_poses(file_of(tmp_path, results, "results.json"))] == ["a.jpg"]
    lines = f"name:keypoints_y:keypoints_x\n{folder}a.jpg: {[*range(18)]}: {[*range(18)]}\n"
    assert [*read_poses(file_of(tmp_path, lines, "poses.csv"))] == ["a.jpg"]


def test_sum_of_confidences_decides_where_no_score_is_told(tmp_path: Path) -> None:
    sure, unsure = some_pose(1) / 2, some_pose(2) * 2
    people = [
        {"image_id": "a.jpg", "keypoints": (to_coco(unsure) * [1, 1, 0.2]).ravel().tolist()},
        {"image_id": "a.jpg", "keypoints": (to_coco(sure) * [1, 1, 0.4]).ravel().tolist()},
    ]
    assert_same(read_poses(file_of(tmp_path, people)), {"a.jpg": with_middle_neck(sure)})


@pytest.mark.parametrize("other", [{"iscrowd": 1}, {"category_id": 3}])
@pytest.mark.parametrize("told", [False, True])
def test_crowds_and_animals_are_passed_over(tmp_path: Path, other: dict[str, int], told: bool) -> None:
    person = {"image_id": 1, "category_id": 1, "keypoints": (to_coco(some_pose(1)) / 2).ravel().tolist()}
    crowd = {"image_id": 1, "category_id": 1, "keypoints": coco_numbers(some_pose(2))} | other
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [crowd, person]}
    categories = {"categories": [{"id": 3, "name": "dog"}, {"id": 1, "name": "person"}]} if told else {}
    found = read_poses(file_of(tmp_path, content | categories, "coco.json"))
    assert_same(found, {"a.jpg": with_middle_neck(some_pose(1) / 2)})


def test_people_of_files_with_categories_of_their_own_are_found_by_name_or_alone(tmp_path: Path) -> None:
    person = {"image_id": 1, "category_id": 0, "keypoints": coco_numbers(some_pose(2))}
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [person]}
    alone, named = {"id": 0, "name": "pedestrian"}, {"id": 0, "name": "person"}
    for categories in ([alone], [{"id": 1, "name": "bag"}, named]):
        found = read_poses(file_of(tmp_path, content | {"categories": categories}, "coco.json"))
        assert_same(found, {"a.jpg": with_middle_neck(some_pose(2))})


def test_shares_of_images_whose_size_is_told_become_pixels(tmp_path: Path) -> None:
    shares = to_coco(some_pose(2)) / [64, 128, 1]
    images = [{"id": 1, "file_name": "a.jpg", "height": 128, "width": 64}]
    people = [{"image_id": 1, "keypoints": shares.ravel().tolist()}]
    path = file_of(tmp_path, {"images": images, "annotations": people}, "coco.json")
    assert_same(read_poses(path), {"a.jpg": with_middle_neck(some_pose(2))})


def test_one_joint_beside_the_corner_makes_no_shares_of_a_file(tmp_path: Path) -> None:
    people = [
        PERSON | {"keypoints": [1.0, 1.0, 1.0] + [0.0] * 48},
        PERSON | {"image_id": "b.jpg", "keypoints": coco_numbers(some_pose(2))},
    ]
    assert (read_poses(file_of(tmp_path, people))["a.jpg"][0] == 1).all()


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_that_office_programs_saved_are_read(tmp_path: Path, mark: str, end: str) -> None:
    numbers = [*range(18)]
    content = mark + end.join(["name:keypoints_y:keypoints_x", f"ä.jpg: {numbers}: {numbers}", ""])
    (tmp_path / "poses.csv").write_bytes(content.encode())
    assert_same(read_poses(tmp_path / "poses.csv"), {"ä.jpg": np.stack([numbers, numbers], 1)})
    (tmp_path / "poses.csv").write_bytes(content.encode("utf-16" if mark else "latin-1"))
    with pytest.raises(ValueError, match="expected UTF-8 in .*poses.csv, got .*; save it as UTF-8"):
        read_poses(tmp_path / "poses.csv")


def test_fractions_of_pixels_are_kept_and_shares_are_refused(tmp_path: Path) -> None:
    y, x = (some_pose().T + 0.25).tolist()
    path = file_of(tmp_path, f"name:keypoints_y:keypoints_x\na.jpg: {y}: {x}\n", "poses.csv")
    assert_same(read_poses(path), {"a.jpg": np.stack([y, x], 1)})
    y, x = (some_pose().T / 128).tolist()
    path = file_of(tmp_path, f"name:keypoints_y:keypoints_x\na.jpg: {y}: {x}\n", "poses.csv")
    with pytest.raises(ValueError, match="expected pixels in .*poses.csv, got shares of the image"):
        read_poses(path)


def test_an_image_that_is_there_twice_with_the_same_joints_is_no_fault(tmp_path: Path) -> None:
    line = f"a.jpg: {[*range(18)]}: {[*range(18)]}\n"
    assert len(read_poses(file_of(tmp_path, "name:keypoints_y:keypoints_x\n" + 2 * line, "poses.csv"))) == 1


def test_a_joint_just_outside_of_the_image_stays_one(tmp_path: Path) -> None:
    pose = some_pose(3, (2,))
    pose[0] = -0.8, 5
    write_market_annotations(tmp_path / "poses.csv", {"a.jpg": pose})
    found = read_poses(tmp_path / "poses.csv")["a.jpg"]
    assert found[0].tolist() == [-2, 5] and found[2].tolist() == [-1, -1]


def test_poses_in_the_home_folder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for file, write in WRITERS.items():
        write(f"~/{file}", {"a.jpg": some_pose()})
        assert [*read_poses(f"~/{file}")] == ["a.jpg"]
        assert (tmp_path / file).exists()
    assert [*read_market_annotations("~/poses.csv")] == ["a.jpg"]


def test_folders_tell_apart_images_of_one_name(tmp_path: Path) -> None:
    """Also where nobody was found in them, so that what is there is known."""
    poses = {f"{folder}/{name}.jpg": some_pose(row) for row, (folder, name) in enumerate([*"aa ab ba".split()])}
    for found in (poses, dict.fromkeys(poses, np.full((18, 2), -1.0))):
        write_market_annotations(tmp_path / "poses.csv", found)
        assert list(read_market_annotations(tmp_path / "poses.csv")) == ["a/a.jpg", "a/b.jpg", "b/a.jpg"]
    write_market_annotations(tmp_path / "poses.csv", {"x/a.jpg": some_pose(), "y/b.jpg": some_pose()})
    assert list(read_market_annotations(tmp_path / "poses.csv")) == ["a.jpg", "b.jpg"]
    assert list(read_market_annotations(tmp_path / "poses.csv", folders=True)) == ["x/a.jpg", "y/b.jpg"]
