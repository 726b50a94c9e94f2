"""Train IPG on any torchreid image data set that has joints: a person of one image in the pose of another.

torchreid-genext train-ipg --config-file configs/synthreid_ipg.yaml --root reid-data
"""

from __future__ import annotations

from collections.abc import Sequence

from torchreid_genext.cli.train_gen import parse_arguments, parser_of, train
from torchreid_genext.recipes.training import ipg


def main(argv: Sequence[str] | None = None) -> None:
    """Train what the command line asks for."""
    train(parse_arguments(argv, parser_of(__name__, __doc__), ipg, ["ipg"]), ipg)
