"""Train IPG on any torchreid image data set that has joints: a person of one image in the pose of another.

python tools/train_ipg.py --config-file configs/synthreid_ipg.yaml --root reid-data
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

import torchreid_genext as genext
from torchreid_genext import config
from torchreid_genext.recipes import ipg


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    cfg = config.load_config(
        arguments.config_file, arguments.opts, sources=arguments.sources, root=arguments.root
    )
    if arguments.resume:
        cfg.genext.training.resume = True
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    genext.register()
    config.write_config(cfg, cfg.data.save_dir)
    print(f"pipeline: {ipg.train(cfg)}")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="", help="YAML file of keys that differ from the defaults")
    parser.add_argument("-s", "--sources", nargs="+", help="the first one's training split is learnt from")
    parser.add_argument("--root", default="", help="folder that holds the data sets")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="further keys: key value key value ...")
    return parser.parse_args(argv)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
