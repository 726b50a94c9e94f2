"""The small IPG from a configuration, on a tiny data set: files, resuming, and what it needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from yacs.config import CfgNode

from tests.generators.ipg.networks import CHANNELS, pipeline
from tests.generators.ipg.test_official import under_official_names
from torchreid_genext import checkpoints, config
from torchreid_genext.generators.ipg import IPGPipeline, PoseGuider, TransReID, lora, official
from torchreid_genext.generators.ipg.embedded import PrincipalAutoencoder
from torchreid_genext.recipes.training import ipg

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture
def cfg(reid_data: Path, tmp_path: Path) -> CfgNode:
    """Networks of a few channels, two steps."""
    cfg = config.get_default_config()
    cfg.data.root, cfg.data.sources, cfg.data.save_dir = str(reid_data), ["synthreid_tiny"], str(tmp_path)
    cfg.genext.ipg.generator.update({"widths": [8, 16], "encoder": "osnet_x0_25@32x16"})
    training = cfg.genext.training
    training.image_size, training.steps, training.batch_size = [16, 8], 2, 4
    training.warmup, training.schedule = 0, "constant"
    cfg.genext.training.picture_every, cfg.genext.training.mixed_precision = 0, "no"
    return cfg


def weights(pipe: IPGPipeline) -> dict[str, torch.Tensor]:
    networks = pipe.components.items()
    return {
        f"{name}.{key}".removeprefix("denoiser."): tensor
        for name, network in networks if isinstance(network, torch.nn.Module)
        for key, tensor in network.state_dict().items()
    }  # fmt: skip


def test_training_leaves_a_pipeline_that_draws(cfg: CfgNode) -> None:
    cfg.genext.training.picture_every = 2
    folder = ipg.train(cfg)["ipg"]
    pipe = IPGPipeline.from_pretrained(folder)
    assert (
        isinstance(pipe, DiffusionPipeline) and (folder.parent / "samples/step-00000002-people.png").is_file()
    )
    people = ipg._examples(cfg, "bold")[0]
    assert len(people) > 1 and people.shape[1:] == (3, 16, 8)
    trained = weights(pipe)
    changed = {
        name.split(".")[0]
        for name, tensor in weights(ipg.build(cfg)).items()
        if not torch.equal(tensor, trained[name])
    }
    assert changed == {"reference_unet", "denoising_unet", "pose_guider", "identity_projector"}


FULL: dict[str, object] = {}
SMALL = {"lora_rank": 2, "cache_latents": True, "gradient_checkpointing": True}


@pytest.mark.parametrize(
    "keys", (FULL, pytest.param(SMALL, marks=pytest.mark.slow)), ids=("full", "small memory")
)
def test_resuming_gives_the_pipeline_of_an_uninterrupted_run(
    cfg: CfgNode, tmp_path: Path, keys: dict[str, object]
) -> None:
    cfg.genext.ipg.generator.update(keys)
    whole = weights(IPGPipeline.from_pretrained(ipg.train(cfg)["ipg"]))
    halves = cfg.clone()
    halves.data.save_dir = str(tmp_path / "halves")
    for steps in (1, 2):
        halves.genext.training.steps = steps
        folder = ipg.train(halves)["ipg"]
        halves.genext.training.resume = True
    again = weights(IPGPipeline.from_pretrained(folder))
    assert all(torch.equal(tensor, whole[name]) for name, tensor in again.items())
    if keys:
        untrained = weights(ipg.build(cfg))
        loaded = weights(lora.load(ipg.build(cfg), tmp_path / "ipg" / "lora.safetensors"))
        assert all(torch.equal(tensor, whole[name]) for name, tensor in loaded.items())
        changed = {name for name, tensor in untrained.items() if not torch.equal(tensor, whole[name])}
        unets = [name for name in changed if "unet" in name]
        assert unets and all(
            name.endswith((".to_q.weight", ".to_k.weight", ".to_v.weight", ".to_out.0.weight"))
            for name in unets
        )


def test_a_training_goes_on_only_where_keys_that_shape_it_are_the_same(cfg: CfgNode) -> None:
    ipg.train(cfg)
    cfg.genext.training.resume = cfg.genext.ipg.generator.gradient_checkpointing = True
    ipg.train(cfg)
    for node, key, value in (
        ("ipg.generator", "snr_gamma", 1.0), ("training", "partners", "same_camera"), ("training", "flip", 0.1)
    ):  # fmt: skip
        changed = cfg.clone()
        found = changed.genext.training if node == "training" else changed.genext.ipg.generator
        found[key] = value
        with pytest.raises(ValueError, match=key):
            ipg.train(changed)


def test_encoders_are_named_with_weights_and_size(cfg: CfgNode) -> None:
    for text, size in (("osnet_x0_25", (128, 64)), ("osnet_x0_25@32x16", (32, 16))):
        assert tuple(ipg._encoder(text)[0].image_size) == size
    file = "pretrained/synthreid/osnet_x0_25.safetensors"
    encoder, features = ipg._encoder(f"osnet_x0_25@{file}@64x32")
    wanted = checkpoints.safe_load(file)["conv1.conv.weight"]
    assert features == 512 and torch.equal(encoder.network.state_dict()["conv1.conv.weight"], wanted)
    with pytest.raises(ValueError, match="expected a model as .*name.@weights.*got '@x', in genext.ipg.generator.encoder"):
        ipg._encoder("@x")


def test_channels_weigh_what_they_change_in_the_image() -> None:
    autoencoder = PrincipalAutoencoder(2, 4).fit(torch.rand(8, 3, 16, 8) * 2 - 1)
    shown = [autoencoder.decode(torch.eye(4)[[c], :, None, None]).sample for c in range(4)]
    grey = autoencoder.decode(torch.zeros(1, 4, 1, 1)).sample
    change = torch.stack([(each - grey).norm() for each in shown])
    torch.testing.assert_close(ipg._channel_weights(autoencoder), change / change.mean())
    assert ipg._channel_weights(torch.nn.Identity()) is None


def test_training_starts_from_a_saved_pipeline_of_any_precision(cfg: CfgNode, tmp_path: Path) -> None:
    saved = pipeline().to(torch.float16)
    saved.save_pretrained(tmp_path / "saved")
    cfg.genext.ipg.generator.init = str(tmp_path / "saved")
    cfg.genext.ipg.generator.parts, cfg.genext.training.steps = ["pose_guider"], 1
    trained = weights(IPGPipeline.from_pretrained(ipg.train(cfg)["ipg"]))
    before = weights(saved)
    assert trained.keys() == before.keys()
    changed = {name.split(".")[0] for name, t in trained.items() if not torch.equal(t, before[name].to(t))}
    assert changed == {"pose_guider"} and {t.dtype for t in trained.values()} == {torch.float32}


def test_training_starts_from_the_files_of_the_authors(cfg: CfgNode, tmp_path: Path) -> None:
    wanted, folder = pipeline(), tmp_path / "released"
    folder.mkdir()
    wanted.register_modules(pose_guider=PoseGuider(CHANNELS[0]))
    for name, file in official.FILES.items():
        torch.save(under_official_names(getattr(wanted, name)), folder / file)
    wanted.denoising_unet.save_config(folder / "stable-diffusion-v1-5" / "unet")
    wanted.vae.save_pretrained(folder / "sd-vae-ft-mse")
    cfg.genext.ipg.generator.init = str(folder)
    shape = TransReID((64, 32), width=8, depth=1, heads=2)
    made = weights(ipg.build(cfg, reid_encoder=shape))
    assert made.keys() == weights(wanted).keys()
    assert all(torch.equal(tensor, made[name]) for name, tensor in weights(wanted).items())
    (folder / "IFR.pth").unlink()
    with pytest.raises(FileNotFoundError, match="got no IFR.pth"):
        ipg.train(cfg)


def test_what_does_not_go_together_is_refused(cfg: CfgNode) -> None:
    node, training = cfg.genext.ipg.generator, cfg.genext.training
    node.cache_latents, training.flip = True, 0.5
    with pytest.raises(
        ValueError, match="expected flip 0 with cache_latents, which keeps no mirror .*got 0.5"
    ):
        ipg.train(cfg)
    training.flip, training.image_size = 0.0, [15, 8]
    with pytest.raises(ValueError, match="expected height and width in multiples of 2, got 15 and 8"):
        ipg.train(cfg)


def test_joints_are_needed(cfg: CfgNode) -> None:
    cfg.genext.joints = ["nowhere.csv"]
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        ipg.train(cfg)
    with pytest.raises(ValueError, match="unknown stage 'all'; choose from ipg"):
        ipg.train(cfg, ["all"])
