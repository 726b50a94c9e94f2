"""How alike two images are, per image and differentiable; and how lifelike many are, by learned features.

Structural similarity (Wang et al., 2004) is not one number: PG2 (Ma et al., NIPS 2017) looks through a square
of 7 pixels, the Deformable GAN (Siarohin et al., CVPR 2018) through a Gaussian of 11, as Wang did.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "LEARNED", "WINDOWS", "inception_score", "l1", "learned_metric", "masked_ssim", "own_range", "ssim",
]  # fmt: skip

WINDOWS = ("gaussian", "uniform")
LEARNED = ("fid", "inception_score", "lpips")
_SIDES, _SIGMA = {"gaussian": 11, "uniform": 7}, 1.5  # of windows, in pixels; of the Gaussian
_STABILITY = (0.01**2, 0.03**2)  # Wang's constants, for a range of 1
# Files without which torchmetrics would ask the network, as torch.hub names them.
_WEIGHTS = {
    "fid": "weights-inception-2015-12-05-6726825d.pth",
    "inception_score": "weights-inception-2015-12-05-6726825d.pth",
    "lpips": "alexnet-owt-7be5be79.pth",
}


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference (B,) of images (B, C, H, W)."""
    _check_pair(a, b)
    return (a - b).abs().mean(dim=(1, 2, 3))


def ssim(a: Tensor, b: Tensor, *, window: str = "gaussian", data_range: float | Tensor = 1.0) -> Tensor:
    """Structural similarity of images (B, C, H, W).

    Args:
        a, b: of any range.
        window: ``gaussian`` of 11 x 11 pixels, sigma 1.5 (Wang; the Deformable GAN), or ``uniform`` of 7 x 7
            with sample variances (PG2).
        data_range: largest value less the smallest that images can have, one for all or one each (B,). The
            Deformable GAN's authors take the `own_range` of what was generated, so that a picture without
            contrast is judged more strictly. torchmetrics has neither this nor sample variances.

    Returns:
        (B,), at most 1: the mean over channels and over all places where the window lies inside.

    Raises:
        ValueError: if the shapes differ, the window is unknown, or images are smaller than it.
    """
    _check_pair(a, b)
    side = _side(window)
    if min(a.shape[2:]) < side:
        raise ValueError(f"expected images of {side} x {side} pixels at least, got {tuple(a.shape)}")
    mean_a, mean_b, aa, bb, ab = _blurred(torch.stack([a, b, a * a, b * b, a * b]), window)
    sample = side**2 / (side**2 - 1) if window == "uniform" else 1.0
    both, spread = sample * (ab - mean_a * mean_b), sample * (aa - mean_a**2 + bb - mean_b**2)
    square = torch.as_tensor(data_range, dtype=a.dtype, device=a.device).reshape(-1, 1, 1, 1) ** 2
    first, second = (constant * square for constant in _STABILITY)
    lights = (2 * mean_a * mean_b + first) / (mean_a**2 + mean_b**2 + first)
    return (lights * (2 * both + second) / (spread + second)).mean(dim=(1, 2, 3))


def masked_ssim(a: Tensor, b: Tensor, mask: Tensor, **options: Any) -> Tensor:
    """`ssim` (B,) of images whose background is 0, which counts as alike.

    Both papers' mask-SSIM, each with its `window` and its mask. Zero is black in images that begin at 0.

    Args:
        a, b: (B, C, H, W).
        mask: (B, 1, H, W), 1 on the body.
        options: of `ssim`.

    Raises:
        ValueError: as `ssim`, or if the mask has another shape.
    """
    _check_pair(a, b)
    if mask.shape != (len(a), 1, *a.shape[2:]):
        raise ValueError(f"expected a mask (B, 1, H, W) of images {tuple(a.shape)}, got {tuple(mask.shape)}")
    return ssim(a * mask, b * mask, **options)


def own_range(images: Tensor) -> Tensor:
    """Largest value less the smallest of each image (B, C, H, W), (B,); 0 for a blank one."""
    return images.amax(dim=(1, 2, 3)) - images.amin(dim=(1, 2, 3))


