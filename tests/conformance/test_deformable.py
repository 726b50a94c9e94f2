"""The Deformable GAN against recordings of the official code."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.conformance.conftest import system_tolerance, vectors
from torchreid_genext.generators import _deformable_parts as parts
from torchreid_genext.generators._deformable_transforms import part_transforms, uniform_transform
from torchreid_genext.generators._deformable_warp import warp
from torchreid_genext.generators.deformable import (
    DeformableGAN,
    Discriminator,
    has_torso,
    nearest_neighbour_map,
    person_mask,
    stickman,
)

SIZE = (128, 64)
FOLDER = vectors("systems")
NAMES = ("posegan_pose.npz", "realpose_market.npz")


def recording(name: str) -> dict[str, np.ndarray]:
    if not (FOLDER / name).is_file():
        pytest.skip(f"needs {name}, of which there is no copy here; tests/generators checks the formulas")
    with np.load(FOLDER / name) as file:
        return dict(file)


def words(name: str) -> str:
    return json.loads((FOLDER / "MANIFEST.json").read_text())[name]["tolerance"]


def tolerance(name: str, what: str) -> float:
    """The number that follows a word of the manifest's sentence; a share where it is in percent."""
    found = re.search(rf"{what}\D*?(\d+(?:\.\d+)?(?:e-\d+)?)(%?)", words(name))
    return float(found[1]) / (100 if found[2] else 1)


def unpacked(masks: np.ndarray) -> np.ndarray:
    """Masks of the width of the images; some recordings keep a bit a pixel."""
    return masks if masks.shape[-1] == SIZE[1] else np.unpackbits(masks, axis=-1)


def poses(recorded: dict[str, np.ndarray], rows: np.ndarray | slice = slice(None)) -> tuple[Tensor, Tensor]:
    return tuple(torch.tensor(recorded[name][rows]) for name in ("kp_from_yx", "kp_to_yx"))


@pytest.mark.parametrize("name", NAMES)
def test_part_masks(name: str) -> None:
    recorded, strangers = recording(name), tolerance("posegan_pose.npz", "except <=")
    wanted = torch.tensor(unpacked(recorded["masks"])).bool()
    found = parts.part_masks(poses(recorded)[1], SIZE)
    assert found.shape == wanted.shape
    assert (found != wanted).sum((2, 3)).max() <= strangers


@pytest.mark.parametrize("name", NAMES)
def test_part_transforms_where_the_official_ones_are_finite_and_invertible(name: str) -> None:
    recorded = recording(name)
    wanted = torch.tensor(recorded["transforms"][..., :6]).unflatten(-1, (2, 3))
    found = part_transforms(*poses(recorded))
    sound = wanted.isfinite().all(-1).all(-1)
    sound[sound.clone()] = torch.linalg.det(wanted[sound][..., :2]).abs() > 1e-9
    nowhere = torch.tensor([[1, 0, 1000], [0, 1, 1000]], dtype=torch.float64)
    assert (found[~sound] == nowhere).all()
    error = (found - wanted).abs() / wanted.abs().clamp_min(1)
    assert sound.any() and error[sound].max() <= tolerance("posegan_pose.npz", "transforms")


def test_uniform_transform() -> None:
    recorded = recording("posegan_pose.npz")
    wanted = torch.tensor(recorded["uniform_transform"][:, None, :6]).unflatten(-1, (2, 3))
    error = (uniform_transform(*poses(recorded)) - wanted).abs() / wanted.abs().clamp_min(1)
    assert error.max() <= tolerance("posegan_pose.npz", "transforms")


def test_heatmaps_and_the_joints_that_they_stand_for() -> None:
    recorded = recording("posegan_pose.npz")
    wanted = torch.tensor(recorded["heatmaps"]).permute(0, 3, 1, 2)
    found = parts.heatmaps(poses(recorded)[0][: len(wanted)], wanted.shape[2:])
    assert (found - wanted).abs().max() <= tolerance("posegan_pose.npz", "heat maps")
    assert torch.equal(parts.peaks(wanted), torch.tensor(recorded["decoded_yx"]))


def test_length_of_the_torso_and_whether_it_is_seen() -> None:
    recorded = recording("posegan_pose.npz")
    scale = parts.torso_scale(poses(recorded)[0])
    np.testing.assert_allclose(scale, recorded["st_distance"], rtol=system_tolerance("posegan_pose.npz"))
    seen = torch.cat([has_torso(each) for each in poses(recorded)])
    assert seen.sum() == recorded["check_valid"].sum() and len(seen) == len(recorded["check_valid"])


