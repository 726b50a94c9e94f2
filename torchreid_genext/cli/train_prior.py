"""Train the prior over identity codes; it reads the generator that train-gen has left in data.save_dir.

torchreid-genext train-prior --config-file configs/synthreid_genid.yaml --root reid-data
"""

from __future__ import annotations

from collections.abc import Sequence

from torchreid_genext.cli.train_gen import parse_arguments, parser_of, train
from torchreid_genext.recipes.training import identity


def main(argv: Sequence[str] | None = None) -> None:
    """Train what the command line asks for."""
    train(parse_arguments(argv, parser_of(__name__, __doc__), identity, ["prior"]), identity)
