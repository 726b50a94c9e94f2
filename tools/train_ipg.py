"""Train IPG on any torchreid image data set that has joints: a person of one image in the pose of another."""

from torchreid_genext.cli import run, verb

main = verb("train-ipg")

if __name__ == "__main__":
    run(main)
