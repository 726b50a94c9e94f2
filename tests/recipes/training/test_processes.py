"""Recipes on two processes, as torchrun starts them: one writer, one training, the weights of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from yacs.config import CfgNode

from tests.conftest import ROOT
from tests.recipes.training.test_gan import cfg as gan_cfg
from tests.recipes.training.test_gan import chosen
from tests.recipes.training.test_identity import cfg as identity_cfg
from tests.recipes.training.test_ipg import cfg as ipg_cfg
from tests.training.processes import in_two_processes
from torchreid_genext import checkpoints
from torchreid_genext.generators.ipg import IPGPipeline
from torchreid_genext.recipes.training import gan, identity, ipg

__all__ = ["gan_cfg", "identity_cfg", "ipg_cfg"]

pytestmark = pytest.mark.usefixtures("registered")

RECIPES = {"gan": gan, "identity": identity, "ipg": ipg}
PROGRAM = """
import sys
import torchreid_genext as genext
from torchreid_genext import config
from torchreid_genext.recipes.training import ipg
genext.register()
cfg = config.get_default_config()
cfg.merge_from_file(sys.argv[1])
ipg.train(cfg)
"""


def work(rank: int, cfg: CfgNode, recipe: str, stages: tuple[str, ...]) -> None:
    RECIPES[recipe].train(cfg, stages)


def by_two(cfg: CfgNode, folder: Path, recipe: str, *stages: str) -> None:
    cfg = cfg.clone()
    cfg.data.save_dir = str(folder)
    in_two_processes(work, cfg, recipe, stages)


def check_one_writer(folder: Path) -> None:
    for path in folder.rglob("scalars.jsonl"):
        steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
        assert steps == sorted({*steps}), path
        assert len([*path.parent.glob("tensorboard/*")]) <= 1
    assert not [*folder.rglob("*.tmp")]


def check_alike(one: Path, two: Path, *useless: str) -> None:
    """Weights of results below both folders differ in rounding only, but for those without use."""
    for path in one.rglob("*.safetensors"):
        if not path.name.startswith("step-"):
            other = checkpoints.safe_load(two / path.relative_to(one))
            for name, tensor in checkpoints.safe_load(path).items():
                if name.endswith(useless):
                    continue
                torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=2e-5, msg=f"{path}: {name}")


def test_ipg_of_two_processes_is_that_of_one(ipg_cfg: CfgNode, tmp_path: Path) -> None:
    """Some parameters never get a gradient; decay must leave them alone in two processes, too."""
    node, training = ipg_cfg.genext.ipg.generator, ipg_cfg.genext.training
    node.unconditional, training.flip, training.weight_decay = 0.5, 0.5, 0.1
    node.widths = [16, 16]  # a group of one channel would have no use for biases, whose gradients were noise
    by_two(ipg_cfg, tmp_path / "two", "ipg", "ipg")
    ipg_cfg.data.save_dir = str(tmp_path / "one")
    ipg.train(ipg_cfg)
    check_one_writer(tmp_path / "two")
    check_alike(tmp_path / "one" / "ipg" / "pipeline", tmp_path / "two" / "ipg" / "pipeline")


@pytest.mark.parametrize("kind", ("deformable", "camstyle"))
def test_adversaries_of_two_processes_are_those_of_one(gan_cfg: CfgNode, tmp_path: Path, kind: str) -> None:
    """As far as they do not forget by chance; the memory of images is not yet full after two steps."""
    gan_cfg = chosen(gan_cfg, kind)
    gan_cfg.genext.deformable.dropout = 0.0
    by_two(gan_cfg, tmp_path / "two", "gan", kind)
    gan_cfg.data.save_dir = str(tmp_path / "one")
    gan.train(gan_cfg)
    check_one_writer(tmp_path / "two")
    before_norms = (".bias",) if kind == "camstyle" else ()  # they have no gradient but noise
    check_alike(tmp_path / "one" / kind, tmp_path / "two" / kind, *before_norms)


def test_pg2_and_stages_of_identities_have_one_writer(
    gan_cfg: CfgNode, identity_cfg: CfgNode, tmp_path: Path
) -> None:
    """Statistics of batches are each process's own, so weights differ; stages read what the first wrote."""
    by_two(chosen(gan_cfg, "pg2"), tmp_path / "gan", "gan", "pg2")
    assert (tmp_path / "gan" / "pg2" / "pg2.safetensors").is_file()
    by_two(identity_cfg, tmp_path / "identity", "identity", "gen", "prior", "inverter")
    check_one_writer(tmp_path)


@pytest.mark.slow
def test_torchrun_on_a_machine_without_accelerator_is_one_training(ipg_cfg: CfgNode, tmp_path: Path) -> None:
    (tmp_path / "cfg.yaml").write_text(ipg_cfg.dump())
    (tmp_path / "program.py").write_text(PROGRAM)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {name: value for name, value in os.environ.items() if name != "ACCELERATE_USE_CPU"}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*run, str(tmp_path / "program.py"), str(tmp_path / "cfg.yaml")],
        env=environment, capture_output=True, text=True, timeout=170,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    check_one_writer(tmp_path)
    IPGPipeline.from_pretrained(tmp_path / "ipg" / "pipeline")
