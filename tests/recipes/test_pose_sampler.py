"""PG2 and the Deformable GAN fill stores as IPG does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from yacs.config import CfgNode

from torchreid_genext import compat, config
from torchreid_genext.data.pose_files import read_poses
from torchreid_genext.data.standard_poses import standard_poses
from torchreid_genext.data.store import ImageStore
from torchreid_genext.generators import build_generator
from torchreid_genext.recipes import ipg_images
from torchreid_genext.recipes.pose_sampler import POSE_GENERATORS, PoseSampler

pytestmark = pytest.mark.usefixtures("registered")

SIZE = (32, 16)
SMALL = {
    "pg2": {"image_size": SIZE, "width": 4, "code": 4, "radius": 1},
    "deformable": {"image_size": SIZE, "encoder": [4, 4, 4], "decoder": [4, 4]},
}


@pytest.fixture(params=POSE_GENERATORS)
def cfg(request: pytest.FixtureRequest, reid_data: Path, tmp_path: Path) -> CfgNode:
    torch.manual_seed(0)
    weights = build_generator(request.param, **SMALL[request.param]).save(tmp_path / "weights.safetensors")
    cfg = config.get_default_config()
    cfg.data.root, cfg.genext.generator = str(reid_data), request.param
    cfg.genext[request.param].weights = str(weights)
    cfg.genext.ipg.sampling.poses, cfg.genext.ipg.sampling.batch_size = "standard 1 5", 4
    return cfg


def queries(root: Path) -> list[str]:
    dataset = compat.init_image_dataset("synthreid_tiny", root=str(root), verbose=False)
    return [item[0] for item in dataset.query]


def test_stores_are_filled_with_what_the_generator_makes(
    cfg: CfgNode, reid_data: Path, tmp_path: Path
) -> None:
    drawing, store = ipg_images.Drawing(cfg, "synthreid_tiny"), ImageStore.create(tmp_path / "store")
    poses = read_poses(compat.image_dataset_folder("synthreid_tiny", str(reid_data)) / "poses.csv")
    known = [path for path in queries(reid_data) if (poses[Path(path).name] >= 0).all(axis=1).any()][:3]
    assert drawing.fill(store, drawing.works("query", known)).made == 6
    generator = build_generator(cfg.genext.generator, cfg.genext[cfg.genext.generator].weights)
    with Image.open(known[1]) as image:
        size, small = image.size, image.convert("RGB").resize(SIZE[::-1], Image.Resampling.BICUBIC)
    pixels = torch.tensor(np.array(small)).permute(2, 0, 1)[None] / 127.5 - 1
    own = np.asarray(poses[Path(known[1]).name], float)
    moved = np.maximum((own + 0.5) * (SIZE[0] / size[1], SIZE[1] / size[0]) - 0.5, 0)
    moved[(own < 0).any(axis=1)] = -1
    target = torch.tensor(standard_poses(*SIZE)["5"]).float()[None]
    made = generator.generate(pixels, torch.tensor(moved).float()[None], target)[0].permute(1, 2, 0)
    found = np.array(Image.open(store.files("query")["5"][Path(known[1]).name])).astype(float)
    assert np.abs(found - (made.numpy() + 1) * 127.5).max() <= 0.51
    (entry, *_) = store.entries("query")
    assert entry.provenance["generator"] == cfg.genext.generator and entry.provenance["weights"]


def test_references_without_joints_are_listed_where_these_are_needed(reid_data: Path) -> None:
    nobody = np.full((18, 2), -1.0)
    (path, *_) = queries(reid_data)
    poses = {"1": standard_poses(*SIZE)["1"]}
    made = {
        kind: PoseSampler(build_generator(kind, **SMALL[kind]), poses, lambda _: nobody) for kind in SMALL
    }
    assert len(made["pg2"]([path], ["1"], [0])) == 1
    with pytest.raises(ValueError, match=f"expected joints of the person in {path}, got none"):
        made["deformable"]([path], ["1"], [0])


def test_what_is_unknown_or_missing_is_named(cfg: CfgNode) -> None:
    name = cfg.genext.generator
    cfg.genext.ipg.sampling.precision = "fp8"
    with pytest.raises(ValueError, match="unknown precision 'fp8'; choose from fp32, bf16, fp16"):
        ipg_images.Drawing(cfg, "synthreid_tiny")
    cfg.genext[name].weights = ""
    with pytest.raises(ValueError, match=f"expected genext.{name}.weights, a file of tools/train_gan.py"):
        ipg_images.Drawing(cfg, "synthreid_tiny")
    cfg.genext.generator = "camstyle"
    with pytest.raises(
        ValueError, match="unknown genext.generator 'camstyle'; choose from ipg, pg2, deformable"
    ):
        ipg_images.Drawing(cfg, "synthreid_tiny")
