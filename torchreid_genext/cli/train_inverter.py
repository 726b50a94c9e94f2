"""Train the inverter, images to identity codes; it reads the generator and the prior in data.save_dir.

torchreid-genext train-inverter --config-file configs/synthreid_genid.yaml --root reid-data
torchreid-genext train-inverter --stages noise --config-file configs/synthreid_genid.yaml --root reid-data
torchreid-genext train-inverter --stages cross --config-file configs/market1501_genid.yaml --root reid-data

The stage noise trains the inverter to noise; cross trains encoder and denoiser together and needs neither
generator nor prior.
"""

from __future__ import annotations

from collections.abc import Sequence

from torchreid_genext.cli.train_gen import parse_arguments, parser_of, train
from torchreid_genext.recipes.training import identity


def main(argv: Sequence[str] | None = None) -> None:
    """Train what the command line asks for."""
    train(parse_arguments(argv, parser_of(__name__, __doc__), identity, ["inverter"]), identity)
