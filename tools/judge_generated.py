"""Mark the pictures of a store that are no good, report, and draw sheets to look at."""

from torchreid_genext.cli import run
from torchreid_genext.cli.judge_generated import main

if __name__ == "__main__":
    run(main)
