"""Look after a store of generated images."""

from torchreid_genext.cli import run, verb

main = verb("store")

if __name__ == "__main__":
    run(main)
