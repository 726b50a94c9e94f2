"""Draw SynthReID, the embedded pedestrian world, in Market-1501's layout."""

from torchreid_genext.cli import run, verb

main = verb("make-synthreid")

if __name__ == "__main__":
    run(main)
