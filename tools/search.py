"""Search a gallery for images that nobody has labelled: ranked lists as JSON, CSV and npz."""

from torchreid_genext.cli import run, verb

main = verb("search")

if __name__ == "__main__":
    run(main)
