"""Train a backbone with and without generated images, several times each, and say which of them help."""

from torchreid_genext.cli import run, verb

main = verb("compare-augmentations")

if __name__ == "__main__":
    run(main)
