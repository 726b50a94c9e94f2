"""Train generative identity on any torchreid image data set: the generator, or all stages in order."""

from torchreid_genext.cli import run, verb

main = verb("train-gen")

if __name__ == "__main__":
    run(main)
