"""Look whether this machine has all that a run needs; each fault comes with its cure."""

from torchreid_genext.cli import run, verb

main = verb("doctor")

if __name__ == "__main__":
    run(main)
