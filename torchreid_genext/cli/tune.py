"""Choose training-free steps on the training split of a data set, for any backbone.

torchreid-genext tune --config-file configs/market1501_tune.yaml --root reid-data model.load_weights w.pth
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from torchreid_genext.benchmark import tuning
from torchreid_genext.cli.parsing import Parser, configuration, set_up
from torchreid_genext.cli.running import check_failures
from torchreid_genext.retrieval.protocol import expand_chains


def main(argv: Sequence[str] | None = None) -> None:
    """Choose chains as the command line asks, or list them."""
    arguments = parse_arguments(argv)
    cfg = configuration(arguments)
    set_up(arguments)
    chains = expand_chains(cfg.genext.tune.chains)
    print(f"{len(chains)} chains on {cfg.genext.tune.folds} folds of training identities, no test image")
    if arguments.dry_run:
        print("\n".join(chain.name for chain in chains))
        return
    result = tuning.tune(cfg)
    print(f"\n{tuning.tuning_table(result)}\n\nBest:    {result.best.chain}")
    print(f"All:     {cfg.data.save_dir}/tuning.json")
    print("Measure the best one on the test split, once, with torchreid-genext benchmark.")
    check_failures(result.failures)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__name__, __doc__)
    parser.add_key(
        "-t",
        "--targets",
        "--dataset",
        key="data.targets",
        nargs=1,
        help="data set whose training split is used",
    )
    parser.add_root()
    parser.add_key("--output", key="data.save_dir", metavar="FOLDER", help="tuning.json")
    parser.add_key("--weights", key="model.load_weights", metavar="FILE", help="of the backbone model.name")
    parser.add_argument("--dry-run", action="store_true", help="list the chains, and do nothing")
    return parser.parse_args(argv)
