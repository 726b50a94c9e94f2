"""Likeness of images against formulas written out."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import reference
from tests.generators.networks import rand
from torchreid_genext.evaluation.quality import (
    LEARNED,
    inception_score,
    l1,
    learned_metric,
    masked_ssim,
    own_range,
    ssim,
)


def test_likeness_is_what_the_formulas_say() -> None:
    a, noise = torch.rand(3, 3, 16, 13, dtype=torch.float64), torch.rand(3, 3, 16, 13, dtype=torch.float64)
    b = 0.7 * a + 0.3 * noise
    expected = [reference.structural_similarity(x, y) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    torch.testing.assert_close(ssim(a, b), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(
        l1(a, b), torch.stack([(x - y).abs().mean() for x, y in zip(a, b, strict=True)])
    )


def test_an_image_is_most_like_itself() -> None:
    a = torch.rand(2, 3, 11, 20)
    torch.testing.assert_close(ssim(a, a), torch.ones(2))
    assert (ssim(a, a.flip(3)) < 0.9).all() and not l1(a, a).any()


def test_images_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="11 x 11 pixels at least, got .1, 3, 10, 20."):
        ssim(torch.rand(1, 3, 10, 20), torch.rand(1, 3, 10, 20))
    for like in (l1, ssim):
        with pytest.raises(
            ValueError, match=r"expected two batches .* got \(1, 3, 12, 12\) and \(2, 3, 12, 12\)"
        ):
            like(torch.rand(1, 3, 12, 12), torch.rand(2, 3, 12, 12))


def pair(scale: float = 1.0) -> tuple[Tensor, Tensor]:
    a = rand(3, 3, 15, 12).double()
    return scale * a, scale * (0.7 * a + 0.3 * rand(3, 3, 15, 12, seed=1).double())


@pytest.mark.parametrize("data_range", (1.0, 255.0))
def test_the_uniform_window_has_variances_of_samples(data_range: float) -> None:
    a, b = pair(data_range)
    wanted = [reference.uniform_similarity(x, y, data_range) for x, y in zip(a.numpy(), b.numpy())]
    found = ssim(a, b, window="uniform", data_range=data_range)
    torch.testing.assert_close(found, torch.tensor(wanted).double())


@pytest.mark.parametrize("window", ("gaussian", "uniform"))
def test_the_range_scales_with_the_images_and_may_be_each_images_own(window: str) -> None:
    a, b = pair()
    plain, scaled = ssim(a, b, window=window), ssim(255 * a, 255 * b, window=window, data_range=255)
    torch.testing.assert_close(plain, scaled)
    ranges = own_range(b)
    assert torch.equal(ranges, torch.stack([image.max() - image.min() for image in b]))
    wanted = [ssim(x[None], y[None], window=window, data_range=float(r))[0] for x, y, r in zip(a, b, ranges)]
    torch.testing.assert_close(ssim(a, b, window=window, data_range=ranges), torch.stack(wanted))


def test_what_is_outside_the_mask_has_no_part() -> None:
    (a, b), mask = pair(), torch.zeros(3, 1, 15, 12)
    mask[:, :, 3:9, 2:8] = 1
    other = torch.where(mask > 0, b, rand(3, 3, 15, 12, seed=2).double())
    for window in ("gaussian", "uniform"):
        found = masked_ssim(a, b, mask, window=window)
        torch.testing.assert_close(masked_ssim(a, other, mask, window=window), found)
        torch.testing.assert_close(found, ssim(a * mask, b * mask, window=window))
    with pytest.raises(ValueError, match=r"expected a mask \(B, 1, H, W\) .* got \(3, 15, 12\)"):
        masked_ssim(a, b, mask[:, 0])


def test_unknown_windows_and_small_images_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown window 'square'; choose from gaussian, uniform"):
        ssim(*pair(), window="square")
    with pytest.raises(ValueError, match="7 x 7 pixels at least, got .1, 3, 6, 9."):
        ssim(torch.rand(1, 3, 6, 9), torch.rand(1, 3, 6, 9), window="uniform")


def test_inception_score_is_what_the_formula_says() -> None:
    predictions = (3 * rand(23, 5, seed=3).double()).softmax(1)
    wanted = reference.inception_score(predictions.numpy(), 4)
    assert inception_score(predictions, splits=4) == pytest.approx(wanted, rel=1e-9)
    assert inception_score(predictions[:1].repeat(20, 1)) == pytest.approx((1, 0), abs=1e-9)
    sure = torch.eye(4).repeat(3, 1)
    assert inception_score(sure, splits=3) == pytest.approx((4, 0), abs=1e-9)
    with pytest.raises(ValueError, match="expected splits in 1..3, the number of images, got 10"):
        inception_score(predictions[:3])


@pytest.mark.parametrize("name", LEARNED)
def test_what_a_learned_metric_lacks_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(ImportError, match="need the module 'torchmetrics': pip install torchmetrics"):
        learned_metric(name)
    for module in ("torchmetrics", "torch_fidelity"):  # installed or not, weights are asked for next
        monkeypatch.setitem(sys.modules, module, np)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"{name} needs the weights of its network; expected them in"):
        learned_metric(name)


def test_unknown_learned_metrics_and_files_that_are_not_read_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown metric 'kid'; choose from fid, inception_score, lpips"):
        learned_metric("kid")
    with pytest.raises(ValueError, match="expected weights of lpips in torch.hub's folder, got a.pth"):
        learned_metric("lpips", weights="a.pth")
