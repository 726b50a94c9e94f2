"""PG2, the Deformable GAN and CamStyle fill stores as IPG does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from yacs.config import CfgNode

from torchreid_genext import compat, config
from torchreid_genext.data.poses.reading import read_poses
from torchreid_genext.data.poses.standard import standard_poses
from torchreid_genext.data.store import ImageStore
from torchreid_genext.generators import build_generator
from torchreid_genext.recipes.drawing import stores
from torchreid_genext.recipes.drawing.samplers import ADVERSARIAL, PoseSampler

pytestmark = pytest.mark.usefixtures("registered")

SIZE = (32, 16)
SMALL = {
    "pg2": {"image_size": SIZE, "width": 4, "code": 4, "radius": 1},
    "deformable": {"image_size": SIZE, "encoder": [4, 4, 4], "decoder": [4, 4]},
    "camstyle": {"cameras": 6, "image_size": SIZE, "width": 4, "blocks": 1},
}
OF_POSES = ("pg2", "deformable")


@pytest.fixture(params=OF_POSES)
def cfg(request: pytest.FixtureRequest, reid_data: Path, tmp_path: Path) -> CfgNode:
    return configured(request.param, reid_data, tmp_path)


def configured(name: str, root: Path, folder: Path) -> CfgNode:
    torch.manual_seed(0)
    network = build_generator(name, **SMALL[name])
    for each in network.parameters():  # CamStyle begins without changing anything
        each.data += 0.05 * torch.randn_like(each)
    weights = network.save(folder / "weights.safetensors")
    cfg = config.get_default_config()
    cfg.data.root, cfg.genext.generator = str(root), name
    cfg.genext[name].weights = str(weights)
    cfg.genext.sampling.poses, cfg.genext.sampling.batch_size = "standard 1 5", 4
    return cfg


def small(path: str) -> torch.Tensor:
    with Image.open(path) as image:
        pixels = np.array(image.convert("RGB").resize(SIZE[::-1], Image.Resampling.BICUBIC))
    return torch.tensor(pixels).permute(2, 0, 1)[None] / 127.5 - 1


def assert_shows(path: str, made: torch.Tensor) -> None:
    found = np.array(Image.open(path)).astype(float)
    assert np.abs(found - (made[0].permute(1, 2, 0).numpy() + 1) * 127.5).max() <= 0.51


def queries(root: Path) -> list[str]:
    dataset = compat.init_image_dataset("synthreid_tiny", root=str(root), verbose=False)
    return [item[0] for item in dataset.query]


def test_stores_are_filled_with_what_the_generator_makes(
    cfg: CfgNode, reid_data: Path, tmp_path: Path
) -> None:
    drawing, store = stores.Drawing(cfg, "synthreid_tiny"), ImageStore.create(tmp_path / "store")
    poses = read_poses(compat.image_dataset_folder("synthreid_tiny", str(reid_data)) / "poses.csv")
    known = [path for path in queries(reid_data) if (poses[Path(path).name] >= 0).all(axis=1).any()][:3]
    assert drawing.fill(store, drawing.works("query", known)).made == 6
    generator = build_generator(cfg.genext.generator, cfg.genext[cfg.genext.generator].weights)
    size = Image.open(known[1]).size
    own = np.asarray(poses[Path(known[1]).name], float)
    moved = np.maximum((own + 0.5) * (SIZE[0] / size[1], SIZE[1] / size[0]) - 0.5, 0)
    moved[(own < 0).any(axis=1)] = -1
    target = torch.tensor(standard_poses(*SIZE)["5"]).float()[None]
    made = generator.generate(small(known[1]), torch.tensor(moved).float()[None], target)
    assert_shows(store.files("query")["5"][Path(known[1]).name], made)
    (entry, *_) = store.entries("query")
    assert entry.provenance["generator"] == cfg.genext.generator and entry.provenance["weights"]


def test_references_without_joints_are_listed_where_these_are_needed(reid_data: Path) -> None:
    nobody = np.full((18, 2), -1.0)
    (path, *_) = queries(reid_data)
    poses = {"1": standard_poses(*SIZE)["1"]}
    made = {
        kind: PoseSampler(build_generator(kind, **SMALL[kind]), poses, lambda _: nobody) for kind in OF_POSES
    }
    assert len(made["pg2"]([path], ["1"], [0])) == 1
    with pytest.raises(ValueError, match=f"expected joints of the person in {path}, got none"):
        made["deformable"]([path], ["1"], [0])


def test_what_is_unknown_or_missing_is_named(cfg: CfgNode) -> None:
    name = cfg.genext.generator
    cfg.genext.sampling.precision = "fp8"
    with pytest.raises(ValueError, match="unknown precision 'fp8'; choose from auto, fp32, bf16, fp16"):
        stores.Drawing(cfg, "synthreid_tiny")
    cfg.genext[name].weights = ""
    with pytest.raises(ValueError, match=f"expected genext.{name}.weights, a file of train-gan"):
        stores.Drawing(cfg, "synthreid_tiny")
    cfg.genext.generator = "stargan"
    choices = ", ".join(("ipg", *ADVERSARIAL))
    with pytest.raises(ValueError, match=f"unknown genext.generator 'stargan'; choose from {choices}"):
        stores.Drawing(cfg, "synthreid_tiny")


def test_camstyle_draws_every_image_as_the_other_cameras_see_it(reid_data: Path, tmp_path: Path) -> None:
    cfg = configured("camstyle", reid_data, tmp_path)
    cfg.genext.sampling.poses = "standard"
    dataset = compat.init_image_dataset("synthreid_tiny", root=str(reid_data), verbose=False)
    items = [next(item for item in dataset.train if item[2] == camera) for camera in (0, 4)]
    drawing, store = stores.Drawing(cfg, "synthreid_tiny"), ImageStore.create(tmp_path / "store")
    wanted = drawing.works("train", [item[0] for item in items])
    assert [work.pose for work in wanted] == [f"camera{n}" for n in (2, 3, 4, 5, 6, 1, 2, 3, 4, 6)]
    assert drawing.fill(store, wanted).made == 10
    generator = build_generator("camstyle", cfg.genext.camstyle.weights)
    for (path, _, camera, *_), style in ((items[0], 4), (items[1], 0)):
        made = generator.generate(small(path), torch.tensor([camera]), torch.tensor([style]))
        assert (made - small(path)).abs().max() > 0.01
        assert_shows(store.files("train")[f"camera{style + 1}"][Path(path).name], made)


def test_styles_may_be_chosen_by_name(reid_data: Path, tmp_path: Path) -> None:
    cfg = configured("camstyle", reid_data, tmp_path)
    cfg.genext.sampling.poses = "camera2 camera5"
    assert stores.Drawing(cfg, "synthreid_tiny").poses == ["camera2", "camera5"]
    cfg.genext.sampling.poses = "camera2 camera7"
    with pytest.raises(ValueError, match="unknown style 'camera7'; choose from camera1, .*, camera6"):
        stores.Drawing(cfg, "synthreid_tiny")