def inception_score(predictions: Tensor, *, splits: int = 10) -> tuple[float, float]:
    """How sure a classifier is of each image, and how different images are (Salimans et al., NIPS 2016).

    Args:
        predictions: probabilities (N, classes) of all images, in their order.
        splits: consecutive parts of the images that are scored by themselves.

    Returns:
        Mean and standard deviation over the parts; 1 at least, the number of classes at most.

    Raises:
        ValueError: if there are fewer images than parts.
    """
    if not 1 <= splits <= len(predictions):
        raise ValueError(f"expected splits in 1..{len(predictions)}, the number of images, got {splits}")
    ends = [part * len(predictions) // splits for part in range(splits + 1)]
    parts = [predictions[start:end].double() for start, end in zip(ends, ends[1:])]
    scores = torch.stack([_divergence(part).exp() for part in parts])
    return scores.mean().item(), scores.std(correction=0).item()


def _divergence(part: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of predictions (N, classes) from their average; 0 log 0 is 0."""
    return (torch.special.entr(part.mean(0)).sum() - torch.special.entr(part).sum(1).mean()).clamp(min=0)


def learned_metric(name: str, *, weights: str | Path = "") -> nn.Module:
    """A metric of torchmetrics that judges by a network's features; nothing is fetched.

    Args:
        name: ``fid`` (Heusel et al., 2017), ``inception_score`` (Salimans et al., 2016) or ``lpips`` with
            AlexNet (Zhang et al., 2018).
        weights: file of the network; by default where torch.hub would keep it.

    Returns:
        Its ``update`` takes images (B, 3, H, W) float in [0, 1]: for ``fid`` with ``real=True`` or ``False``,
        for ``lpips`` two batches; ``compute`` gives the result.

    Raises:
        ImportError: if torchmetrics, or what it needs, is missing.
        FileNotFoundError: if there are no weights.
        ValueError: if the name is unknown, or AlexNet's weights shall be another file.
    """
    if name not in LEARNED:
        raise ValueError(f"unknown metric {name!r}; choose from {', '.join(LEARNED)}")
    if name == "lpips" and weights:
        raise ValueError(f"expected weights of lpips in torch.hub's folder, got {weights}")
    _require("torchmetrics", *([] if name == "lpips" else ["torch_fidelity"]))
    path = Path(weights) if weights else Path(torch.hub.get_dir(), "checkpoints", _WEIGHTS[name])
    if not path.is_file():
        raise FileNotFoundError(f"{name} needs the weights of its network; expected them in {path}")
    return _build(name, str(path))


def _require(*modules: str) -> None:
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            cure = "pip install torchmetrics torch-fidelity"
            raise ImportError(f"learned metrics need the module {module!r}: {cure}") from error


def _build(name: str, weights: str) -> nn.Module:
    """Of torchmetrics; what its constructors take differs."""
    from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
    from torchmetrics.image.inception import InceptionScore
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    if name == "fid":
        return FrechetInceptionDistance(normalize=True, feature_extractor_weights_path=weights)
    if name == "lpips":
        return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
    network = NoTrainInceptionV3("inception-v3-compat", ["logits_unbiased"], weights)
    return InceptionScore(network, normalize=True)


def _side(window: str) -> int:
    if window not in _SIDES:
        raise ValueError(f"unknown window {window!r}; choose from {', '.join(WINDOWS)}")
    return _SIDES[window]


def _blurred(x: Tensor, window: str) -> Tensor:
    """(..., H, W) under the window, smaller by its side less one."""
    side = _SIDES[window]
    places = torch.arange(side, device=x.device, dtype=x.dtype) - side // 2
    weights = (-0.5 * (places / _SIGMA) ** 2).exp() if window == "gaussian" else torch.ones_like(places)
    weights = weights / weights.sum()
    flat = x.reshape(-1, 1, *x.shape[-2:])
    flat = F.conv2d(F.conv2d(flat, weights.reshape(1, 1, 1, -1)), weights.reshape(1, 1, -1, 1))
    return flat.reshape(*x.shape[:-2], *flat.shape[-2:])


def _check_pair(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(f"expected two batches (B, C, H, W), got {tuple(a.shape)} and {tuple(b.shape)}")
