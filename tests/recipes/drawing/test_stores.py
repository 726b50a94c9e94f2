"""Stores that fill themselves: only with what is missing, and with nothing made otherwise."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from PIL import Image
from yacs.config import CfgNode

from tests.generators.ipg.networks import embedded
from tests.generators.ipg.test_official import encoder, release
from torchreid_genext import benchmark, compat, config
from torchreid_genext.data.poses import read_market_annotations
from torchreid_genext.data.store import ImageStore
from torchreid_genext.generation import picture_seed
from torchreid_genext.recipes.drawing import stores

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    embedded().save_pretrained(folder)
    return folder


@pytest.fixture
def cfg(reid_data: Path, tmp_path: Path, pipeline: Path) -> CfgNode:
    cfg = config.get_default_config()
    cfg.data.root, cfg.genext.ipg.root = str(reid_data), str(tmp_path / "store")
    node = cfg.genext.sampling
    node.pipeline, node.steps, node.batch_size, node.poses, node.guidance = (
        str(pipeline),
        1,
        8,
        "random 2",
        1.0,
    )
    return cfg


def paths(reid_data: Path, split: str) -> list[str]:
    dataset = compat.init_image_dataset("synthreid_tiny", root=str(reid_data), verbose=False)
    return [item[0] for item in getattr(dataset, split)]


def test_what_is_missing_is_drawn_and_only_that(
    cfg: CfgNode, reid_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some, more = paths(reid_data, "query")[:2], paths(reid_data, "query")[:3]
    assert stores.complete(cfg, {"query": some}, "synthreid_tiny").made == 4
    filled = stores.complete(cfg, {"query": more}, "synthreid_tiny")
    assert (filled.made, filled.present) == (2, 4)
    monkeypatch.setattr(stores, "load_pipeline", lambda cfg: pytest.fail("a network was loaded"))
    assert stores.complete(cfg, {"query": more}, "synthreid_tiny").present == 6


def test_random_poses_are_those_of_the_data_set_at_the_size_that_is_drawn(
    cfg: CfgNode, reid_data: Path
) -> None:
    found = stores.joints(cfg, "synthreid_tiny", (64, 32))
    own = read_market_annotations(reid_data / "synthreid_tiny" / "poses.csv")
    assert len(found) == 2 and found.keys() == stores.joints(cfg, "synthreid_tiny", (128, 64)).keys()
    for name, pose in found.items():
        original = own[f"{name}.jpg"]
        seen = (original != -1).all(axis=1)
        assert np.allclose(pose[seen], (original[seen] + 0.5) / 2 - 0.5) and (pose[~seen] == -1).all()
    cfg.genext.sampling.seed = 1
    assert found.keys() != stores.joints(cfg, "synthreid_tiny", (64, 32)).keys()


def test_some_of_the_standard_poses_are_chosen_by_name(cfg: CfgNode) -> None:
    cfg.genext.sampling.poses = "standard 5 1"
    some = stores.joints(cfg, "", (64, 32))
    cfg.genext.sampling.poses = "standard"
    everything = stores.joints(cfg, "", (64, 32))
    assert [*some] == ["5", "1"] and np.array_equal(some["1"], everything["1"])


def test_official_skeletons_are_small_and_thin(cfg: CfgNode) -> None:
    cfg.genext.sampling.poses = "standard"
    poses = stores.joints(cfg, "", (512, 256))
    bold, official = (stores.draw_poses(poses, (512, 256), style)["1"] for style in ("bold", "official"))
    assert (bold.size, official.size) == ((256, 512), (64, 128))
    shares = [np.asarray(picture).any(axis=2).mean() for picture in (bold, official)]
    assert shares[1] < shares[0]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    (
        ("poses", "many", "expected poses 'standard', .* or 'random 4', got 'many'"),
        ("poses", "random 0", "expected poses 'standard', .* or 'random 4', got 'random 0'"),
        ("poses", "standard 1 9", "unknown standard pose '9'; choose from 1, 2, 3, 4, 5, 6, 7, 8"),
        ("poses", "100000 random", r"expected a number of poses in 1..\d+, got 100000"),
        ("scheduler", "euler", "unknown scheduler 'euler'"),
    ),
)
def test_what_cannot_be_drawn_is_said(
    cfg: CfgNode, reid_data: Path, key: str, value: str, message: str
) -> None:
    cfg.genext.sampling[key] = value
    with pytest.raises(ValueError, match=message):
        stores.complete(cfg, {"query": paths(reid_data, "query")[:1]}, "synthreid_tiny")


def test_a_place_for_pictures_is_needed(cfg: CfgNode) -> None:
    cfg.genext.ipg.root = ""
    with pytest.raises(
        ValueError, match="expected genext.ipg.root, the store that is to be filled, got none"
    ):
        stores.complete(cfg, {"query": []}, "synthreid_tiny")


def test_the_benchmark_draws_what_its_chains_use(cfg: CfgNode, tmp_path: Path) -> None:
    cfg.use_gpu, cfg.model.name, cfg.model.pretrained = False, "osnet_x0_25", False
    cfg.data.targets, cfg.data.save_dir = ["synthreid_tiny"], str(tmp_path / "run")
    cfg.data.height, cfg.data.width, cfg.data.workers = 32, 16, 0
    cfg.genext.benchmark.bootstrap, cfg.genext.benchmark.pictures = 0, False
    cfg.genext.benchmark.chains = ["l2", "fuse(side=query)+l2"]
    cfg.genext.ipg.generate = True
    plain, fused = benchmark.run(cfg).measurements[0].reports
    store = ImageStore(tmp_path / "store")
    files = store.files("query")
    dataset = compat.init_image_dataset("synthreid_tiny", root=cfg.data.root, verbose=False)
    assert {len(found) for found in files.values()} == {len(dataset.query)} and len(files) == 2
    assert not store.files("gallery")
    assert Image.open(next(iter(files[next(iter(files))].values()))).size == (8, 16)
    assert plain.mAP != fused.mAP


def test_official_weights_fill_a_store_with_the_skeletons_that_they_know(
    cfg: CfgNode, reid_data: Path, tmp_path: Path
) -> None:
    node = cfg.genext.sampling
    node.pipeline, node.precision, node.poses = str(release(tmp_path)), "bf16", "standard 1 5"
    node.image_size, node.steps, node.batch_size = [64, 32], 1, 4
    eighth = {"block_out_channels": (4,) * 4, "norm_num_groups": 2}
    for kind in ("down", "up"):
        eighth[f"{kind}_block_types"] = (f"{kind.title()}{'En' if kind == 'down' else 'De'}coderBlock2D",) * 4
    AutoencoderKL(**eighth).save_pretrained(tmp_path / "vae")
    beside = {"base_model": tmp_path / "base", "vae": tmp_path / "vae", "reid_encoder": encoder()}
    pipe = stores.load_pipeline(cfg, **beside)
    drawing = stores.Drawing(cfg, "synthreid_tiny", pipe=pipe)
    wanted, store = drawing.works("query", paths(reid_data, "query")[:2]), ImageStore.create(tmp_path / "made")
    assert drawing.provenance(wanted[0])["pose"].endswith(" official")
    assert drawing.fill(store, wanted).made == 4 and pipe.dtype == torch.bfloat16


def tiny_vae(channels: int, folder: Path) -> str:
    torch.manual_seed(0)
    AutoencoderTiny(
        encoder_block_out_channels=(4, 4), decoder_block_out_channels=(4, 4), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=channels,
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


def test_a_small_autoencoder_takes_the_place_of_the_pipelines_own(
    cfg: CfgNode, reid_data: Path, tmp_path: Path
) -> None:
    some, node = paths(reid_data, "query")[:1], cfg.genext.sampling
    own = stores.Drawing(cfg, "synthreid_tiny")
    node.tiny_vae = tiny_vae(embedded().denoising_unet.config.in_channels, tmp_path / "tiny")
    drawing = stores.Drawing(cfg, "synthreid_tiny")
    (work, *_) = drawing.works("query", some)
    assert drawing.provenance(work)["weights"] != own.provenance(work)["weights"]
    assert not np.array_equal(drawing([work])[0], own([work])[0])
    node.tiny_vae = tiny_vae(3, tmp_path / "other")
    with pytest.raises(ValueError, match="expected an autoencoder of 12 channels in .*other, got 3"):
        stores.load_pipeline(cfg)


def test_the_seed_of_the_configuration_decides_on_every_picture(cfg: CfgNode, reid_data: Path) -> None:
    cfg.genext.sampling.poses = "standard 1 5"
    some = paths(reid_data, "query")[:2]
    drawing = stores.Drawing(cfg)
    first = drawing.works("query", some)
    assert [work.seed for work in first] == [picture_seed(0, Path(w.reference).name, w.pose) for w in first]
    cfg.genext.sampling.seed = 77
    other = drawing.works("query", some)
    assert all(one.seed != two.seed for one, two in zip(first, other))
    assert not np.array_equal(drawing(first)[0], drawing(other)[0])


def test_how_it_is_compiled_is_not_how_it_is_made(cfg: CfgNode) -> None:
    how = stores.Drawing(cfg, "synthreid_tiny").how
    assert "compile" not in how["sampling"] and how["sampling"]["steps"] == 1


CHANGES = [("steps", 2), ("guidance", 2.0), ("seed", 5), ("image_size", [32, 16])]


@pytest.mark.parametrize(("key", "value"), CHANGES)
def test_a_complete_store_that_was_made_otherwise_is_told(
    cfg: CfgNode, reid_data: Path, key: str, value: object
) -> None:
    cfg.genext.sampling.poses = "standard 1 5"
    some = {"query": paths(reid_data, "query")[:2]}
    stores.complete(cfg, some, "synthreid_tiny")
    cfg.genext.sampling[key] = value
    word = {"image_size": "height"}.get(key, key)
    with pytest.raises(ValueError, match=f"whose query pictures have .*{word} .*, got .*{word} "):
        stores.complete(cfg, some, "synthreid_tiny")


def test_other_weights_in_the_same_place_are_noticed(
    cfg: CfgNode, reid_data: Path, pipeline: Path, tmp_path: Path
) -> None:
    cfg.genext.sampling.pipeline = str(shutil.copytree(pipeline, tmp_path / "own"))
    some = {"query": paths(reid_data, "query")[:1]}
    stores.complete(cfg, some, "synthreid_tiny")
    changed = embedded()
    with torch.no_grad():
        next(changed.denoising_unet.parameters()).add_(1)
    changed.save_pretrained(tmp_path / "own")
    with pytest.raises(ValueError, match="whose query pictures have weights .*, got weights"):
        stores.complete(cfg, some, "synthreid_tiny")


def test_what_is_remembered_is_damaged_or_read_only_at_no_loss(cfg: CfgNode, reid_data: Path) -> None:
    some = {"query": paths(reid_data, "query")[:1]}
    stores.complete(cfg, some, "synthreid_tiny")
    memory = Path(cfg.genext.ipg.root, "pipelines.json")
    for content in ("[]", "no JSON"):
        memory.write_text(content)
        assert stores.complete(cfg, some, "synthreid_tiny").present == 2
    memory.unlink()
    memory.mkdir()
    assert stores.complete(cfg, some, "synthreid_tiny").present == 2


def test_what_was_drawn_for_a_plan_is_not_drawn_again(cfg: CfgNode, reid_data: Path, tmp_path: Path) -> None:
    cfg.genext.sampling.batch_size = 2
    drawing, drawn = stores.Drawing(cfg, "synthreid_tiny"), []
    sampler = drawing._sampler

    def counted(*batch: Sequence[Any]) -> list[Image.Image]:
        drawn.append(len(batch[0]))
        return sampler(*batch)

    drawing._sampler = counted
    counted.provenance = sampler.provenance
    planned, plain = (ImageStore.create(tmp_path / name) for name in ("planned", "plain"))
    wanted = drawing.works("query", paths(reid_data, "query")[:3])
    found = drawing.survey(planned, wanted)
    assert drawing.plan(found, keep=True).images == 6 and drawn == [2, 2]
    drawing.fill(planned, wanted, found=found)
    assert drawn == [2, 2, 2]
    stores.Drawing(cfg, "synthreid_tiny").fill(plain, wanted)
    for entry in plain.entries():
        assert planned.path(entry).read_bytes() == plain.path(entry).read_bytes()


def test_a_shard_is_that_of_all_works(cfg: CfgNode, reid_data: Path, tmp_path: Path) -> None:
    drawing = stores.Drawing(cfg, "synthreid_tiny")
    wanted = drawing.works("query", paths(reid_data, "query")[:4])
    store = ImageStore.create(tmp_path / "shards")
    drawing.fill(store, wanted[:2])
    made = [drawing.fill(store, wanted, shard=(index, 2)) for index in (0, 1)]
    assert [(each.made, each.present) for each in made] == [(2, 2), (4, 0)]
    assert len(drawing.survey(None, wanted, (1, 2)).missing) == 4
