"""Measure generators against the truth that SynthReID's renderer knows, on people they were not trained on."""

from torchreid_genext.cli import run
from torchreid_genext.cli.evaluate_generators import main

if __name__ == "__main__":
    run(main)