def test_rectangle_of_a_limb() -> None:
    recorded = recording("posegan_pose.npz")
    keypoints = poses(recorded)[0][:1]
    ends = np.stack([recorded["polygon_from"], recorded["polygon_to"]])
    (limb,) = [
        i for i, joints in enumerate(parts.LIMBS) if (keypoints[0, list(joints)].numpy() == ends).all()
    ]
    rectangles, there = parts.limb_rectangles(keypoints, 0.1)
    assert there[0, limb]
    np.testing.assert_allclose(rectangles[0, limb].flip(-1), recorded["polygon_inc_to_0p1"], rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_mask_of_a_person(name: str) -> None:
    recorded = recording(name)
    wanted = torch.tensor(unpacked(recorded["ma_mask"])).bool()
    # Recordings are of the first pose or of the second one
    differences = min((person_mask(each, SIZE) != wanted).sum((1, 2)).max() for each in poses(recorded))
    assert differences <= tolerance("posegan_pose.npz", "except <=")


def test_stickman() -> None:
    recorded = recording("posegan_pose.npz")
    wanted = torch.tensor(recorded["stickman"]).permute(0, 3, 1, 2)
    assert torch.equal(stickman(torch.tensor(recorded["stickman_kp"]), wanted.shape[2:]), wanted)


def warped_levels() -> list[tuple[str, str]]:
    if not (FOLDER / "posegan_warp_nn.npz").is_file():
        return []
    names = np.load(FOLDER / "posegan_warp_nn.npz").files
    return [tuple(name.split("/")) for name in names if re.fullmatch(r"lvl\d+/(max|avg|none_nomask)", name)]


@pytest.mark.parametrize(("level", "how"), warped_levels())
def test_features_are_carried_as_recorded(level: str, how: str) -> None:
    recorded, recorded_poses = recording("posegan_warp_nn.npz"), recording("posegan_pose.npz")
    keypoints, targets = poses(recorded_poses, recorded["pairs"])
    features, wanted = (
        torch.tensor(recorded[f"{level}/{name}"]).permute(0, 3, 1, 2) for name in ("feat", how)
    )
    transforms, masks = part_transforms(keypoints, targets), parts.part_masks(targets, SIZE)
    if how == "none_nomask":
        copies = [warp(features, each, torch.ones_like(masks[:, :1])) for each in transforms.split(1, 1)]
        found = torch.cat(copies, 1)
    else:
        found = warp(features, transforms, masks, how=how)
    name = "posegan_warp_nn.npz"
    assert found.shape == wanted.shape
    assert ((found - wanted).abs() > tolerance(name, "others")).float().mean() <= tolerance(name, "<=")


def windows() -> list[int]:
    if not (FOLDER / "posegan_warp_nn.npz").is_file():
        return []
    return [
        int(found) for found in re.findall(r"nn/map(\d+)", " ".join(np.load(FOLDER / "posegan_warp_nn.npz")))
    ]


@pytest.mark.parametrize("window", windows())
def test_nearest_neighbour_loss(window: int) -> None:
    recorded = recording("posegan_warp_nn.npz")
    real, generated = (
        torch.tensor(recorded[f"nn/{name}"]).permute(0, 3, 1, 2) for name in ("reference", "target")
    )
    found = nearest_neighbour_map(real, generated, window=window)
    name = "posegan_warp_nn.npz"
    np.testing.assert_allclose(found, recorded[f"nn/map{window}"], atol=tolerance(name, "nn"))
    np.testing.assert_allclose(found.mean(), recorded[f"nn/mean{window}"], atol=tolerance(name, "nn"))


def handed_out(recorded: dict[str, np.ndarray], case: str, order: list[nn.Module]) -> None:
    """Give layers their recorded weights, which are in the order of the layers and of Keras's shapes."""
    weights = iter([torch.tensor(recorded[name]) for name in recorded if name.startswith(f"{case}/w/")])
    for parameter in (each for layer in order for each in layer.parameters()):
        given = next(weights)
        given = given.permute(3, 2, 0, 1) if given.ndim == 4 else given
        assert parameter.shape == given.shape
        parameter.data.copy_(given)
    assert next(weights, None) is None


def layers(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if list(layer.parameters(recurse=False))]


def kernels(recorded: dict[str, np.ndarray], case: str) -> list[tuple[int, ...]]:
    return [recorded[n].shape for n in recorded if n.startswith(f"{case}/w/") and n.endswith("kernel")]


def generator(recorded: dict[str, np.ndarray], case: str) -> DeformableGAN:
    encoders, shapes = 2 if case == "mask" else 1, kernels(recorded, case)
    first = encoders * len(shapes) // (encoders + 1)  # of the decoder, which has as many as an encoder
    widths = {
        "encoder": [shape[3] for shape in shapes[:first:encoders]],
        "decoder": [shape[2] for shape in shapes[first:-1]],
    }
    made = DeformableGAN(SIZE, skips="deformable" if encoders == 2 else "none", **widths)
    sides = [made.appearance, made.pose] if encoders == 2 else [made.encoder]
    turns = [layer for turn in zip(*map(layers, sides), strict=True) for layer in turn]
    handed_out(recorded, case, turns + layers(made.decoder))
    return made.eval()


@pytest.mark.parametrize("case", ("mask", "none"))
def test_generator_draws_what_the_official_one_draws(case: str) -> None:
    recorded, recorded_poses = recording("posegan_networks_small.npz"), recording("posegan_pose.npz")
    images, wanted = (
        torch.tensor(recorded[f"{case}/{name}"]).permute(0, 3, 1, 2) for name in ("img_from", "out")
    )
    found = generator(recorded, case).generate(images, *poses(recorded_poses, recorded[f"{case}/pairs"]))
    error = (found - wanted).abs() > system_tolerance("posegan_networks_small.npz")
    assert found.shape == wanted.shape
    assert error.any(1).float().mean() <= 1 - tolerance("posegan_networks_small.npz", ">=")


def test_discriminator_judges_as_the_official_one() -> None:
    recorded, recorded_poses = recording("posegan_networks_small.npz"), recording("posegan_pose.npz")
    judge = Discriminator(SIZE, widths=[shape[3] for shape in kernels(recorded, "disc")[:-1]])
    handed_out(recorded, "disc", layers(judge))
    images, others = (
        torch.tensor(recorded[f"none/{name}"]).permute(0, 3, 1, 2) for name in ("img_from", "out")
    )
    keypoints, targets = poses(recorded_poses, recorded["none/pairs"])
    found, wanted = judge(images, keypoints, others, targets), torch.tensor(recorded["disc/out"])
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= system_tolerance("posegan_networks_small.npz")
