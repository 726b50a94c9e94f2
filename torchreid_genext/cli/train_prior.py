"""Train the prior over identity codes; it reads the generator that train_gen.py has left in data.save_dir.

python tools/train_prior.py --config-file configs/synthreid_genid.yaml --root reid-data
"""

from __future__ import annotations

from collections.abc import Sequence

from torchreid_genext.cli import train_gen


def main(argv: Sequence[str] | None = None) -> None:
    train_gen.main(argv, stages=["prior"], description=__doc__)
