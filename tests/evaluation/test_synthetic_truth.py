"""The trial of generators: the truth scores best, copying and averaging are what they are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from torchreid_genext.data.synthetic import read_manifest
from torchreid_genext.data.synthetic.standard_poses import draw_standard_pose, references
from torchreid_genext.evaluation import synthetic_truth as recipe
from torchreid_genext.evaluation.synthetic_truth import Trial
from torchreid_genext.retrieval.protocol import RetrievalSet


@pytest.fixture(scope="module")
def trial(reid_data: Path) -> Trial:
    return Trial.of(reid_data / "synthreid_tiny", 3)


def colours(images: Tensor) -> Tensor:
    """A judge who looks at the mean colours of a few stripes."""
    return F.adaptive_avg_pool2d(images, (8, 1)).flatten(1)


def test_a_trial_has_another_person_in_each_row_and_their_true_poses(trial: Trial, reid_data: Path) -> None:
    assert trial.truths.shape == trial.skeletons.shape == (3, 8, 3, 128, 64)
    assert len(trial.pids.unique()) == 3
    shots = references(read_manifest(reid_data / "synthreid_tiny"))
    names = [f"{pid:04d}_c{camid + 1}" for pid, camid in zip(trial.pids.tolist(), trial.camids.tolist())]
    (shot, *_) = [shot for shot in shots if shot.name.startswith(names[0])]
    expected = torch.from_numpy(np.array(draw_standard_pose(shot, 3))).permute(2, 0, 1) / 255
    same_person = (trial.truths[0, 3] - expected).abs().mean()
    other_person = (trial.truths[1, 3] - expected).abs().mean()
    assert same_person < other_person


def test_the_truth_scores_best(trial: Trial) -> None:
    gallery = RetrievalSet(colours(trial.truths[:, 0]), trial.pids, trial.camids + 1)
    true = recipe.score(trial.truths, trial, gallery, colours)
    copied = recipe.score(trial.references[:, None].expand_as(trial.truths), trial, gallery, colours)
    assert true.l1 == 0 and true.ssim == pytest.approx(1) and true.psnr > 99
    assert copied.l1 > 0 and copied.ssim < 1
    error = (trial.references[:, None] - trial.truths).flatten(0, 1)
    assert copied.l1 == pytest.approx(float(error.abs().mean()), rel=1e-5)
    decibels = [-10 * torch.log10(each.square().mean()) for each in error]
    assert copied.psnr == pytest.approx(float(torch.stack(decibels).mean()), rel=1e-4)


def test_pixels_are_compared_at_any_size_and_people_alone(trial: Trial) -> None:
    gallery = RetrievalSet(colours(trial.truths[:, 0]), trial.pids, trial.camids + 1)
    black = trial.truths.clone()
    black[..., :4] = 0  # the left border, where no person is
    small = recipe.score(black, trial, gallery, colours, size=(64, 32))
    full = recipe.score(black, trial, gallery, colours)
    assert small.masked_ssim > 0.999 > small.ssim and full.masked_ssim > 0.999 > full.ssim
    half = [F.interpolate(each.flatten(0, 1), (64, 32), mode="bicubic", antialias=True).clamp(0, 1)
            for each in (black, trial.truths)]  # fmt: skip
    assert small.l1 == pytest.approx(float((half[0] - half[1]).abs().mean()), rel=1e-5)


def test_joints_lie_in_the_persons_of_every_size(trial: Trial) -> None:
    points = trial.targets[0]
    half = recipe.at_size(points, (128, 64), (64, 32))
    seen = (points >= 0).all(-1)
    assert (half[~seen] == -1).all() and (half[seen] >= 0).all()
    assert torch.allclose(half[seen], ((points[seen] + 0.5) / 2 - 0.5).clamp(min=0))


def test_similarity_is_to_the_person_before_other_cameras(trial: Trial) -> None:
    people, cameras = [0, 0, 1, 2], torch.tensor([100, int(trial.camids[0]), 100, 100])
    gallery = RetrievalSet(torch.eye(3)[people], trial.pids[people], cameras)
    features = torch.tensor([[3.0, 4.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 2.0]]).repeat_interleave(8, 0)
    found = recipe.score(trial.truths, trial, gallery, lambda images: features)
    assert found.similarity == pytest.approx((0.6 + 1 + 1) / 3)
    assert found.rank1 == pytest.approx(2 / 3)


def test_averages_are_of_training_people_in_each_pose(reid_data: Path) -> None:
    averages = recipe.average_images(reid_data / "synthreid_tiny", 4)
    assert averages.shape == (8, 3, 128, 64) and 0 <= averages.min() and averages.max() <= 1
    assert not torch.equal(averages[0], averages[4])


def test_each_picture_has_its_own_noise(trial: Trial) -> None:
    asked = []

    def draw(people: Tensor, poses: Tensor, noise: list[Generator]) -> Tensor:
        asked.extend(zip(people.tolist(), poses.tolist(), strict=True))
        return torch.stack([torch.rand(3, 128, 64, generator=each) for each in noise])

    small, large = (recipe.generate(trial, draw, batch=size) for size in (5, 24))
    assert small.shape == trial.truths.shape and torch.equal(small, large)
    assert len(small.flatten(0, 1)[:, 0, 0, 0].unique()) == 24
    assert asked[:24] == asked[24:] == [(person, pose) for person in range(3) for pose in range(8)]


def test_a_sheet_has_a_row_for_each_generator_and_the_truth(trial: Trial) -> None:
    axes = recipe.sheet(trial, {"PG2": trial.truths, "IPG": trial.truths / 2}, people=2).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["pose", "PG2", "IPG", "truth"] * 2
    (page,) = axes.get_images()
    tall, wide = page.get_array().shape[:2]
    assert tall > 8 * 128 and wide > 9 * 64
