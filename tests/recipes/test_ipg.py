"""The small IPG from a configuration, on a tiny data set: files, resuming, and what it needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from yacs.config import CfgNode

from torchreid_genext import config
from torchreid_genext.generators.ipg import IPGPipeline
from torchreid_genext.recipes import ipg

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture
def cfg(reid_data: Path, tmp_path: Path) -> CfgNode:
    """Networks of a few channels, two steps."""
    cfg = config.get_default_config()
    cfg.data.root, cfg.data.sources, cfg.data.save_dir = str(reid_data), ["synthreid_tiny"], str(tmp_path)
    node = cfg.genext.ipg.generator
    node.height, node.width, node.widths, node.attention = 16, 8, [8, 16], 1
    node.heads, node.tokens, node.token_width = 2, 2, 8
    node.encoder_weights, node.encoder_size = "", [32, 16]
    node.train.steps, node.train.batch_size = 2, 4
    cfg.genext.training.picture_every, cfg.genext.training.mixed_precision = 2, "no"
    return cfg


def weights(pipe: IPGPipeline) -> dict[str, torch.Tensor]:
    networks = pipe.components.items()
    return {
        f"{name}.{key}": tensor
        for name, network in networks if isinstance(network, torch.nn.Module)
        for key, tensor in network.state_dict().items()
    }  # fmt: skip


def test_training_leaves_a_pipeline_that_draws(cfg: CfgNode) -> None:
    folder = ipg.train(cfg)["ipg"]
    pipe = IPGPipeline.from_pretrained(folder)
    assert (
        isinstance(pipe, DiffusionPipeline) and (folder.parent / "samples/step-00000002-people.png").is_file()
    )
    people = ipg._examples(cfg, *ipg._images(cfg, "train"))[0]
    assert len(people) > 1 and people.shape[1:] == (3, 16, 8)
    trained = weights(pipe)
    changed = {
        name.split(".")[0]
        for name, tensor in weights(ipg.build(cfg)).items()
        if not torch.equal(tensor, trained[name])
    }
    assert changed == {"reference_unet", "denoising_unet", "pose_guider", "identity_projector"}


def test_resuming_gives_the_pipeline_of_an_uninterrupted_run(cfg: CfgNode, tmp_path: Path) -> None:
    whole = weights(IPGPipeline.from_pretrained(ipg.train(cfg)["ipg"]))
    halves = cfg.clone()
    halves.data.save_dir = str(tmp_path / "halves")
    for steps in (1, 2):
        halves.genext.ipg.generator.train.steps = steps
        again = weights(IPGPipeline.from_pretrained(ipg.train(halves)["ipg"]))
        halves.genext.training.resume = True
    assert all(torch.equal(tensor, whole[name]) for name, tensor in again.items())


def test_joints_are_needed(cfg: CfgNode) -> None:
    cfg.genext.ipg.generator.poses = "nowhere.csv"
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        ipg.train(cfg)
    with pytest.raises(ValueError, match="unknown stage 'all'; choose from ipg"):
        ipg.train(cfg, ["all"])
