"""Draw the oracle of pose-guided generation: each test person of SynthReID in eight standard poses."""

from torchreid_genext.cli import run
from torchreid_genext.cli.make_oracle_ipg import main

if __name__ == "__main__":
    run(main)
