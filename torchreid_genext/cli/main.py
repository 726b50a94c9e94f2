"""Train and test torchreid models: torchreid's ``scripts/main.py`` with the keys of this plugin."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode

import torchreid_genext as genext
from torchreid_genext import checkpoints, compat, config, engine


def main(argv: Sequence[str] | None = None) -> None:
    cfg = read_config(parse_arguments(argv))
    log = time.strftime("test.log-%F-%H-%M-%S" if cfg.test.evaluate else "train.log-%F-%H-%M-%S")
    with engine.console_copied_to(Path(cfg.data.save_dir) / log):
        print(f"Show configuration\n{cfg}\n\n** System info **\n{compat.collect_env_info()}\n")
        config.write_config(cfg, cfg.data.save_dir)
        train_and_test(cfg)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", default="", help="YAML file of keys that differ from the defaults")
    parser.add_argument("-s", "--sources", nargs="+", help="data sets to train on")
    parser.add_argument("-t", "--targets", nargs="+", help="data sets to test on")
    parser.add_argument("--transforms", nargs="+", help="training augmentation")
    parser.add_argument("--root", default="", help="folder that holds the data sets")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="further keys: key value key value ...")
    return parser.parse_args(argv)


def read_config(arguments: argparse.Namespace) -> CfgNode:
    options = {name: getattr(arguments, name) for name in ("sources", "targets", "transforms", "root")}
    cfg = config.load_config(arguments.config_file, arguments.opts, **options)
    config.check_config(cfg)
    return cfg


def train_and_test(cfg: CfgNode) -> None:
    genext.register()
    compat.set_random_seed(cfg.train.seed)
    data = engine.build_datamanager(cfg)
    model = build_model(cfg, data.num_train_pids)
    optimizer = compat.build_optimizer(model, **config.optimizer_kwargs(cfg))
    scheduler = compat.build_lr_scheduler(optimizer, **config.lr_scheduler_kwargs(cfg))
    if cfg.model.resume:
        cfg.train.start_epoch = checkpoints.resume_training(cfg.model.resume, model, optimizer, scheduler)
    trainer = engine.attach(engine.build_engine(cfg, data, model, optimizer, scheduler), cfg)
    if not cfg.test.evaluate:
        metadata = {"version": genext.__version__, "num_classes": data.num_train_pids, "config": cfg.dump()}
        path = Path(cfg.data.save_dir) / "model.safetensors"
        save_before_tests(trainer, lambda: checkpoints.save_backbone(path, model, metadata))
    trainer.run(**config.run_kwargs(cfg))


def save_before_tests(trainer: Any, save: Callable[[], object]) -> None:
    """The host tests before it saves: what was trained must not be lost to a fault of a test."""
    test = trainer.test

    def saved_and_tested(*arguments: Any, **options: Any) -> Any:
        save()
        return test(*arguments, **options)

    trainer.test = saved_and_tested


def build_model(cfg: CfgNode, num_classes: int) -> torch.nn.Module:
    model = engine.build_model(cfg, num_classes)
    weights = cfg.model.resume or cfg.model.load_weights
    if weights:  # first, since they may decide on the size of the network
        print("Weights loaded, left out:", checkpoints.load_weights(model, weights))
    size = compat.compute_model_complexity(model, (1, 3, cfg.data.height, cfg.data.width))
    print("Model {}: {:,} parameters, {:,} multiply-adds".format(cfg.model.name, *size))
    torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark or cfg.use_gpu
    return torch.nn.DataParallel(model).to(torch.accelerator.current_accelerator()) if cfg.use_gpu else model
