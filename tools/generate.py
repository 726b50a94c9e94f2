"""Generate images of people."""

from torchreid_genext.cli import run, verb

main = verb("generate")

if __name__ == "__main__":
    run(main)
