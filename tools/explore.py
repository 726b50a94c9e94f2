"""Look at what the package does, in a browser: searches with their reasons, people in poses, identity codes."""

from torchreid_genext.cli import run, verb

main = verb("explore")

if __name__ == "__main__":
    run(main)
