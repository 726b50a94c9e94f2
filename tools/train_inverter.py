"""Train the inverter, images to identity codes; it reads the generator and the prior in data.save_dir."""

from torchreid_genext.cli import run
from torchreid_genext.cli.train_inverter import main

if __name__ == "__main__":
    run(main)
