"""Choose training-free steps on the training split of a data set, for any backbone."""

from torchreid_genext.cli import run, verb

main = verb("tune")

if __name__ == "__main__":
    run(main)
