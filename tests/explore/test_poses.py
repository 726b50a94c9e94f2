from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.generators.ipg.networks import embedded
from tests.recipes.drawing.test_samplers import SMALL, small
from torchreid_genext import config
from torchreid_genext.data.poses import draw_skeleton
from torchreid_genext.data.poses.standard import standard_poses
from torchreid_genext.explore.poses import Poser, pose_of, read_skeleton, skeleton_of, standard_skeletons
from torchreid_genext.generators import build_generator
from torchreid_genext.recipes.drawing import stores


def person(folder: Path) -> tuple[Image.Image, str]:
    image = Image.effect_noise((40, 90), 60).convert("RGB")
    image.save(folder / "person.png")
    return image, str(folder / "person.png")


def poser(folder: Path, name: str, joints: np.ndarray) -> Poser:
    cfg = config.get_default_config()
    network = build_generator(name, **SMALL[name])
    for each in network.parameters():
        each.data += 0.05 * torch.randn_like(each)
    cfg.genext[name].weights = str(network.save(folder / "weights.safetensors"))
    cfg.genext.sampling.pipeline = ""
    return Poser(cfg, lambda path: joints)


@pytest.mark.parametrize("name", ["pg2", "deformable"])
def test_a_person_is_drawn_as_the_generator_draws_it(name: str, tmp_path: Path) -> None:
    image, path = person(tmp_path)
    joints = standard_poses(90, 40)["3"]
    found = poser(tmp_path, name, joints)
    assert found.names == [name]
    skeletons = standard_skeletons()
    made = found.draw(image, [skeletons["1"], skeletons["5"]], name, path=path)
    network = build_generator(name, tmp_path / "weights.safetensors")
    size = network.image_size
    own = pose_of(skeleton_of(joints, (90, 40)), size)[None]
    target = pose_of(skeletons["5"], size)[None]
    expected = network.generate(small(path), torch.tensor(own).float(), torch.tensor(target).float())[0]
    pixels = ((expected + 1) * 127.5).permute(1, 2, 0).numpy()
    assert len(made) == 2 and np.abs(np.array(made[1]).astype(float) - pixels).max() <= 1.01


def test_ipg_draws_as_its_pipeline_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    embedded().save_pretrained(tmp_path / "ipg")
    cfg = config.get_default_config()
    cfg.genext.sampling.pipeline, cfg.genext.sampling.steps = str(tmp_path / "ipg"), 2
    image, _ = person(tmp_path)
    found, skeletons = Poser(cfg, lambda path: None), [*standard_skeletons().values()][:2]
    assert found.names == ["ipg"]
    one, two, other = (found.draw(image, skeletons, "ipg", seed=seed) for seed in (3, 3, 4))
    pipe = stores.load_pipeline(cfg)
    size = one[0].size[::-1]
    drawn = draw_skeleton(pose_of(skeletons[1], size), size, style=pipe.config.pose_style)
    expected = pipe(
        image, drawn, height=size[0], width=size[1], num_inference_steps=2,
        generator=torch.Generator().manual_seed(3),
    ).images[0]  # fmt: skip
    assert np.abs(np.array(one[1]).astype(float) - np.array(expected)).max() <= 1
    assert np.array_equal(one[0], two[0]) and not np.array_equal(one[0], other[0])


def test_who_has_no_joints_is_not_drawn_by_the_deformable_gan(tmp_path: Path) -> None:
    image, path = person(tmp_path)
    found = poser(tmp_path, "deformable", np.full((18, 2), -1.0))
    skeletons = [standard_skeletons()["1"]]
    with pytest.raises(ValueError, match="got an upload; choose a person of the data set"):
        found.draw(image, skeletons, "deformable")
    with pytest.raises(ValueError, match="expected joints of the person"):
        found.draw(image, skeletons, "deformable", path=path)
    with pytest.raises(
        ValueError, match="unknown generator 'ipg'; choose from those with weights: deformable"
    ):
        found.draw(image, skeletons, "ipg")


def test_skeletons_go_there_and_back() -> None:
    for name, pose in standard_poses(128, 64).items():
        skeleton = read_skeleton(json.dumps(skeleton_of(pose, (128, 64))))
        assert np.allclose(pose_of(skeleton, (128, 64)), pose, atol=0.02)
        assert np.allclose(pose_of(standard_skeletons()[name], (128, 64)), pose, atol=0.05)


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "{}", "3", "[1]", json.dumps([[0.5, 0.5]] * 17), json.dumps([[0.5, 1.5]] * 18),
        json.dumps([[0.5, 0.5, 1]] * 18), json.dumps([["a", 1]] * 18), json.dumps([[True, 0]] * 18), "[NaN]",
        str([[float("nan"), 0.5]] * 18).replace("nan", "NaN"), "[" * 100_000, None, 7,
    ],
)  # fmt: skip
def test_what_is_no_skeleton_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected 18 joints"):
        read_skeleton(text)


def test_a_body_has_joints() -> None:
    with pytest.raises(ValueError, match="at least 3 joints"):
        read_skeleton(json.dumps([[0.5, 0.5]] * 2 + [None] * 16))
