"""Choose training-free steps on the training split of a data set, for any backbone.

python tools/tune.py --config-file configs/market1501_tune.yaml --root reid-data model.load_weights w.pth
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

import torchreid_genext as genext
from torchreid_genext import config
from torchreid_genext.benchmark import tuning
from torchreid_genext.retrieval.protocol import expand_chains


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    cfg = config.load_config(
        arguments.config_file, arguments.opts, targets=arguments.targets, root=arguments.root
    )
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    genext.register()
    chains = expand_chains(cfg.genext.tune.chains)
    print(f"{len(chains)} chains on {cfg.genext.tune.folds} folds of training identities, no test image")
    if arguments.dry_run:
        print("\n".join(chain.name for chain in chains))
        return
    result = tuning.tune(cfg)
    print(f"\n{tuning.tuning_table(result)}\n\nBest:    {result.best.chain}")
    print(f"All:     {cfg.data.save_dir}/tuning.json")
    print("Measure the best one on the test split, once, with tools/benchmark.py.")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="", help="YAML file of keys that differ from the defaults")
    parser.add_argument("-t", "--targets", nargs="+", help="the first one's training split is used")
    parser.add_argument("--root", default="", help="folder that holds the data sets")
    parser.add_argument("--dry-run", action="store_true", help="list the chains, and do nothing")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="further keys: key value key value ...")
    return parser.parse_args(argv)
