"""The trial of CamStyle: the truth scores best, and cameras and people are what they are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from torchreid_genext.evaluation import camera_truth
from torchreid_genext.evaluation.camera_truth import CameraTrial
from torchreid_genext.retrieval.protocol import RetrievalSet


@pytest.fixture(scope="module")
def trial(reid_data: Path) -> CameraTrial:
    return CameraTrial.of(reid_data / "synthreid_tiny", 3, range(6))


def colours(images: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(images, (8, 1)).flatten(1)


def test_every_person_is_seen_by_all_other_cameras(trial: CameraTrial) -> None:
    assert trial.images.shape == trial.truths.shape == (15, 3, 128, 64)
    assert trial.masks.shape == (15, 1, 128, 64) and 0.05 < trial.masks.float().mean() < 0.5
    for pid in trial.pids.unique():
        own = trial.pids == pid
        assert len(trial.images[own].unique(dim=0)) == 1 and len(trial.truths[own].unique(dim=0)) == 5
        assert sorted([*trial.target[own].tolist(), int(trial.source[own][0])]) == [*range(6)]


def test_the_truth_scores_best_and_colours_tell_cameras(trial: CameraTrial) -> None:
    gallery = RetrievalSet(colours(trial.truths), trial.pids, trial.target)
    judged = (trial, (trial.truths, trial.target), gallery, colours)
    true = camera_truth.score(trial.truths, *judged)
    plain = camera_truth.score(trial.images, *judged)
    assert max(true.colors, true.person_colors) < 1e-9 and true.l1 == 0
    assert plain.colors > 0.001 and plain.person_colors > 0.0005 and plain.l1 > 0.02
    difference = (trial.images - trial.truths).abs().mean(1)[trial.masks[:, 0]]
    assert plain.l1 == pytest.approx(float(difference.mean()), rel=1e-5)


def test_what_is_drawn_keeps_its_order(trial: CameraTrial) -> None:
    def draw(images: Tensor, source: Tensor, target: Tensor) -> Tensor:
        return images * 0 + (10 * source + target)[:, None, None, None]

    made = camera_truth.restyle(trial, draw, batch=4)
    assert torch.equal(made[:, 0, 0, 0], (10 * trial.source + trial.target).float())


def test_a_sheet_has_two_rows_a_person(trial: CameraTrial) -> None:
    axes = camera_truth.sheet(trial, trial.truths, people=2).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["CamStyle", "truth"] * 2
    pixels = axes.get_images()[0].get_array()
    tall = (pixels.shape[0] - 4) // 4  # both rows of a person show the same, as the truth was given
    np.testing.assert_array_equal(pixels[:tall], pixels[tall : 2 * tall])
    assert pixels.shape[0] > 4 * 128 and pixels.shape[1] > 6 * 64
