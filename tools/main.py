"""Train and test torchreid models: torchreid's ``scripts/main.py`` with the keys of this plugin."""

from torchreid_genext.cli import run, verb

main = verb("main")

if __name__ == "__main__":
    run(main)
