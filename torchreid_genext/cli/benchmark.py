"""Measure backbones under chains of training-free steps, with features extracted once and cached.

python tools/benchmark.py --config-file configs/market1501_osnet_x0_25.yaml model.load_weights weights.pth
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from yacs.config import CfgNode

import torchreid_genext as genext
from torchreid_genext import benchmark, config


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    cfg = read_config(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    genext.register()
    if arguments.dry_run:
        print(benchmark.describe(cfg))
    else:
        result = benchmark.run(cfg)
        print(f"\n{benchmark.table(result)}\n\n{whereabouts(result)}")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="", help="YAML file of keys that differ from the defaults")
    parser.add_argument(
        "-s", "--sources", nargs="+", help="accepted as in tools/main.py; a benchmark trains nothing"
    )
    parser.add_argument("-t", "--targets", nargs="+", help="the first one is the data set to measure on")
    parser.add_argument("--transforms", nargs="+", help="accepted as in tools/main.py; tests have none")
    parser.add_argument("--root", default="", help="folder that holds the data sets")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--strict", action="store_true", help="stop at an image that cannot be read")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="further keys: key value key value ...")
    return parser.parse_args(argv)


def read_config(arguments: argparse.Namespace) -> CfgNode:
    options = {name: getattr(arguments, name) for name in ("sources", "targets", "transforms", "root")}
    cfg = config.load_config(arguments.config_file, arguments.opts, **options)
    cfg.genext.benchmark.strict = arguments.strict or cfg.genext.benchmark.strict
    return cfg


def whereabouts(result: benchmark.Result) -> str:
    lines = [f"Report:   {result.folder / 'report.md'} (report.json, report.csv, config.yaml beside it)"]
    lines += [f"Picture:  {result.folder / name}" for name in result.pictures]
    return "\n".join(lines + [f"Lists:    {result.folder / name}" for name in result.rank_lists])
