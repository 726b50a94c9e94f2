"""Poses by a detector: who is meant, what is written, and what happens to a run that is cut off."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from torchreid_genext import checkpoints
from torchreid_genext.data.poses import detecting, read_market_annotations, write_market_annotations
from torchreid_genext.data.poses.detecting import (
    cost_of,
    detected_pose,
    extract_poses,
    keypoint_rcnn,
    left_to_do,
    pose_finder,
    WithMargin,
)
from torchreid_genext.data.poses.joints import COCO_JOINTS, from_coco
from torchreid_genext.data.poses.names import pose_of


def somebody(box: tuple[int, ...], score: float, hill: float = 5.0) -> dict[str, Tensor]:
    """A person whose joints lie on the way from corner to corner of the box."""
    x0, y0, x1, y1 = box
    way = torch.linspace(0, 1, 17)
    places = torch.stack([x0 + way * (x1 - x0), y0 + way * (y1 - y0), torch.ones(17)], dim=1)
    hills = torch.full((17,), hill)
    found = {"boxes": torch.tensor(box), "scores": torch.tensor(score), "keypoints": places}
    return found | {"keypoints_scores": hills}


def answer_of(*people: dict[str, Tensor]) -> dict[str, Tensor]:
    if not people:
        return {name: value[None][:0] for name, value in somebody((0, 0, 1, 1), 1.0).items()}
    return {name: torch.stack([person[name].float() for person in people]) for name in people[0]}


def pose_of_person(person: dict[str, Tensor]) -> np.ndarray:
    return from_coco(person["keypoints"].numpy())


class Script(nn.Module):
    """A detector that answers by the brightness of the image: nobody in black ones."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.seen, self.fail_at = [], fail_at

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        self.seen += [image.shape for image in images]
        if self.fail_at is not None and len(self.seen) > self.fail_at:
            raise KeyboardInterrupt
        return [self._answer(image) for image in images]

    def _answer(self, image: Tensor) -> dict[str, Tensor]:
        level = round(float(image.mean()) * 255)
        return answer_of(somebody((0, 0, level, level), 0.9)) if level else answer_of()


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Grey images of different sizes, the third black, and one that is cut off in the middle."""
    paths = []
    for number, level in enumerate((16, 32, 0, 48, 20)):
        paths.append(str(tmp_path / "images" / f"{number}.png"))
        Path(paths[-1]).parent.mkdir(exist_ok=True)
        Image.new("RGB", (60 + number, 64), (level,) * 3).save(paths[-1])
    broken = tmp_path / "images" / "broken.png"
    broken.write_bytes(Path(paths[0]).read_bytes()[:60])
    return [*paths[:2], str(broken), *paths[2:]]


def test_largest_of_the_sure_people_is_meant() -> None:
    small, large = somebody((0, 0, 10, 20), 0.99), somebody((0, 0, 30, 60), 0.8)
    unsure = somebody((0, 0, 60, 120), 0.4)
    np.testing.assert_allclose(detected_pose(answer_of(small, large, unsure)), pose_of_person(large))
    np.testing.assert_allclose(detected_pose(answer_of(unsure, small), score=0.9), pose_of_person(small))
    assert (detected_pose(answer_of(unsure)) == -1).all() and (detected_pose(answer_of()) == -1).all()


def test_score_counts_among_people_of_equal_size() -> None:
    first, second = somebody((0, 0, 10, 20), 0.7), somebody((5, 0, 15, 20), 0.9)
    np.testing.assert_allclose(detected_pose(answer_of(first, second)), pose_of_person(second))


def test_joints_without_a_high_hill_are_missing() -> None:
    person = somebody((0, 0, 10, 20), 0.9)
    person["keypoints_scores"][COCO_JOINTS.index("nose")] = 2.0
    pose = detected_pose(answer_of(person))
    assert (pose[0] == -1).all() and (pose[1:] != -1).all()
    assert (detected_pose(answer_of(person), joint_score=1.0) != -1).all()


def test_poses_of_all_images_are_written_and_the_others_are_listed(
    images: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "poses.csv"
    with caplog.at_level(logging.WARNING):
        done = extract_poses(Script(), images, target, batch_size=2, progress=False)
    assert (done.found, done.kept) == (4, 0)
    assert [Path(path).name for path in done.without] == ["2.png"]
    assert [Path(path).name for path in done.unreadable] == ["broken.png"]
    assert "1 of 6 images show nobody" in caplog.text and "1 of 6 images cannot be read" in caplog.text
    poses = read_market_annotations(target)
    assert list(poses) == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    np.testing.assert_array_equal(poses["1.png"], np.rint(pose_of_person(somebody((0, 0, 32, 32), 0.9))))
    assert (poses["2.png"] == -1).all()


def test_a_finder_tells_of_an_image_what_is_written_of_its_file(images: list[str], tmp_path: Path) -> None:
    extract_poses(Script(), images, tmp_path / "poses.csv", progress=False)
    find, written = pose_finder(Script()), read_market_annotations(tmp_path / "poses.csv")
    for path in images:
        if Path(path).name in written:
            found = find(Image.open(path).convert("RGB"))
            np.testing.assert_allclose(found, written[Path(path).name], atol=0.5)  # files have whole pixels
    assert any((pose >= 0).any() for pose in written.values())


def test_batch_size_does_not_change_the_poses(images: list[str], tmp_path: Path) -> None:
    for size in (1, 4):
        extract_poses(Script(), images, tmp_path / f"{size}.csv", batch_size=size, progress=False)
    assert (tmp_path / "1.csv").read_text() == (tmp_path / "4.csv").read_text()


def test_interrupted_run_goes_on_where_it_was(images: list[str], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        extract_poses(Script(fail_at=3), images, tmp_path / "a.csv", batch_size=1, progress=False)
    assert list(read_market_annotations(tmp_path / "a.csv")) == ["0.png", "1.png", "2.png"]
    second = Script()
    done = extract_poses(second, images, tmp_path / "a.csv", batch_size=1, progress=False)
    assert (done.kept, done.found, len(second.seen)) == (3, 2, 2)
    extract_poses(Script(), images, tmp_path / "b.csv", progress=False)
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()


def test_file_is_written_while_the_work_goes_on(
    images: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a process that is killed: what it had written before is there."""
    monkeypatch.setattr(detecting, "_SAVED_EVERY", 2)
    counts = []

    class Watching(Script):
        def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
            counts.append(len(read_market_annotations(tmp_path / "a.csv")))
            return super().forward(images)

    extract_poses(Watching(), images, tmp_path / "a.csv", batch_size=1, progress=False)
    assert counts == [0, 0, 2, 2, 4]


