"""Write features of any backbone, of a data set or a folder of images, as npz."""

from torchreid_genext.cli import run, verb

main = verb("extract")

if __name__ == "__main__":
    run(main)
