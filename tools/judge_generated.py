"""Mark the pictures of a store that are no good, report, and draw sheets to look at."""

from torchreid_genext.cli import run, verb

main = verb("judge-generated")

if __name__ == "__main__":
    run(main)
