"""Measure backbones under chains of training-free steps, with features extracted once and cached."""

from torchreid_genext.cli import run, verb

main = verb("benchmark")

if __name__ == "__main__":
    run(main)
