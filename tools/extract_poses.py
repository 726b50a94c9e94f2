"""Find the poses of images that have none, by torchvision's Keypoint R-CNN."""

from torchreid_genext.cli import run
from torchreid_genext.cli.extract_poses import main

if __name__ == "__main__":
    run(main)
