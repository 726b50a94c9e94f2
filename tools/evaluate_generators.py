"""Measure generators against the truth that SynthReID's renderer knows, on people they were not trained on."""

from torchreid_genext.cli import run, verb

main = verb("evaluate-generators")

if __name__ == "__main__":
    run(main)
