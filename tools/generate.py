"""Generate images of people."""

from torchreid_genext.cli import run
from torchreid_genext.cli.generate import main

if __name__ == "__main__":
    run(main)
