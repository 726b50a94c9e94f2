"""Train PG2, the Deformable GAN or CamStyle on any torchreid image data set; PG2 and Deformable need joints.

python tools/train_gan.py --config-file configs/synthreid_pg2.yaml --root reid-data
python tools/train_gan.py --config-file configs/synthreid_camstyle.yaml --root reid-data --resume
"""

from __future__ import annotations

from collections.abc import Sequence

from torchreid_genext.cli import train_gen
from torchreid_genext.recipes.training import gan


def main(argv: Sequence[str] | None = None) -> None:
    train_gen.main(argv, recipe=gan, stages=[], description=__doc__)
