"""Train the inverter, images to identity codes; it reads the generator and the prior in data.save_dir.

python tools/train_inverter.py --config-file configs/synthreid_genid.yaml --root reid-data
python tools/train_inverter.py --stages noise --config-file configs/synthreid_genid.yaml --root reid-data
python tools/train_inverter.py --stages cross --config-file configs/market1501_genid.yaml --root reid-data

The stage noise trains the inverter to noise; cross trains encoder and denoiser together and needs neither
generator nor prior.
"""

from __future__ import annotations

from collections.abc import Sequence

from torchreid_genext.cli import train_gen


def main(argv: Sequence[str] | None = None) -> None:
    train_gen.main(argv, stages=["inverter"], description=__doc__)
