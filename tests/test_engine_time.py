"""The hook with steps that know cameras and times, on a data set whose names tell them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from yacs.config import CfgNode

from torchreid_genext import compat, config
from torchreid_genext import engine as hooks
from torchreid_genext.data.filenames import global_frames
from torchreid_genext.engine import hook
from torchreid_genext.retrieval.protocol import Sightings, evaluate

pytestmark = pytest.mark.usefixtures("registered")


def tiny_config(reid_data: Path, *opts: str) -> CfgNode:
    keys = ["use_gpu", "False", "model.name", "osnet_x0_25", "model.pretrained", "False", "data.workers", "0"]
    keys += ["data.height", "32", "data.width", "16", *opts]
    names = {"sources": ["synthreid_tiny"], "targets": ["synthreid_tiny"], "root": str(reid_data)}
    return config.load_config(opts=keys, **names)


@pytest.fixture(scope="module")
def engine(reid_data: Path) -> Any:
    import torchreid_genext

    torchreid_genext.register()
    cfg = tiny_config(reid_data)
    compat.set_random_seed(0)
    data = hooks.build_datamanager(cfg)
    model = hooks.build_model(cfg, data.num_train_pids)
    optimizer = compat.build_optimizer(model, **config.optimizer_kwargs(cfg))
    scheduler = compat.build_lr_scheduler(optimizer, **config.lr_scheduler_kwargs(cfg))
    return hooks.build_engine(cfg, data, model, optimizer, scheduler)


def evaluated(engine: Any, cfg: CfgNode, folder: Path, **options: Any) -> dict[str, Any]:
    hooks.attach(engine, cfg)
    engine.test(save_dir=str(folder), **options)
    return json.loads((folder / "genext_report_synthreid_tiny.json").read_text())


def test_times_of_the_training_split_and_of_the_test_images_reach_the_steps(
    engine: Any, reid_data: Path, tmp_path: Path
) -> None:
    keys = ("genext.spatiotemporal.enabled", "True", "genext.spatiotemporal.sigma", "30.0")
    cfg = tiny_config(reid_data, *keys)
    report = evaluated(engine, cfg, tmp_path)
    loaders = engine.test_loader["synthreid_tiny"]
    engine.set_model_mode("eval")
    with torch.no_grad():
        cpu = torch.device("cpu")
        images = [hook._extract(engine, loaders[split], split, cpu)[0] for split in ("query", "gallery")]
    train = compat.init_image_dataset("synthreid_tiny", root=str(reid_data), verbose=False).train
    paths, pids, camids = zip(*(record[:3] for record in train))
    timed = [
        type(x)(x.features, x.pids, x.camids, frames=torch.tensor(global_frames(x.paths, "synthreid")))
        for x in images
    ]
    sightings = Sightings(pids, camids, global_frames(paths, "synthreid"))
    expected = evaluate(*timed, "st(sigma=30)", train=sightings)
    assert report["mAP"] == pytest.approx(expected.mAP)
    assert report["protocol"] == "market1501; camera ids; time stamps"


def test_a_whole_chain_may_be_a_text(engine: Any, reid_data: Path, tmp_path: Path) -> None:
    chain = "camera_norm+tracklets+nfc(neighbours=cross_camera)+st"
    report = evaluated(engine, tiny_config(reid_data, "genext.evaluation.chain", chain), tmp_path)
    assert report["chain"] == chain


def test_every_switch_is_a_step(reid_data: Path) -> None:
    nodes = ("camera_norm", "tracklets", "nfc", "database_augmentation", "query_expansion", "spatiotemporal")
    opts = [word for node in nodes for word in (f"genext.{node}.enabled", "True")]
    chain = hooks.build_chain(tiny_config(reid_data, *opts).genext)
    assert [step.name for step in chain.steps] == ["camera_norm", "tracklets", "nfc", "dba", "alpha_qe", "st"]
    assert chain.name == "camera_norm+tracklets+nfc+dba+alpha_qe+st", "the keys' defaults are the steps'"


def test_reranking_takes_the_joint_distance_and_its_keys(
    engine: Any, reid_data: Path, tmp_path: Path
) -> None:
    keys = ["genext.spatiotemporal.enabled", "True", "genext.rerank.k1", "5", "genext.rerank.k2", "2"]
    report = evaluated(engine, tiny_config(reid_data, *keys), tmp_path, rerank=True)
    chain = "st+rerank(k1=5,k2=2)"
    text = evaluated(engine, tiny_config(reid_data, "genext.evaluation.chain", chain), tmp_path)
    assert report["chain"] == "st"
    np.testing.assert_allclose(report["rerank"]["cmc"], text["cmc"])
    assert report["rerank"]["mAP"] == pytest.approx(text["mAP"])


def test_official_protocol_of_st_reid_is_a_key(engine: Any, reid_data: Path, tmp_path: Path) -> None:
    cfg = tiny_config(reid_data, "genext.evaluation.enabled", "True", "genext.evaluation.protocol", "streid")
    report = evaluated(engine, cfg, tmp_path)
    standard = evaluated(engine, tiny_config(reid_data, "genext.evaluation.enabled", "True"), tmp_path)
    assert report["protocol"] == "streid" and report["mAP"] != standard["mAP"]


def test_node_alone_knows_no_training_split(engine: Any, reid_data: Path, tmp_path: Path) -> None:
    cfg = tiny_config(reid_data, "genext.spatiotemporal.enabled", "True")
    with pytest.raises(ValueError, match="expected the whole configuration for a chain that learns"):
        hooks.attach(engine, cfg.genext)
