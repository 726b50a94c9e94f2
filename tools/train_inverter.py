"""Train the inverter, images to identity codes; it reads the generator and the prior in data.save_dir."""

from torchreid_genext.cli import run, verb

main = verb("train-inverter")

if __name__ == "__main__":
    run(main)
