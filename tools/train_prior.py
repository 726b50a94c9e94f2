"""Train the prior over identity codes; it reads the generator that train-gen has left in data.save_dir."""

from torchreid_genext.cli import run, verb

main = verb("train-prior")

if __name__ == "__main__":
    run(main)
