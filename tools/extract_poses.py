"""Find the poses of images that have none, by torchvision's Keypoint R-CNN."""

from torchreid_genext.cli import run, verb

main = verb("extract-poses")

if __name__ == "__main__":
    run(main)
