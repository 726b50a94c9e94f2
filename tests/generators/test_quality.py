"""Likeness of images against formulas written out."""

from __future__ import annotations

import pytest
import torch

from tests import reference
from torchreid_genext.generators.quality import l1, ssim


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
