"""Adversarial generators from a configuration, on a tiny data set: files, resuming, and what they need."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from yacs.config import CfgNode

from torchreid_genext import compat, config
from torchreid_genext.generators import build_generator
from torchreid_genext.recipes.drawing import stores
from torchreid_genext.recipes.training import gan

pytestmark = pytest.mark.usefixtures("registered")

KINDS = {"pg2": "pg2", "deformable": "deformable", "camstyle": "camstyle", "pair": "camstyle"}


@pytest.fixture
def cfg(reid_data: Path, tmp_path: Path) -> CfgNode:
    """Networks of a few channels, two steps of each stage."""
    cfg = config.get_default_config()
    cfg.data.root, cfg.data.sources, cfg.data.save_dir = str(reid_data), ["synthreid_tiny"], str(tmp_path)
    cfg.genext.training.mixed_precision, cfg.genext.training.picture_every = "no", 2
    cfg.genext.training.image_size = [32, 16]
    cfg.genext.pg2.update({"channels": 4, "discriminator_channels": 2})
    cfg.genext.deformable.update({"widths": [4, 4, 4], "discriminator_channels": [4, 4]})
    cfg.genext.camstyle.update({"channels": 4, "blocks": 1, "discriminator_channels": 4, "layers": 1})
    return with_steps(cfg, 2)


def with_steps(cfg: CfgNode, steps: int) -> CfgNode:
    cfg.genext.training.steps = steps
    cfg.genext.training.stages = [f"{name}(batch_size=4)" for name in ("pg2_stage1", "pg2_stage2", "deformable")]
    return cfg


def chosen(cfg: CfgNode, kind: str) -> CfgNode:
    cfg.genext.generator = KINDS[kind]
    cfg.genext.camstyle.pair = [0, 1] if kind == "pair" else []
    return cfg


def weights(path: Path) -> dict[str, torch.Tensor]:
    kind = "camstyle_pair" if path.stem.startswith("pair") else path.stem
    return build_generator(kind, path).state_dict()


@pytest.mark.parametrize("kind", KINDS)
def test_resuming_gives_the_weights_of_an_uninterrupted_run(cfg: CfgNode, kind: str, tmp_path: Path) -> None:
    cfg = chosen(cfg, kind)
    cfg.data.save_dir = str(tmp_path / kind / "whole")
    (path,) = gan.train(cfg).values()
    whole = weights(path)
    assert [*Path(cfg.data.save_dir).rglob("samples/step-00000002-*.png")]
    halves = cfg.clone()
    halves.data.save_dir = str(tmp_path / kind / "halves")
    gan.train(with_steps(halves, 1)) if kind != "pg2" else in_the_midst_of_stages(halves)
    halves.genext.training.resume = True
    (path,) = gan.train(with_steps(halves, 2)).values()
    found = weights(path)
    assert found.keys() == whole.keys()
    assert [name for name, tensor in found.items() if not torch.equal(tensor, whole[name])] == []


def in_the_midst_of_stages(cfg: CfgNode) -> None:
    """Interrupt stage I after a step, since nothing can judge stage II, and then stage II after one."""
    first = with_steps(cfg.clone(), 1)
    first.genext.pg2.discriminator_channels = 0  # leaves nothing to judge with
    with pytest.raises(RuntimeError, match="weight of size \\[0, 3, 5, 5\\]"):
        gan.train(first)
    second = with_steps(cfg.clone(), 2)
    second.genext.training.resume = True
    second.genext.training.stages.append("pg2_stage2(steps=1)")
    gan.train(second)


def test_pairs_of_cameras_lie_side_by_side(cfg: CfgNode, reid_data: Path) -> None:
    cfg = with_steps(chosen(cfg, "pair"), 1)
    for pair in ([0, 1], [0, 2]):
        cfg.genext.camstyle.pair = pair
        gan.train(cfg)
    folder = Path(cfg.data.save_dir, "camstyle")
    assert sorted(path.name for path in folder.glob("*.safetensors")) == [
        "pair1_2.safetensors", "pair1_3.safetensors"
    ]  # fmt: skip
    cfg.genext.camstyle.weights = str(folder)
    drawing = stores.Drawing(cfg, "synthreid_tiny")
    assert drawing.poses == ["camera1", "camera2", "camera3"]
    dataset = compat.init_image_dataset("synthreid_tiny", root=str(reid_data), verbose=False)
    styles = {
        camera: [
            work.pose
            for work in drawing.works("train", [next(i[0] for i in dataset.train if i[2] == camera)])
        ]
        for camera in range(4)
    }
    assert styles == {0: ["camera2", "camera3"], 1: ["camera1"], 2: ["camera1"], 3: []}


@pytest.mark.parametrize(("batch", "images"), [(0, 2), (6, 1), (18, 3), (60, 10)])
def test_a_batch_has_as_many_images_of_each_camera(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch, batch: int, images: int
) -> None:
    found = []
    monkeypatch.setattr(gan, "run", lambda cfg, task, source, *others: found.append((task, source)))
    cfg.genext.training.batch_size = batch
    gan.train(cfg, ["camstyle"])
    ((task, source),) = found
    cameras = next(source(0, 0, 1)).camids
    assert cameras.bincount().tolist() == 6 * [images]
    assert task.modules["pool"].size == max(50, 6 * images)


def test_a_batch_of_cameras_is_a_multiple_of_them(cfg: CfgNode) -> None:
    cfg.genext.training.batch_size = 8
    with pytest.raises(ValueError, match="expected genext.training.batch_size in multiples of 6.*, got 8"):
        gan.train(cfg, ["camstyle"])


def test_keys_build_the_networks(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = []
    monkeypatch.setattr(gan, "run", lambda cfg, task, *others: tasks.append(task))
    cfg.genext.deformable.widths, cfg.genext.pg2.official = [4, 6, 8], False
    gan.train(cfg, ["pg2", "deformable", "camstyle"])
    gan.train(chosen(cfg, "pair"))
    assert tasks[1].modules["discriminator"].arrangement == "pairwise" and tasks[1].generator.radius == 1
    _, _, deformable, joint, pair = (task.modules for task in tasks)
    assert deformable["generator"].config["decoder"] == [8, 6]
    norms = [[type(each).__name__ for each in one["discriminator"].modules()] for one in (joint, pair)]
    assert ["_InstanceNorm" in each for each in norms] == [False, True]


def test_unknown_generators_are_named(cfg: CfgNode) -> None:
    with pytest.raises(ValueError, match="unknown adversarial generator 'ipg'; choose from pg2, deformable"):
        gan.train(cfg)


def test_partners_are_of_the_rule_that_is_named(cfg: CfgNode) -> None:
    cfg.genext.training.partners = "nobody"
    with pytest.raises(ValueError, match="unknown partners 'nobody'"):
        gan.train(cfg, ["pg2"])


def test_people_without_torso_are_left_out_where_it_is_needed(cfg: CfgNode) -> None:
    cfg = chosen(cfg, "deformable")
    all_of_them, those = gan._PG2(cfg, "pg2"), gan._Deformable(cfg, "deformable")
    torso = those.keypoints[:, [2, 5, 8, 11]]
    assert (torso >= 0).all() and len(those.images) < len(all_of_them.images)
