"""Train and test torchreid models: torchreid's ``scripts/main.py`` with the keys of this plugin."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode

import torchreid_genext as genext
from torchreid_genext import checkpoints, compat, config, engine
from torchreid_genext.backbones.card import Preprocessing
from torchreid_genext.backbones.spec import Backbone
from torchreid_genext.cli.parsing import Parser, configuration, set_up


def main(argv: Sequence[str] | None = None) -> None:
    """Train or test what the command line asks for."""
    arguments = parse_arguments(argv)
    cfg = with_card(configuration(arguments))
    check(cfg)
    set_up(arguments, logging.WARNING)
    log = time.strftime("test.log-%F-%H-%M-%S" if cfg.test.evaluate else "train.log-%F-%H-%M-%S")
    with engine.console_copied_to(Path(cfg.data.save_dir) / log):
        print(f"Show configuration\n{cfg}\n\n** System info **\n{compat.collect_env_info()}\n")
        config.write_config(cfg, cfg.data.save_dir)
        train_and_test(cfg)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__name__, __doc__)
    parser.add_key("-s", "--sources", key="data.sources", nargs="+", help="data sets to train on")
    parser.add_key("-t", "--targets", key="data.targets", nargs="+", help="data sets to test on")
    parser.add_key("--transforms", key="data.transforms", nargs="+", help="training augmentation")
    parser.add_root()
    parser.add_key("--output", key="data.save_dir", metavar="FOLDER", help="everything that is written")
    parser.add_key("--weights", key="model.load_weights", metavar="FILE", help="to start from, or to test")
    return parser.parse_args(argv)


def check(cfg: CfgNode) -> None:
    config.check_config(cfg)
    if cfg.use_gpu and not torch.cuda.is_available():
        raise ValueError("expected use_gpu False where torch finds no GPU, got True")


def with_card(cfg: CfgNode) -> CfgNode:
    """With the weights and the images of which a card beside the weights tells.

    Raises:
        ValueError: if torchreid, which reads the images, cannot make them so.
    """
    backbone, data = Backbone.of_model(cfg.model.name, cfg.model.load_weights).with_card(), cfg.data
    seen = backbone.preprocessing(Preprocessing(data.height, data.width, data.norm_mean, data.norm_std))
    if (way := (seen.interpolation, seen.resize)) != ("bilinear", "stretch"):
        rule = "expected bilinear interpolation and resize stretch in the card, which is what torchreid does here"
        raise ValueError(f"{rule}, got {' and '.join(way)}; benchmark reads images as the card says")
    cfg.model.load_weights = backbone.weights
    data.height, data.width, data.norm_mean, data.norm_std = *seen.size, [*seen.mean], [*seen.std]
    return cfg


def train_and_test(cfg: CfgNode) -> None:
    genext.register()
    compat.set_random_seed(cfg.train.seed)
    data = engine.build_datamanager(cfg)
    # The host reads its curve at every rank, also where the gallery has fewer images.
    smallest = min((len(loaders["gallery"].dataset) for loaders in data.test_loader.values()), default=1)
    cfg.test.ranks = [rank for rank in cfg.test.ranks if rank <= smallest]
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
