"""Draw SynthReID, the embedded pedestrian world, in Market-1501's layout."""

from torchreid_genext.cli import run
from torchreid_genext.cli.make_synthreid import main

if __name__ == "__main__":
    run(main)
