"""The configuration tree: torchreid's whole one, the plugin's node, files, and arguments of the host."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from yacs.config import CfgNode

from tests.conftest import ROOT
from torchreid_genext import compat, config
from torchreid_genext.recipes.training import schedules


def leaves(node: CfgNode, prefix: str = "") -> dict[str, object]:
    found = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        found |= leaves(value, f"{name}.") if isinstance(value, CfgNode) else {name: value}
    return found


def parameters(function: Callable, *without: str) -> dict[str, object]:
    every = inspect.signature(function).parameters
    return {name: p.default for name, p in every.items() if name not in (*without, "self")}


def test_every_plugin_switch_is_off() -> None:
    switches = {
        name: value for name, value in leaves(config.get_default_config().genext).items() if "enabled" in name
    }
    assert len(switches) >= 2
    assert not any(switches.values())


def test_there_are_not_too_many_keys() -> None:
    assert len(leaves(config.get_default_config().genext)) <= 150


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_configuration_that_comes_along_is_read(file: Path) -> None:
    cfg = config.load_config(file)
    for stage in schedules.OWN:
        schedules.schedule(cfg, stage)


BECAME = {
    "genext.ipg.sampling.steps": "genext.sampling.steps",
    "genext.ipg.sampling.width": "genext.sampling.image_size",
    "genext.ipg.sampling.style": "genext.sampling.pipeline",
    "genext.ipg.generator.train.lr": "genext.training.lr",
    "genext.pg2.stage2.train.steps": "genext.training.steps",
    "genext.pg2.stage2.train.schedule": "genext.training.stages",
    "genext.camstyle.height": "genext.training.image_size",
    "genext.deformable.poses": "genext.joints",
    "genext.pg2.flip": "genext.training.flip",
    "genext.ipg.generator.partners": "genext.training.partners",
    "genext.ipg.generator.encoder_size": "genext.ipg.generator.encoder",
    "genext.ipg.generator.vae": "genext.ipg.generator.init",
    "genext.identity.rows": "genext.identity.official",
    "genext.prior.rows": "genext.identity.official",
    "genext.prior.steps": "genext.sampling.steps",
    "genext.inverter.widths": "genext.identity.widths",
    "genext.deformable.decoder": "genext.deformable.widths",
    "genext.pg2.discriminator": "genext.pg2.official",
    "genext.camstyle.images": "genext.training.batch_size",
}


@pytest.mark.parametrize("old", BECAME)
def test_keys_of_earlier_versions_name_the_new_ones(old: str) -> None:
    known = leaves(config.get_default_config())
    assert old not in known
    with pytest.raises(ValueError, match=f"there is no key {old} any more; ") as caught:
        config.load_config(opts=[old, "1"])
    named = set(re.findall(r"genext(?:\.\w+)+", str(caught.value).split("any more")[1]))
    assert BECAME[old] in named <= known.keys()


def test_every_leaf_of_the_plugin_is_commented() -> None:
    source = inspect.getsource(config.add_genext_config).splitlines()
    sections = {"cfg.genext.nfc.enabled"}  # the comment above the section says what it switches on
    for line in source:
        name = line.split("=")[0].strip()
        if name.startswith("cfg.genext.") and "CfgNode()" not in line and name not in sections:
            assert "  # " in line, f"{name} has no comment"


def test_unknown_keys_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "typo.yaml").write_text("genext:\n  ncf:\n    enabled: True\n")
    with pytest.raises(ValueError, match="typo.yaml.*genext.ncf"):
        config.load_config(tmp_path / "typo.yaml")
    with pytest.raises(ValueError, match="genext.nfc.k3"):
        config.load_config(opts=["genext.nfc.k3", "2"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1: 2", "expected names as keys, got 1"),
        ("genext: {nfc: {1: 2}}", "expected names as keys below genext.nfc, got 1"),
        ("genext: {nfc: 5}", "expected keys below genext.nfc, such as genext.nfc.enabled, got 5"),
        ("genext: {nfc: {k1: {a: 1}}}", "expected a value of genext.nfc.k1, got keys below it: a"),
        ("train: {lr: fast}", "expected train.lr to be float, such as 0.0003, got fast"),
        ("train: {lr: 2020-01-01}", "Key train.lr with value .*date.* is not a valid type.*"),
        ("genext: {nfc: {k3: 2}}", "there is no key genext.nfc.k3; the nearest are genext.nfc.k2, .*nfc.k1, .*"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_one_sentence(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"^expected a YAML file of known keys, got .*a.yaml: {reason}$"):
        config.load_config(tmp_path / "a.yaml")


def test_three_nearest_keys_are_named_and_all_of_them_exist() -> None:
    known = leaves(config.get_default_config())
    for wrong in ("genext.nfc.k3", "model.nam", "genex.nfc.k1", "a", "train.lr.x"):
        with pytest.raises(ValueError, match="there is no key") as caught:
            config.load_config(opts=[wrong, "5"])
        assert len(set(str(caught.value).split("nearest are ")[1].split(", ")) & known.keys()) == 3, wrong
    with pytest.raises(ValueError, match="expected keys below genext.nfc, such as .*enabled, got '5'$"):
        config.load_config(opts=["genext.nfc", "5"])


@pytest.mark.parametrize("text", ["model: [", "just words", "model: osnet_x0_25", "train:\n  lr: fast\n"])
def test_file_that_is_no_configuration_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "broken.yaml").write_text(text)
    with pytest.raises(ValueError, match="expected a YAML file of known keys, got .*broken.yaml"):
        config.load_config(tmp_path / "broken.yaml")


def test_missing_file_and_odd_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere.yaml"):
        config.load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(ValueError, match="in pairs 'key value', got 'train.lr'"):
        config.load_config(opts=["train.lr"])
    with pytest.raises(ValueError, match="train.lr fast"):
        config.load_config(opts=["train.lr", "fast"])


def test_options_override_the_file_and_the_file_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("train:\n  lr: 0.5\n  max_epoch: 7\n")
    cfg = config.load_config(tmp_path / "a.yaml", ["train.lr", "0.25"])
    assert (cfg.train.lr, cfg.train.max_epoch, cfg.train.batch_size) == (0.25, 7, 32)


def test_home_folder_is_found_in_every_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.yaml").write_text("data: {root: ~/data}\ngenext: {ipg: {root: ~/store}}\n")
    cfg = config.load_config("~/a.yaml", ["model.load_weights", "~/w.pth"])
    assert cfg.data.root == str(tmp_path / "data")
    assert cfg.genext.ipg.root == str(tmp_path / "store")
    assert cfg.model.load_weights == str(tmp_path / "w.pth")
    assert config.load_config(root="~/other").data.root == str(tmp_path / "other")


def test_written_config_is_read_again(tmp_path: Path) -> None:
    cfg = config.load_config(opts=["genext.nfc.side", "joint", "data.sources", "['a', 'b']"])
    path = config.write_config(cfg, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "config.yaml"
    assert config.load_config(path) == cfg


def test_config_file_written_for_torchreid_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "host.yaml").write_text(
        "model:\n  name: 'osnet_ain_x1_0'\n  pretrained: True\n"
        "data:\n  type: 'image'\n  transforms: ['random_flip', 'color_jitter']\n  save_dir: 'log/a'\n"
        "loss:\n  name: 'softmax'\n  softmax:\n    label_smooth: True\n"
        "train:\n  optim: 'amsgrad'\n  lr: 0.0015\n  fixbase_epoch: 10\n  open_layers: ['classifier']\n"
        "  lr_scheduler: 'cosine'\n"
        "test:\n  batch_size: 300\n  dist_metric: 'cosine'\n  normalize_feature: False\n  rerank: False\n"
    )
    cfg = config.load_config(tmp_path / "host.yaml")
    assert (cfg.test.dist_metric, cfg.train.fixbase_epoch) == ("cosine", 10)


def test_node_can_be_added_to_a_tree_of_the_user() -> None:
    mine = CfgNode({"depth": 3})
    config.add_genext_config(mine)
    assert mine.depth == 3
    assert mine.genext == config.get_default_config().genext


def test_every_argument_of_the_host_has_a_key() -> None:
    cfg, data, optim = config.get_default_config(), compat.host().data, compat.host().optim
    assert config.image_data_kwargs(cfg).keys() == parameters(data.ImageDataManager.__init__).keys()
    assert config.video_data_kwargs(cfg).keys() == parameters(data.VideoDataManager.__init__).keys()
    assert config.optimizer_kwargs(cfg).keys() == parameters(optim.build_optimizer, "model").keys()
    assert config.lr_scheduler_kwargs(cfg).keys() == parameters(optim.build_lr_scheduler, "optimizer").keys()
    assert config.run_kwargs(cfg).keys() == parameters(compat.host().engine.Engine.run).keys()


@pytest.mark.parametrize("data_type", ["image", "video"])
@pytest.mark.parametrize("loss", ["softmax", "triplet"])
def test_every_argument_of_the_engines_has_a_key(data_type: str, loss: str) -> None:
    cfg = config.load_config(opts=["data.type", data_type, "loss.name", loss])
    theirs = parameters(
        compat.engine_class(data_type, loss).__init__, "datamanager", "model", "optimizer", "scheduler"
    )
    assert config.engine_kwargs(cfg).keys() == theirs.keys()


def test_keys_arrive_as_arguments() -> None:
    numbers = "train.lr 0.1 sgd.momentum 0.2 adam.beta1 0.3 rmsprop.alpha 0.4 train.batch_size 5"
    numbers += " test.batch_size 6 sampler.num_instances 7"
    flags = "cuhk03.use_metric_cuhk03 True test.evaluate True market1501.use_500k_distractors True"
    cfg = config.load_config(opts=f"{numbers} {flags}".split())
    optimizer, data, run = config.optimizer_kwargs(cfg), config.image_data_kwargs(cfg), config.run_kwargs(cfg)
    assert [optimizer[key] for key in ("lr", "momentum", "adam_beta1", "rmsprop_alpha")] == [
        0.1,
        0.2,
        0.3,
        0.4,
    ]
    assert [data[key] for key in ("batch_size_train", "batch_size_test", "num_instances")] == [5, 6, 7]
    assert data["market1501_500k"] and run["use_metric_cuhk03"] and run["test_only"]


def test_combinations_that_cannot_run_are_refused_before_data_is_loaded() -> None:
    cfg = config.load_config(opts=["loss.name", "triplet", "train.fixbase_epoch", "3"])
    with pytest.raises(ValueError, match="expected train.fixbase_epoch 0 .*got 3"):
        config.check_config(cfg)
    cfg = config.load_config(opts=["test.visrank", "True"])
    with pytest.raises(ValueError, match="expected test.evaluate True with test.visrank True"):
        config.check_config(cfg)
    options = ["test.visrank", "True", "test.evaluate", "True", "test.visrank_topk", "0"]
    with pytest.raises(ValueError, match="expected test.visrank_topk >= 1, got 0"):
        config.check_config(config.load_config(opts=options))
