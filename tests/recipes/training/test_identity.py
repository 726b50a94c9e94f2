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
    cfg.genext.identity.widths, cfg.genext.inverter.hidden, cfg.genext.sampling.steps = [4, 6, 8], [8], 2
    cfg.genext.training.image_size = [16, 8]
    cfg.genext.training.steps, cfg.genext.training.batch_size = 2, 8
    cfg.genext.training.picture_every, cfg.genext.training.mixed_precision = 0, "no"
    cfg.genext.training.warmup, cfg.genext.training.schedule = 0, "constant"
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
        halves.genext.training.stages = [f"cross(steps={steps})"]
        again = identity.train(halves, ["cross"])["cross"] / "inverter.safetensors"
        halves.genext.training.resume = True
    assert again.read_bytes() == whole.read_bytes()


def test_a_second_run_into_the_same_folder_is_refused(cfg: CfgNode) -> None:
    identity.train(cfg, ["gen"])
    with pytest.raises(ValueError, match="resume"):
        identity.train(cfg, ["gen"])


def test_officially_numbers_in_file_names_are_rows_of_the_table_and_the_prior_learns_all(cfg: CfgNode) -> None:
    cfg.genext.identity.official = True
    generator = IdentityGenerator.load(identity.train(cfg, ["gen"])["gen"] / "generator.safetensors")
    assert generator.config["prediction"] == "eps"
    assert generator.table.num_embeddings == 1502 and 0 < int(generator.trained.sum()) < 1502
    prior = CodePrior.load(identity.train(cfg, ["prior"])["prior"] / "prior.safetensors")
    torch.testing.assert_close(prior.normalizer.mean, generator.table.weight.mean(0).detach())


@pytest.mark.parametrize("official", [False, True])
def test_tables_start_from_looks_or_officially_at_random(cfg: CfgNode, official: bool) -> None:
    cfg.genext.identity.official = official
    cfg.genext.training.stages, cfg.genext.training.ema_decay = ["gen(lr=0)"], 0.0
    folder = identity.train(cfg, ["gen"])["gen"]
    codes = IdentityGenerator.load(folder / "generator.safetensors").trained_codes()
    if official:
        assert codes.abs().max() <= 0.05
    else:
        torch.testing.assert_close(codes.square().mean(), torch.tensor(1.0))


def test_what_the_authors_do_differently_reaches_the_tasks(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}

    def kept(cfg: CfgNode, task: object, drawn: object, how: object, *others: object) -> None:
        found[cfg.genext.identity.official] = task, how

    identity.train(cfg, ["gen", "prior"])
    monkeypatch.setattr(identity, "run", kept)
    for cfg.genext.identity.official in (False, True):
        identity.train(cfg, ["inverter"])
    (ours, own), (theirs, official) = found[False], found[True]
    assert (ours.synthetic.pool_size, theirs.synthetic.pool_size) == (4096, 0)
    assert (ours.data, theirs.data) == ("mixed", "synthetic")
    assert (ours.augment.erase, theirs.augment) == (0.3, identity.Augmentation(flip=0.0))
    assert (own.lr, official.lr, official.ema_decay, official.schedule) == (5e-4, 4e-5, 0.0, "constant")


def test_faults_of_a_later_stage_are_told_before_the_first_is_trained(cfg: CfgNode) -> None:
    cfg.genext.training.stages = ["prior(steps=0)"]
    with pytest.raises(ValueError, match="expected steps of at least 1, got 0"):
        identity.train(cfg, ["gen", "prior"])
    assert not (Path(cfg.data.save_dir) / "gen" / "generator.safetensors").exists()
