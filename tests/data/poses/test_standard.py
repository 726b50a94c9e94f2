"""The oracle of pose-guided generation: who is drawn, how, and where the pictures go."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchreid_genext.data.filenames import parse
from torchreid_genext.data.store.lookup import find_generated
from torchreid_genext.data.synthetic import read_manifest, write_dataset
from torchreid_genext.data.synthetic.standard_poses import (
    STANDARD_POSES,
    draw_standard_pose,
    references,
    standard_pose_sheet,
    write_standard_poses,
)
from torchreid_genext.data.synthetic.world import Shot
from torchreid_genext.data.synthetic.writing import draw_shot


@pytest.fixture(scope="module")
def dataset(few: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reid-data") / "synthreid_few"
    write_dataset(folder, size=few, progress=False)
    return folder


@pytest.fixture(scope="module")
def people(dataset: Path) -> list[Shot]:
    return references(read_manifest(dataset))


@pytest.fixture(scope="module")
def written(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ipg") / "synthreid_few_ipg"
    write_standard_poses(dataset, folder, progress=False)
    return folder


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float32)


def test_poses_are_one_from_each_side() -> None:
    assert [view.yaw for _, view in STANDARD_POSES] == [45 * i for i in range(8)]


def test_references_are_the_test_people_without_distractors_and_junk(
    people: list[Shot], dataset: Path
) -> None:
    files = [path for folder in ("query", "bounding_box_test") for path in (dataset / folder).glob("*.jpg")]
    expected = {(path.parent.name, path.name) for path in files if parse(path, "synthreid").pid > 0}
    assert {(shot.folder, shot.name) for shot in people} == expected


def test_swapped_people_are_others_before_the_same_cameras(reid_data: Path) -> None:
    manifest = read_manifest(reid_data / "synthreid_tiny")
    people, swapped = references(manifest), references(manifest, swapped=True)
    assert [(shot.name, shot.camera, shot.seed) for shot in swapped] == [
        (shot.name, shot.camera, shot.seed) for shot in people
    ]
    assert sorted(shot.person for shot in swapped) == sorted(shot.person for shot in people)
    assert sum(a.person != b.person for a, b in zip(swapped, people)) > 0.8 * len(people)


def test_picture_depends_on_reference_and_pose_alone(people: list[Shot]) -> None:
    first, again = draw_standard_pose(people[0], 3), draw_standard_pose(people[0], 3)
    assert first.tobytes() == again.tobytes()
    others = [draw_standard_pose(people[0], 4), draw_standard_pose(people[1], 3)]
    assert all(first.tobytes() != other.tobytes() for other in others)


def test_picture_keeps_the_look_of_the_references_camera(people: list[Shot]) -> None:
    """Its light and colour: pictures lie nearer to their own reference than to those of other cameras."""
    by_camera = {shot.camera: shot for shot in people}
    look = {camera: pixels(draw_shot(shot).image).mean((0, 1)) for camera, shot in by_camera.items()}
    drawn = {
        camera: np.mean([pixels(draw_standard_pose(shot, n)).mean((0, 1)) for n in range(8)], axis=0)
        for camera, shot in by_camera.items()
    }
    own = np.mean([np.linalg.norm(drawn[c] - look[c]) for c in look])
    others = np.mean([np.linalg.norm(drawn[c] - look[d]) for c in look for d in look if c != d])
    assert own < 0.6 * others


def test_files_are_found_as_generated_images(written: Path, dataset: Path) -> None:
    for split, folder in (("query", "query"), ("gallery", "bounding_box_test")):
        files = sorted(map(str, (dataset / folder).glob("*.jpg")))
        without = sum(parse(file, "synthreid").pid <= 0 for file in files)
        coverage = find_generated(written, files, split).coverage
        assert (coverage.poses, coverage.partial, coverage.without) == (8, 0, without)


def test_files_are_the_pictures(written: Path, people: list[Shot]) -> None:
    shot = next(shot for shot in people if shot.folder == "query")
    with Image.open(written / "query_gen" / "pose5" / shot.name) as image:
        assert np.abs(pixels(image) - pixels(draw_standard_pose(shot, 4))).mean() < 6  # what JPEG changes


def test_interrupted_run_goes_on_where_it_was(written: Path, dataset: Path) -> None:
    lost = sorted((written / "bounding_box_test_gen" / "pose2").iterdir())[:3]
    kept = next((written / "query_gen" / "pose1").iterdir())
    content, time = lost[0].read_bytes(), kept.stat().st_mtime_ns
    for file in lost:
        os.remove(file)
    assert write_standard_poses(dataset, written, workers=1, progress=False) == 3
    assert (lost[0].read_bytes(), kept.stat().st_mtime_ns) == (content, time)
    assert write_standard_poses(dataset, written, progress=False) == 0


def test_folder_with_other_content_is_refused(written: Path, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="expected an empty folder or standard poses in .*, got other files"):
        write_standard_poses(dataset, tmp_path)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    manifest = (written / "manifest.json").read_text()
    (foreign / "manifest.json").write_text(manifest.replace('"seed": 0', '"seed": 7'))
    with pytest.raises(ValueError, match="standard poses of this dataset in .*foreign, got others"):
        write_standard_poses(dataset, foreign)
    with pytest.raises(ValueError, match="standard poses of this dataset in .*, got others"):
        write_standard_poses(dataset, written, swapped=True)


def test_incomplete_dataset_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a complete SynthReID"):
        write_standard_poses(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sheet_shows_references_and_poses(dataset: Path) -> None:
    sheet = standard_pose_sheet(read_manifest(dataset), people=2)
    assert sheet.size == (9 * 66, 13 + 2 * 130)
    with pytest.raises(ValueError, match=r"expected people in 1..\d, got 50"):
        standard_pose_sheet(read_manifest(dataset), people=50)
