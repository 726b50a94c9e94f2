"""Train IPG on any torchreid image data set that has joints: a person of one image in the pose of another.

python tools/train_ipg.py --config-file configs/synthreid_ipg.yaml --root reid-data
"""

from __future__ import annotations

from collections.abc import Sequence

from torchreid_genext.cli import train_gen
from torchreid_genext.recipes.training import ipg


def main(argv: Sequence[str] | None = None) -> None:
    train_gen.main(argv, recipe=ipg, stages=["ipg"], description=__doc__)
