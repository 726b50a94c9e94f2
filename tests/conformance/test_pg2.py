"""PG2 against recordings of the official code: poses, masks, both networks, losses, and its metrics."""

from __future__ import annotations

import json
import re
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.conformance.conftest import system_tolerance, vectors
from torchreid_genext.evaluation.quality import inception_score, masked_ssim, own_range, ssim
from torchreid_genext.generators.pg2 import (
    PG2,
    Verdict,
    adversarial_loss,
    discriminator_loss,
    pose_maps,
    pose_mask,
    reconstruction_loss,
    refinement_loss,
)

METRICS, NETWORKS = "pg2_pose_loss_metrics.npz", "pg2_networks_small.npz"


@cache
def recorded(file: str) -> dict[str, np.ndarray]:
    path = vectors("systems") / file
    if not path.is_file():
        pytest.skip(f"needs {file} of the recordings, which are not beside the repository")
    with np.load(path) as arrays:
        return dict(arrays)


def tolerance(what: str) -> float:
    """The number behind a word in the manifest's sentence on losses and metrics."""
    manifest = json.loads((vectors("systems") / "MANIFEST.json").read_text())
    return float(re.search(rf"{what}\D* (\d+e-\d+)", manifest[METRICS]["tolerance"])[1])


def tensor(file: str, name: str) -> Tensor:
    return torch.from_numpy(recorded(file)[name])


def chw(file: str, name: str) -> Tensor:
    return tensor(file, name).movedim(-1, 1)


def keypoints() -> Tensor:
    return tensor(METRICS, "keypoints_yx")


def size(name: str) -> tuple[int, int]:
    return recorded(METRICS)[name].shape[1:3]


def names(pattern: str) -> list[str]:
    path = vectors("systems") / METRICS
    found = np.load(path).files if path.is_file() else []
    return [name for name in found if re.fullmatch(pattern, name)]


def radius(name: str) -> int:
    return int(re.search(r"_r(\d+)", name)[1])


@pytest.mark.parametrize("name", names(r"heat_solid_r\d+"))
def test_discs_are_the_recorded_ones(name: str) -> None:
    wanted = 2 * chw(METRICS, name).float() - 1
    assert torch.equal(pose_maps(keypoints()[: len(wanted)], size(name), radius=radius(name)), wanted)


def test_the_network_is_fed_the_recorded_maps() -> None:
    wanted = chw(METRICS, "net_input_pose").float()
    assert torch.equal(pose_maps(keypoints()[: len(wanted)], size("net_input_pose")), wanted)
    places = recorded(METRICS)["sparse_index_sample0"]
    found = pose_maps(keypoints()[:1], size("heat_solid_r4")).movedim(1, -1).flatten()
    assert np.array_equal(np.flatnonzero(found > 0), np.sort(places))