def test_poses_that_are_there_are_kept(images: list[str], tmp_path: Path) -> None:
    own = {"0.png": np.full((18, 2), 7), "other.jpg": np.full((18, 2), 9)}
    write_market_annotations(tmp_path / "a.csv", own)
    assert left_to_do(images, tmp_path / "a.csv") == images[1:]
    extract_poses(Script(), images, tmp_path / "a.csv", progress=False)
    found = read_market_annotations(tmp_path / "a.csv")
    assert len(found) == 6 and all((found[name] == own[name]).all() for name in own)


@pytest.mark.parametrize("name", ["a\nb.png", r"a\b.png", os.fsdecode("人.png".encode("gbk"))])
def test_names_that_a_file_cannot_hold_are_refused_before_the_work(tmp_path: Path, name: str) -> None:
    detector = Script()
    with pytest.raises(ValueError, match="expected names of images .*; rename it"):
        extract_poses(detector, [str(tmp_path / "0.png"), str(tmp_path / name)], tmp_path / "a.csv")
    assert not detector.seen and not (tmp_path / "a.csv").exists()


def test_names_with_times_of_day_are_found_again(images: list[str], tmp_path: Path) -> None:
    path = Path(images[0]).rename(tmp_path / "2024-01-02 12:30:05.png")
    for found, kept in ((1, 0), (0, 1)):
        done = extract_poses(Script(), [str(path)], tmp_path / "a.csv", progress=False)
        assert (done.found, done.kept) == (found, kept)


