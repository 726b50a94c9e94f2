"""Train generative identity on any torchreid image data set: the generator, or all stages in order.

python tools/train_gen.py --config-file configs/synthreid_genid.yaml --root reid-data
python tools/train_gen.py --stages gen prior inverter --config-file configs/synthreid_genid.yaml --root reid-data
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from types import ModuleType

import torchreid_genext as genext
from torchreid_genext import config
from torchreid_genext.recipes.training import identity


def main(
    argv: Sequence[str] | None = None,
    *,
    recipe: ModuleType = identity,
    stages: Sequence[str] = ("gen",),
    description: str = __doc__,
) -> None:
    """Train `stages` of a recipe, unless the command line names others; `description` is what --help says."""
    arguments = parse_arguments(argv, recipe.STAGES, stages, description)
    cfg = config.load_config(
        arguments.config_file, arguments.opts, sources=arguments.sources, root=arguments.root
    )
    if arguments.resume:
        cfg.genext.training.resume = True
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    genext.register()
    config.write_config(cfg, cfg.data.save_dir)
    for stage, folder in recipe.train(cfg, arguments.stages).items():
        print(f"{stage}: {folder}")


def parse_arguments(
    argv: Sequence[str] | None, choices: Sequence[str], stages: Sequence[str], description: str
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="", help="YAML file of keys that differ from the defaults")
    parser.add_argument("-s", "--sources", nargs="+", help="the first one's training split is learnt from")
    parser.add_argument("--root", default="", help="folder that holds the data sets")
    parser.add_argument(
        "--stages", nargs="+", default=list(stages), choices=choices, help="done in this order"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoints")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="further keys: key value key value ...")
    return parser.parse_args(argv)
