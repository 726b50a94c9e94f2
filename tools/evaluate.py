"""Measure features in files under chains of training-free steps."""

from torchreid_genext.cli import run, verb

main = verb("evaluate")

if __name__ == "__main__":
    run(main)