def test_poses_stand_in_the_home_folder(
    images: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    extract_poses(Script(), images, "~/a.csv", progress=False)
    assert len(read_market_annotations(tmp_path / "a.csv")) == 5
    assert left_to_do(images, "~/a.csv") == [path for path in images if "broken" in path]


def test_file_that_is_something_else_is_left_alone(images: list[str], tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("mine")
    with pytest.raises(ValueError, match="expected the header"):
        extract_poses(Script(), images, tmp_path / "notes.csv", progress=False)
    assert (tmp_path / "notes.csv").read_text() == "mine"


def test_cost_is_that_of_one_image(images: list[str]) -> None:
    class Counted(nn.Module):
        def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
            torch.ones(10, 20) @ torch.ones(20, 30)
            return [answer_of() for _ in images]

    cost = cost_of(Counted(), images[2:])
    assert cost.operations == 2 * 10 * 20 * 30 and cost.seconds > 0
    assert cost_of(Counted(), images[2:3]) is None


def test_batches_have_an_image_at_least(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected batch_size >= 1, got 0"):
        extract_poses(Script(), ["a/1.jpg"], tmp_path / "a.csv", batch_size=0)


class Spots(nn.Module):
    """A detector that finds somebody at the brightest pixel of each image, all joints there."""

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        self.seen = images
        return [self._at(image[0].flatten().argmax().item(), image.shape[2]) for image in images]

    def _at(self, place: int, width: int) -> dict[str, Tensor]:
        person = somebody((place % width - 2, place // width - 3, place % width + 2, place // width + 3), 0.9)
        person["keypoints"][:, :2] = torch.tensor([place % width, place // width])
        return answer_of(person)


def test_a_margin_changes_no_place(tmp_path: Path) -> None:
    images = [torch.zeros(3, 40, 20), torch.zeros(3, 16, 64)]
    for image, (y, x) in zip(images, ((39, 0), (5, 60))):
        image[:, y, x] = 1
    network = Spots()
    answers = WithMargin(network, 0.25)(images)
    for answer, image, (y, x) in zip(answers, images, ((39, 0), (5, 60))):
        assert answer["keypoints"][0, :, :2].unique(dim=0).tolist() == [[x, y]]
        assert (answer["boxes"] >= 0).all() and (answer["boxes"] <= torch.tensor(image.shape[:0:-1]).repeat(2)).all()
    assert [image.shape[1:] for image in network.seen] == [(60, 40), (48, 96)]
    assert torch.allclose(network.seen[0][:, 0, 0], torch.tensor([0.485, 0.456, 0.406]))


@pytest.mark.parametrize("margin", [-0.1, float("nan"), 11])
def test_a_margin_that_is_none_is_refused_before_anything_is_fetched(margin: float) -> None:
    with pytest.raises(ValueError, match="expected a margin in 0..10 of the longer side"):
        keypoint_rcnn(margin=margin)
    with pytest.raises(ValueError, match="expected a margin in 0..10 of the longer side"):
        WithMargin(Spots(), margin)


def test_joints_in_the_margin_are_missing() -> None:
    class Beyond(nn.Module):
        def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
            return [answer_of(somebody((0, 0, image.shape[2], image.shape[1]), 0.9)) for image in images]

    pose = detected_pose(WithMargin(Beyond(), 0.5)([torch.zeros(3, 16, 8)])[0])
    shown = (pose >= 0).all(1)
    assert 0 < shown.sum() < len(pose) and (pose[shown] <= [16, 8]).all()


def test_names_that_repeat_have_their_folders(tmp_path: Path) -> None:
    """Whatever was done before is found again, also where but one image is."""
    paths = []
    for person, level in (("Anna", 16), ("Bo", 32)):
        (tmp_path / person).mkdir()
        paths.append(str(tmp_path / person / "1.png"))
        Image.new("RGB", (60, 64), (level,) * 3).save(paths[-1])
    target = tmp_path / "poses.csv"
    with pytest.raises(KeyboardInterrupt):
        extract_poses(Script(fail_at=1), paths, target, batch_size=1, progress=False)
    done = extract_poses(Script(), paths, target, progress=False)
    assert (done.found, done.kept) == (1, 1) and left_to_do(paths, target) == []
    poses = read_market_annotations(target)
    assert list(poses) == ["Anna/1.png", "Bo/1.png"]
    for path, level in zip(paths, (16, 32)):
        wanted = pose_of_person(somebody((0, 0, level, level), 0.9))
        np.testing.assert_array_equal(pose_of(poses, path), np.rint(wanted))
    assert pose_of(poses, "1.png") is None


def test_published_weights_are_fetched_once_or_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address leads to a file of this machine."""
    from torchvision.models.detection import KeypointRCNN_ResNet50_FPN_Weights as Published

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    monkeypatch.setattr(Published.DEFAULT.value, "url", "file:///nowhere/rcnn-12345678.pth", raising=False)
    with pytest.raises(OSError, match="expected the weights of Keypoint R-CNN in .*cache.*; fetch file:/.* elsewhere"):
        keypoint_rcnn()
    state = checkpoints.save(tmp_path / "w.safetensors", {"a": torch.zeros(1)}).read_bytes()
    digest = hashlib.sha256(state).hexdigest()[:8]
    for name in (f"rcnn-{digest}.safetensors", "rcnn-00000000.safetensors"):
        (tmp_path / name).write_bytes(state)
        monkeypatch.setattr(Published.DEFAULT.value, "url", (tmp_path / name).as_uri())
        with pytest.raises((ValueError, OSError), match="weights of KeypointRCNN, got|invalid hash value"):
            keypoint_rcnn()
        assert (tmp_path / "cache" / "checkpoints" / name).is_file() == (digest in name)


def tiny_keypoint_rcnn(**options: Any) -> nn.Module:
    """torchvision's own network on a backbone of one layer, with random weights."""
    from torchvision.models.detection import KeypointRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=8, padding=1), nn.ReLU())
    backbone.out_channels = 8
    anchors = AnchorGenerator(sizes=((32, 64),), aspect_ratios=((2.0,),))
    return KeypointRCNN(backbone, 2, rpn_anchor_generator=anchors, min_size=64, max_size=128, **options)


def test_torchvisions_network_is_understood(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = tiny_keypoint_rcnn(box_score_thresh=0.0, box_detections_per_img=3)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 32, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    done = extract_poses(
        network, [str(tmp_path / "a.png")], tmp_path / "a.csv", score=0.0, joint_score=-1e9, progress=False
    )
    pose = read_market_annotations(tmp_path / "a.csv")["a.png"]
    assert done.found == 1 and (pose >= 0).all() and (pose <= [64, 32]).all()


def test_names_of_older_files_are_understood() -> None:
    """torchvision renames them itself, in load_state_dict, if it is told nothing of a version."""
    from torchvision.models.detection.rpn import RPNHead
    from torchvision.ops import FeaturePyramidNetwork

    parts = {"backbone.fpn": FeaturePyramidNetwork([4, 8], 4), "rpn.head": RPNHead(4, 3)}
    network = nn.ModuleDict({"backbone": nn.ModuleDict({"fpn": parts["backbone.fpn"]})})
    network["rpn"] = nn.ModuleDict({"head": parts["rpn.head"]})
    new = network.state_dict()
    old = {name.replace("conv.0.0.", "conv."): value for name, value in new.items()}
    old = {re.sub(r"(blocks\.\d)\.0", r"\1", name): value for name, value in old.items()}
    assert "backbone.fpn.layer_blocks.1.weight" in old and "rpn.head.conv.bias" in old
    network.load_state_dict(dict(old))
    assert detecting._renamed(old).keys() == new.keys() == detecting._renamed(new).keys()


@pytest.mark.parametrize(("counters", "added"), [(False, 0.0), (True, 1e-5)])
def test_weights_of_frozen_normalisation_add_nothing_to_the_variance(counters: bool, added: float) -> None:
    """As torchvision does for its own; those who train on have counters of batches in their files."""
    state = nn.BatchNorm2d(4).state_dict()
    if not counters:
        del state["num_batches_tracked"]
    assert detecting._as_trained(nn.Sequential(nn.BatchNorm2d(4)), state)[0].eps == added


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "other.safetensors", {"layer.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="expected weights of KeypointRCNN, got .*other.safetensors"):
        keypoint_rcnn(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match="nothing.pth"):
        keypoint_rcnn(tmp_path / "nothing.pth")