@pytest.mark.parametrize("name", names(r"heat_gauss_r\d+"))
def test_soft_discs_are_the_recorded_ones(name: str) -> None:
    wanted = chw(METRICS, name)
    found = pose_maps(keypoints()[: len(wanted)], size(name), radius=radius(name), sigma=4.0)
    torch.testing.assert_close((found + 1) / 2, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", names(r"mask_r\d+"))
def test_masks_are_the_recorded_ones(name: str) -> None:
    wanted = tensor(METRICS, name)[:, None].float()
    assert torch.equal(pose_mask(keypoints()[: len(wanted)], size(name), radius=radius(name)), wanted)


def layers(network: nn.Module) -> list[nn.Module]:
    """Convolutions and matrices in the order in which they are used, which is the recorded one."""
    names = ("stem", "down", "encode", "decode", "up", "head")
    found = []
    for name in names:
        part = getattr(network, name, None)
        between = {"down": "halve", "up": "narrow"}.get(name)
        for number, each in enumerate(part if isinstance(part, nn.ModuleList) else [part or nn.Module()]):
            found += [layer for layer in each.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
            found += list(getattr(network, between, []))[number : number + 1] if between else []
    return found


def fill(network: nn.Module, prefix: str, small: tuple[int, int, int] | None = None) -> None:
    """Put recorded weights in, all of them; those of matrices are for (H, W, C) in that order."""
    weights = {name: tensor(NETWORKS, name) for name in recorded(NETWORKS) if name.startswith(f"{prefix}/")}
    own = layers(network)
    assert len(weights) == 2 * len(own) == sum(1 for _ in network.parameters())
    for number, layer in enumerate(own):
        kernel, bias = (weights[f"{prefix}/{number:02d}/{part}"] for part in ("kernel", "bias"))
        if layer is getattr(network, "encode", None):
            kernel = kernel.unflatten(0, (*small[1:], -1)).permute(3, 2, 0, 1).flatten(1)
        elif layer is getattr(network, "decode", None):
            kernel = kernel.unflatten(1, (*small[1:], -1)).permute(3, 1, 2, 0).flatten(0, 2)
            bias = bias.unflatten(0, (*small[1:], -1)).permute(2, 0, 1).flatten()
        else:
            kernel = kernel.permute(3, 2, 0, 1)
        assert layer.weight.shape == kernel.shape and layer.bias.shape == bias.shape
        layer.weight.data.copy_(kernel)
        layer.bias.data.copy_(bias)


@pytest.fixture(scope="module")
def network() -> PG2:
    arrays = recorded(NETWORKS)
    made = PG2(arrays["x"].shape[1:3], width=int(arrays["hidden"]), code=int(arrays["z_num"])).eval()
    fill(made.stage1, "g1", made.stage1.small)
    fill(made.stage2, "g2")
    return made


@torch.no_grad()
def test_both_stages_answer_as_recorded(network: PG2) -> None:
    images, poses = chw(NETWORKS, "x"), chw(NETWORKS, "pose").float()
    codes = []
    hook = network.stage1.encode.register_forward_hook(lambda _, inputs, output: codes.append(output))
    coarse = network.stage1(images, poses)
    hook.remove()
    near = {"rtol": 0, "atol": system_tolerance(NETWORKS)}
    torch.testing.assert_close(codes[0], tensor(NETWORKS, "z"), **near)
    torch.testing.assert_close(coarse, chw(NETWORKS, "g1"), **near)
    torch.testing.assert_close(network.stage2(coarse, images), chw(NETWORKS, "diff"), **near)
    torch.testing.assert_close(network.refined(coarse, images), chw(NETWORKS, "g2"), **near)


def logits() -> dict[str, Tensor]:
    names = ("real_target", "fake_x", "fake_g1", "fake_g2")
    return {name: tensor(METRICS, f"logit_{name}") for name in names}


def number(name: str) -> float:
    return float(recorded(METRICS)[name])


def test_losses_are_the_recorded_ones() -> None:
    coarse, target, mask = (chw(METRICS, f"loss_{name}") for name in ("g1", "target", "mask"))
    near = {"abs": tolerance("losses")}
    stage1 = reconstruction_loss(coarse, target, mask)
    assert float(stage1) == pytest.approx(number("loss_stage1"), **near)
    plain = reconstruction_loss(coarse, target, torch.zeros_like(mask))
    assert float(stage1 - plain) == pytest.approx(number("loss_pose_mask"), **near)
    real, reference, first, last = logits().values()
    assert float(adversarial_loss(last)) == pytest.approx(number("gan_gen_cost"), **near)
    assert float(adversarial_loss(last - first)) == pytest.approx(number("gan_g2_g1_cost"), **near)
    verdict = Verdict(real, last, (reference,))
    assert float(discriminator_loss(verdict)) == pytest.approx(number("gan_disc_cost"), **near)
    both, _ = refinement_loss(last, coarse, target, mask)
    assert float(both) == pytest.approx(number("gan_gen_cost") + 10 * number("loss_stage1"), abs=1e-5)


def pair() -> tuple[Tensor, Tensor]:
    return chw(METRICS, "ssim_a").double(), chw(METRICS, "ssim_b").double()


def test_similarity_is_the_recorded_one_of_pg2_and_of_the_deformable_gan() -> None:
    (a, b), near = pair(), {"rtol": 0, "atol": tolerance("SSIM")}
    found = ssim(a, b, window="uniform", data_range=255)
    torch.testing.assert_close(found, tensor(METRICS, "ssim_pg2"), **near)
    found = ssim(a, b, data_range=own_range(b))
    torch.testing.assert_close(found, tensor(METRICS, "ssim_defgan"), **near)


def test_similarity_under_the_mask_is_the_recorded_one() -> None:
    (a, b), wanted = pair(), tensor(METRICS, "ssim_mask_pg2")
    found = masked_ssim(a, b, tensor(METRICS, "mask_r4")[: len(a), None], window="uniform", data_range=255)
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance("SSIM"))


def test_inception_score_is_the_recorded_one() -> None:
    found = inception_score(tensor(METRICS, "is_preds"))
    assert found == pytest.approx((number("is_mean"), number("is_std")), abs=tolerance("IS"))
