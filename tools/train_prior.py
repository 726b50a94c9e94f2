"""Train the prior over identity codes; it reads the generator that train_gen.py has left in data.save_dir."""

from torchreid_genext.cli import run
from torchreid_genext.cli.train_prior import main

if __name__ == "__main__":
    run(main)
