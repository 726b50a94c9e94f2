"""Draw the oracle of pose-guided generation: each test person of SynthReID in eight standard poses."""

from torchreid_genext.cli import run, verb

main = verb("make-oracle-ipg")

if __name__ == "__main__":
    run(main)
