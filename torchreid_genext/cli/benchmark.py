"""Measure backbones under chains of training-free steps, with features extracted once and cached.

torchreid-genext benchmark --config-file configs/market1501_osnet_x0_25.yaml model.load_weights weights.pth
torchrun --nproc-per-node 8 -m torchreid_genext benchmark ...    # processes share the images
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from torchreid_genext import benchmark
from torchreid_genext.benchmark.together import processes_of_torchrun
from torchreid_genext.cli.folders import add_folders, name_folders
from torchreid_genext.cli.parsing import Parser, configuration, set_up
from torchreid_genext.cli.running import check_failures


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, or tell what would be measured."""
    arguments = parse_arguments(argv)
    cfg = configuration(arguments)
    set_up(arguments)
    if arguments.dry_run:
        print(benchmark.describe(cfg))
        return
    with processes_of_torchrun() as prints:
        if not prints:
            logging.getLogger().setLevel(logging.ERROR)
        result = benchmark.run(cfg)
        if prints:
            print(f"\n{benchmark.table(result)}\n\n{whereabouts(result)}")
            check_failures(result.failures)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__name__, __doc__)
    parser.add_key("-t", "--targets", "--dataset", key="data.targets", nargs=1, help="data set to measure on")
    add_folders(parser)
    parser.add_root()
    parser.add_key("--output", key="data.save_dir", metavar="FOLDER", help="report and pictures")
    parser.add_key("--weights", key="model.load_weights", metavar="FILE", help="of the backbone model.name")
    chain = "as nfc+rerank; repeat it for more (default: base, l2, nfc)"
    parser.add_key("--chain", key="genext.benchmark.chains", action="append", help=chain)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_key(
        "--strict",
        key="genext.benchmark.strict",
        action="store_true",
        help="stop at an image that cannot be read",
    )
    return name_folders(parser.parse_args(argv), "data.targets")


def whereabouts(result: benchmark.Result) -> str:
    lines = [f"Report:   {result.folder / 'report.html'} (report.md, .json, .csv, config.yaml beside it)"]
    lines += [f"Picture:  {result.folder / name}" for name in result.pictures]
    return "\n".join(lines + [f"Lists:    {result.folder / name}" for name in result.rank_lists])
