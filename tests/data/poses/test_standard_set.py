"""Eight standard poses for any size: those of the embedded body, and what they look like when drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from torchreid_genext.data.poses import draw_skeleton, read_market_annotations
from torchreid_genext.data.poses.skeletons import scaled
from torchreid_genext.data.poses.standard import standard_poses
from torchreid_genext.data.synthetic.cameras import CAMERAS
from torchreid_genext.data.synthetic.people import Body, random_identity
from torchreid_genext.data.synthetic.render import render_with_joints
from torchreid_genext.data.synthetic.standard_poses import STANDARD_POSES


def rendered_poses() -> dict[str, np.ndarray]:
    """What the renderer knows: joints of the average body, hidden in three quarters of views nearby."""
    camera = replace(CAMERAS[0], jitter=0.0, pitch=10.0, stretch=1.12)
    people = [replace(random_identity(number), body=Body()) for number in range(3)]
    found = {}
    for number, (pose, view) in enumerate(STANDARD_POSES, start=1):
        views = [replace(view, yaw=view.yaw + turn) for turn in (0, -15, 15)]
        pictures = [render_with_joints(person, pose, each, camera) for each in views for person in people]
        seen = np.mean([picture.visible for picture in pictures], axis=0) > 0.25
        found[str(number)] = np.where(seen[:, None], pictures[0].joints, -1)
    return found


def test_poses_are_those_of_the_embedded_body() -> None:
    found, expected = standard_poses(128, 64), rendered_poses()
    assert list(found) == list(expected) == [str(number) for number in range(1, 9)]
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], atol=0.01)


@pytest.mark.parametrize("size", [(64, 32), (512, 256), (100, 90)])
def test_poses_of_another_size_are_the_same_scaled(size: tuple[int, int]) -> None:
    for name, pose in standard_poses(*size).items():
        np.testing.assert_allclose(pose, scaled(standard_poses(128, 64)[name], (128, 64), size), atol=1e-6)
        inside = (pose == -1) | ((pose >= 0) & (pose <= np.array(size) - 1))
        assert inside.all() and (pose != -1).all(axis=1).sum() >= 9


def test_poses_look_from_all_sides() -> None:
    """The right shoulder is on the left of a front and on the right of a back, which has no eyes."""
    poses = standard_poses(128, 64)
    across = {name: pose[2, 1] - pose[5, 1] for name, pose in poses.items()}
    assert across["1"] < -20 and across["5"] > 20
    assert (poses["1"][[0, 14, 15]] != -1).all() and (poses["5"][[0, 14, 15]] == -1).all()


def test_drawn_poses_look_like_those_of_the_data_set(reid_data: Path) -> None:
    """As much of a picture is drawn, in the same places: the mean pictures of both are alike."""
    files = list(read_market_annotations(reid_data / "synthreid_tiny" / "poses.csv").values())[::3]
    theirs = np.array([np.asarray(draw_skeleton(pose, (128, 64)), float) for pose in files])
    ours = np.array(
        [np.asarray(draw_skeleton(p, (128, 64)), float) for p in standard_poses(128, 64).values()]
    )
    covered = [(pictures.max(axis=-1) > 0).mean(axis=(1, 2)) for pictures in (ours, theirs)]
    assert np.quantile(covered[1], 0.02) < covered[0].min() and covered[0].max() < covered[1].max()
    blocks = [p.mean(axis=0).reshape(8, 16, 4, 16, 3).mean(axis=(1, 3)).ravel() for p in (ours, theirs)]
    assert np.corrcoef(*blocks)[0, 1] > 0.9


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected height and width >= 1, got 0 and 64"):
        standard_poses(0, 64)
