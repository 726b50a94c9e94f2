"""Stages of generative identity from a configuration, on a tiny data set: files, dependencies, resuming."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from yacs.config import CfgNode

from torchreid_genext import config
from torchreid_genext.generators.identity import IdentityGenerator
from torchreid_genext.generators.inverter import Inverter, NoiseInverter
from torchreid_genext.generators.prior import CodePrior
from torchreid_genext.recipes.training import identity

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture
def cfg(reid_data: Path, tmp_path: Path) -> CfgNode:
    """Networks of a few channels, two steps a stage."""
    cfg = config.get_default_config()
    cfg.data.root, cfg.data.sources, cfg.data.save_dir = str(reid_data), ["synthreid_tiny"], str(tmp_path)
    cfg.genext.identity.height, cfg.genext.identity.width, cfg.genext.identity.steps = 16, 8, 2
    cfg.genext.prior.width, cfg.genext.prior.steps = 8, 2
    cfg.genext.inverter.hidden, cfg.genext.inverter.pool = [8], 16
    for node in (cfg.genext.identity, cfg.genext.prior, cfg.genext.inverter, cfg.genext.cross):
        node.train.steps, node.train.batch_size = 2, 8
    for node in (cfg.genext.identity, cfg.genext.inverter):
        node.widths = [4, 6, 8]
    cfg.genext.training.picture_every, cfg.genext.training.mixed_precision = 0, "no"
    return cfg


def test_all_stages_leave_networks_that_load(cfg: CfgNode) -> None:
    folders = identity.train(cfg, identity.STAGES)
    generator = IdentityGenerator.load(folders["gen"] / "generator.safetensors")
    assert generator.image_size == (16, 8) and bool(generator.trained.all())
    prior = CodePrior.load(folders["prior"] / "prior.safetensors")
    codes = generator.trained_codes()
    torch.testing.assert_close(prior.normalizer.mean, codes.mean(0))
    assert not Inverter.load(folders["inverter"] / "inverter.safetensors").unit
    NoiseInverter.load(folders["noise"] / "inverter.safetensors")
    assert Inverter.load(folders["cross"] / "inverter.safetensors").unit
    assert IdentityGenerator.load(folders["cross"] / "generator.safetensors").image_size == (16, 8)


def test_a_stage_names_what_it_needs(cfg: CfgNode) -> None:
    with pytest.raises(
        FileNotFoundError, match="expected the result of stage gen, got none: .*generator.safetensors"
    ):
        identity.train(cfg, ["prior"])
    with pytest.raises(
        ValueError, match="unknown stage 'all'; choose from gen, prior, inverter, noise, cross"
    ):
        identity.train(cfg, ["all"])


def test_resuming_gives_the_network_of_an_uninterrupted_run(cfg: CfgNode, tmp_path: Path) -> None:
    whole = identity.train(cfg, ["cross"])["cross"] / "inverter.safetensors"
    halves = cfg.clone()
    halves.data.save_dir = str(tmp_path / "halves")
    for steps in (1, 2):
        halves.genext.cross.train.steps = steps
        again = identity.train(halves, ["cross"])["cross"] / "inverter.safetensors"
        halves.genext.training.resume = True
    assert again.read_bytes() == whole.read_bytes()


def test_a_second_run_into_the_same_folder_is_refused(cfg: CfgNode) -> None:
    identity.train(cfg, ["gen"])
    with pytest.raises(ValueError, match="resume"):
        identity.train(cfg, ["gen"])


def test_raw_labels_index_a_table_of_the_official_size(cfg: CfgNode) -> None:
    cfg.genext.identity.labels, cfg.genext.identity.rows = "raw", 1502
    generator = IdentityGenerator.load(identity.train(cfg, ["gen"])["gen"] / "generator.safetensors")
    assert generator.table.num_embeddings == 1502 and 0 < int(generator.trained.sum()) < 1502
    cfg.genext.prior.rows = "all"
    prior = CodePrior.load(identity.train(cfg, ["prior"])["prior"] / "prior.safetensors")
    torch.testing.assert_close(prior.normalizer.mean, generator.table.weight.mean(0).detach())


def test_tables_start_from_looks_or_as_officially_at_random(cfg: CfgNode) -> None:
    cfg.genext.identity.train.lr = 0.0
    cfg.genext.identity.train.ema_decay = 0.0
    codes = {}
    for cfg.genext.identity.table in ("appearance", "random"):
        cfg.data.save_dir = f"{cfg.data.save_dir}/{cfg.genext.identity.table}"
        folder = identity.train(cfg, ["gen"])["gen"]
        codes[cfg.genext.identity.table] = IdentityGenerator.load(
            folder / "generator.safetensors"
        ).trained_codes()
    torch.testing.assert_close(codes["appearance"].square().mean(), torch.tensor(1.0))
    assert codes["random"].abs().max() <= 0.05
    cfg.genext.identity.table = "zeros"
    with pytest.raises(
        ValueError, match="unknown start of the table 'zeros'; choose from appearance, random"
    ):
        identity.train(cfg, ["gen"])
