"""Judging on pairs of photographs: definitions, honest rows, and what cannot be judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from torchreid_genext.data.images.in_memory import ImageTensor
from torchreid_genext.evaluation.pairs import (
    Judge,
    PairTrial,
    baselines,
    identity,
    read_pairs,
    score,
)
from torchreid_genext.evaluation.quality import l1, masked_ssim, own_range, ssim
from torchreid_genext.generators.deformable import person_mask
from torchreid_genext.generators.pg2 import pose_mask

SIZE = (32, 16)
PEOPLE = 5


def photographs() -> ImageTensor:
    """Three images of each of some people, of a colour of their own."""
    random = torch.Generator().manual_seed(0)
    colours = torch.randint(0, 200, (PEOPLE, 3, 1, 1), generator=random)
    pids = torch.arange(PEOPLE).repeat_interleave(3)
    noise = torch.randint(0, 50, (len(pids), 3, *SIZE), generator=random)
    paths = tuple(f"folder/{pid:04d}_c{n % 3 + 1}.jpg" for n, pid in enumerate(pids.tolist()))
    return ImageTensor((colours[pids] + noise).byte(), pids, torch.arange(len(pids)) % 3, paths)


def standing(shift: int = 0) -> np.ndarray:
    places = np.linspace(2, 29, 18)
    return np.stack([places, 4 + shift + np.arange(18) % 8], axis=1).round()


def trial(lacking: tuple[str, ...] = ()) -> PairTrial:
    images = photographs()
    names = [Path(path).name for path in images.paths]
    joints = {name: standing(row % 3) for row, name in enumerate(names) if name not in lacking}
    pairs = [(names[3 * n], names[3 * n + 1]) for n in range(PEOPLE)]
    return PairTrial.of(images, joints, pairs)


def colours(images: Tensor) -> Tensor:
    return images.mean((2, 3)) - 0.5


def test_scores_are_the_papers_definitions() -> None:
    pairs = trial()
    made = torch.randint(0, 256, (PEOPLE, 3, *SIZE), dtype=torch.uint8)
    found, (a, b) = score(made, pairs), (made.float() / 255, pairs.pictures(pairs.target))
    joints = pairs.joints[pairs.target]
    body, limbs = person_mask(joints, SIZE)[:, None].float(), pose_mask(joints, SIZE)
    assert 0 < body.mean() < 1 and 0 < limbs.mean() < 1
    expected = {
        "pg2_ssim": ssim(a, b, window="uniform"),
        "pg2_masked": masked_ssim(a, b, limbs, window="uniform"),
        "deformable_ssim": ssim(a, b, data_range=own_range(a)),
        "deformable_masked": masked_ssim(a, b, body, data_range=own_range(a)),
        "l1": l1(2 * a - 1, 2 * b - 1),
    }
    means = {name: float(values.mean()) for name, values in expected.items()}
    assert vars(found) == pytest.approx(means, abs=1e-6)
    official = score(made, pairs, official_mask=True)
    given = masked_ssim(a, b, pose_mask(pairs.joints[pairs.source], SIZE), window="uniform")
    assert official.pg2_masked == pytest.approx(float(given.mean()), abs=1e-6)
    assert official.pg2_masked != found.pg2_masked


def test_blur_is_rewarded_and_the_truth_is_perfect() -> None:
    pairs = trial()
    candidates = baselines(pairs, torch.full((3, *SIZE), 0.5))
    rows = {name: score(made, pairs) for name, made in candidates.items()}
    assert list(rows) == ["the given image", "mean training image", "the truth in 8 x 8", "the truth"]
    assert rows["the truth"].pg2_ssim == pytest.approx(1) and rows["the truth"].l1 == 0
    assert rows["the truth in 8 x 8"].pg2_ssim > rows["the given image"].pg2_ssim


def test_the_noise_of_a_pair_is_its_own() -> None:
    pairs, seen = trial(), []

    def draw(images: Tensor, joints: Tensor, wanted: Tensor, noise: list) -> Tensor:
        seen.append((joints, wanted))
        return torch.stack([torch.rand(3, *SIZE, generator=each) for each in noise])

    whole, parts = (pairs.drawn(draw, batch=batch, seed=4) for batch in (8, 2))
    assert torch.equal(whole, parts) and len({tuple(image.flatten().tolist()) for image in whole}) == PEOPLE
    assert torch.equal(seen[0][0], pairs.joints[pairs.source])
    assert torch.equal(seen[0][1], pairs.joints[pairs.target])


def test_a_judge_has_seen_neither_image_of_the_pair() -> None:
    pairs = trial()
    judge = Judge.of(colours, pairs)
    right = identity(pairs.images[pairs.target], pairs, judge)
    wrong = identity(pairs.images[pairs.target].roll(3, 0), pairs, judge)
    assert right[1] == 1 and wrong[1] == 0 and right[0] > 0.9 > wrong[0]
    third = torch.nn.functional.normalize(colours(pairs.pictures(torch.arange(2, 3 * PEOPLE, 3))))
    own = torch.nn.functional.normalize(colours(pairs.pictures(pairs.target)))
    assert right[0] == pytest.approx(float((third * own).sum(1).mean()), abs=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\nx,y\n", "expected the columns from,to in .*, got a,b"),
        ("", "got nothing"),
        ("from,to\n", "expected a pair at least"),
        ("from,to\na.jpg\n", "expected two names in .*, line 2, got 1"),
    ],
)
def test_files_of_pairs_are_read_or_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("\ufefffrom,to\r\na.jpg, b.jpg\r\n\r\n")
    assert read_pairs(file) == [("a.jpg", "b.jpg")]
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_pairs(file)


def test_pairs_that_cannot_be_judged_are_named() -> None:
    images = photographs()
    names = [Path(path).name for path in images.paths]
    with pytest.raises(ValueError, match=f"image {names[1]} of a pair with joints, got none"):
        trial(lacking=(names[1],))
    joints = {name: standing() for name in names}
    with pytest.raises(ValueError, match="image nobody.jpg of a pair in the data set, got none"):
        PairTrial.of(images, joints, [("nobody.jpg", names[0])])
    with pytest.raises(ValueError, match=f"one person in a pair, got two in {names[0]} and {names[4]}"):
        PairTrial.of(images, joints, [(names[0], names[4])])
    with pytest.raises(ValueError, match="expected images .*uint8, got"):
        score(torch.zeros(PEOPLE, 3, 8, 8), trial())
