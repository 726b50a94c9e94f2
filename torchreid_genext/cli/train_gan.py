"""Train PG2, the Deformable GAN or CamStyle on any torchreid image data set; PG2 and Deformable need joints.

torchreid-genext train-gan --config-file configs/synthreid_pg2.yaml --root reid-data
torchreid-genext train-gan --config-file configs/synthreid_camstyle.yaml --root reid-data --resume
"""

from __future__ import annotations

from collections.abc import Sequence

from torchreid_genext.cli.train_gen import parse_arguments, parser_of, train
from torchreid_genext.recipes.training import gan


def main(argv: Sequence[str] | None = None) -> None:
    """Train what the command line asks for."""
    parser = parser_of(__name__, __doc__)
    parser.add_key(
        "--generator", key="genext.generator", choices=gan.STAGES, help="where no YAML file names it"
    )
    train(parse_arguments(argv, parser, gan, []), gan)
