"""Train generative identity on any torchreid image data set: the generator, or all stages in order.

torchreid-genext train-gen --config-file configs/synthreid_genid.yaml --root reid-data
torchreid-genext train-gen --stages gen prior inverter --config-file configs/synthreid_genid.yaml
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from types import ModuleType

from torchreid_genext import config
from torchreid_genext.cli.parsing import Parser, configuration, set_up
from torchreid_genext.processes import is_first
from torchreid_genext.recipes.training import identity


def main(argv: Sequence[str] | None = None) -> None:
    """Train the generator, or the stages that the command line names."""
    train(parse_arguments(argv, parser_of(__name__, __doc__), identity, ["gen"]), identity)


def train(arguments: argparse.Namespace, recipe: ModuleType) -> None:
    """Train the stages of a recipe that the command line names."""
    cfg = configuration(arguments)
    set_up(arguments, logging.INFO if is_first() else logging.WARNING)
    config.write_config(cfg, cfg.data.save_dir)
    folders = recipe.train(cfg, arguments.stages)
    for stage, folder in folders.items() if is_first() else ():
        print(f"{stage}: {folder}")


def parser_of(tool: str, text: str) -> Parser:
    """What all trainings of generators are told."""
    parser = Parser(tool, text)
    parser.add_key(
        "-s",
        "--sources",
        "--dataset",
        key="data.sources",
        nargs=1,
        help="data set whose training split is learnt from",
    )
    parser.add_root()
    parser.add_key("--output", key="data.save_dir", metavar="FOLDER", help="a folder for each stage")
    parser.add_key(
        "--resume",
        key="genext.training.resume",
        action="store_true",
        help="go on from the newest checkpoints",
    )
    return parser


def parse_arguments(
    argv: Sequence[str] | None, parser: Parser, recipe: ModuleType, stages: Sequence[str]
) -> argparse.Namespace:
    parser.add_argument(
        "--stages", nargs="+", default=[*stages], choices=recipe.STAGES, help="done in this order"
    )
    return parser.parse_args(argv)
