"""Generated images on disk: the layout of Pose2ID's downloads, what is missing, and what stands in."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from torchreid_genext.data.store.lookup import (
    FOLDERS,
    Coverage,
    GeneratedImages,
    check_generated,
    collect_features,
    find_generated,
)

NAMES = ["0002_c1s1_000451_03.jpg", "0007_c3s3_077419_03.jpg", "0000_c6s4_002427_05.jpg"]
PATHS = [f"market1501/query/{name}" for name in NAMES]


def lay_out(root: Path, split: str, poses: Iterable[int] = range(1, 9), names: Iterable[str] = NAMES) -> Path:
    """Empty files where Pose2ID's downloads have pictures."""
    for pose in poses:
        folder = root / FOLDERS[split] / f"pose{pose}"
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).touch()
    return root


@pytest.mark.parametrize("split", FOLDERS)
def test_every_image_gets_its_generated_ones_pose_by_pose(tmp_path: Path, split: str) -> None:
    found = find_generated(lay_out(tmp_path, split), PATHS, split)
    expected = [[tmp_path / FOLDERS[split] / f"pose{i}" / name for i in range(1, 9)] for name in NAMES]
    assert found.paths == tuple(tuple(map(str, files)) for files in expected)
    assert (found.split, found.poses) == (split, 8)
    assert found.coverage == Coverage(poses=8, complete=3, partial=0, without=0)


def test_poses_are_any_number_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    lay_out(tmp_path, "query", poses=(10, 2, 1))
    (tmp_path / "query_gen" / "pose_backup").mkdir()
    found = find_generated(tmp_path, PATHS, "query")
    assert [Path(file).parent.name for file in found.paths[0]] == ["pose1", "pose2", "pose10"]


def test_another_extension_will_do_but_the_own_one_comes_first(tmp_path: Path) -> None:
    stem = Path(NAMES[0]).stem
    lay_out(tmp_path, "query", [1], [f"{stem}.png"])
    lay_out(tmp_path, "query", [2], [f"{stem}.jpeg", f"{stem}.jpg", f"{stem}.txt"])
    lay_out(tmp_path, "query", [3], [f"{stem}.txt"])
    files = find_generated(tmp_path, PATHS[:1], "query").paths[0]
    assert [file and Path(file).name for file in files] == [f"{stem}.png", f"{stem}.jpg", None]


def test_images_without_generated_ones_are_tolerated_and_counted(tmp_path: Path) -> None:
    lay_out(tmp_path, "gallery", [1, 2], NAMES[:1])
    lay_out(tmp_path, "gallery", [2], NAMES[1:2])
    found = find_generated(tmp_path, PATHS, "gallery")
    assert [[file is not None for file in files] for files in found.paths] == [[1, 1], [0, 1], [0, 0]]
    assert found.coverage == Coverage(poses=2, complete=1, partial=1, without=1)
    assert str(found.coverage) == (
        "1 of 3 images have all 2 generated ones, 1 some (the mean of these stands in), "
        "1 none (their own feature stands in)"
    )


def test_folders_of_the_other_split_are_not_needed(tmp_path: Path) -> None:
    assert find_generated(lay_out(tmp_path, "query"), PATHS, "query").coverage.complete == 3


def test_lost_folders_are_named_with_the_layout(tmp_path: Path) -> None:
    layout = r"<root>/\{query_gen,bounding_box_test_gen\}/pose1/<name of the real image>"
    with pytest.raises(ValueError, match=rf"{layout}, got no folder '.*lost'"):
        find_generated(tmp_path / "lost", PATHS, "query")
    with pytest.raises(ValueError, match=rf"{layout}, got no folder '.*bounding_box_test_gen'"):
        find_generated(lay_out(tmp_path, "query"), PATHS, "gallery")
    (tmp_path / "bounding_box_test_gen").mkdir()
    with pytest.raises(ValueError, match=rf"{layout}, got no folder pose1, pose2"):
        find_generated(tmp_path, PATHS, "gallery")


def test_images_of_another_dataset_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"such as {NAMES[0]}, got none of these in"):
        find_generated(lay_out(tmp_path, "query", names=["9999_c1s1_000001_00.jpg"]), PATHS, "query")


def test_real_images_of_one_name_are_refused(tmp_path: Path) -> None:
    paths = [*PATHS, f"elsewhere/{NAMES[0]}"]
    with pytest.raises(ValueError, match=f"different names, got {PATHS[0]} and elsewhere/{NAMES[0]}"):
        find_generated(lay_out(tmp_path, "query"), paths, "query")
    assert len(find_generated(tmp_path, [*PATHS, PATHS[0]], "query").paths) == 4


def test_without_real_images_nothing_can_be_found(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected real images of query, got none"):
        find_generated(lay_out(tmp_path, "query"), [], "query")


def test_selected_images_keep_their_generated_ones(tmp_path: Path) -> None:
    found = find_generated(lay_out(tmp_path, "query"), PATHS, "query")
    assert found.select([2, 0]).paths == (found.paths[2], found.paths[0])


def test_folders_can_be_checked_before_long_work(tmp_path: Path) -> None:
    check_generated(lay_out(tmp_path, "query"), "query")
    with pytest.raises(ValueError, match="got no folder '.*bounding_box_test_gen'"):
        check_generated(tmp_path, "gallery")


def test_unknown_split_lists_the_choices(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown split 'train'; choose from query, gallery"):
        find_generated(tmp_path, PATHS, "train")


def read_numbers(files: list[str]) -> tuple[Tensor, Tensor]:
    """Stands for a network: the feature of file '3' is (3, -3); names without a number cannot be read."""
    kept = [position for position, file in enumerate(files) if file.isdigit()]
    numbers = torch.tensor([float(files[position]) for position in kept])
    return torch.stack([numbers, -numbers], 1) if kept else torch.empty(0, 0), torch.tensor(kept)


OWN = torch.tensor([[5.0, 1.0], [6.0, 2.0], [7.0, 3.0]])


def test_features_come_in_the_order_of_images_and_poses() -> None:
    images = GeneratedImages("query", (("1", "2"), ("3", "4"), ("5", "6")))
    features, coverage = collect_features(images, OWN, read_numbers)
    assert features[:, :, 0].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert torch.equal(features[:, :, 1], -features[:, :, 0])
    assert coverage == Coverage(2, 3, 0, 0)


def test_own_feature_and_mean_of_the_other_poses_stand_in(caplog: pytest.LogCaptureFixture) -> None:
    images = GeneratedImages("gallery", (("1", "2", "3"), (None, "4", "8"), (None, None, None)))
    with caplog.at_level(logging.INFO, "torchreid_genext"):
        features, coverage = collect_features(images, OWN, read_numbers)
    assert features[1, :, 0].tolist() == [6, 4, 8]
    assert torch.equal(features[2], OWN[2].expand(3, 2))
    assert coverage == Coverage(3, 1, 1, 1)
    assert "gallery: 1 of 3 images" in caplog.text


def test_what_cannot_be_read_counts_as_missing_even_if_that_is_all() -> None:
    images = GeneratedImages("query", (("torn", "2"), ("torn", "4"), ("torn", "torn")))
    features, coverage = collect_features(images, OWN, read_numbers)
    assert features[:2, :, 0].tolist() == [[2, 2], [4, 4]]
    assert torch.equal(features[2], OWN[2].expand(2, 2))
    assert coverage == Coverage(2, 0, 2, 1)
