"""Train PG2, the Deformable GAN or CamStyle on any torchreid image data set; PG2 and Deformable need joints."""

from torchreid_genext.cli import run, verb

main = verb("train-gan")

if __name__ == "__main__":
    run(main)
