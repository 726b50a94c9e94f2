"""Search a gallery for images that nobody has labelled: ranked lists as JSON, CSV, npz and a page."""

from torchreid_genext.cli import run, verb

main = verb("search")

if __name__ == "__main__":
    run(main)
