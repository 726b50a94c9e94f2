"""Train PG2, the Deformable GAN or CamStyle on any torchreid image data set; PG2 and Deformable need joints.

python tools/train_gan.py --config-file configs/synthreid_pg2.yaml --root reid-data
python tools/train_gan.py --config-file configs/synthreid_camstyle.yaml --root reid-data --resume
"""

from train_gen import run

from torchreid_genext.recipes.training import gan

if __name__ == "__main__":
    run(recipe=gan, stages=[], description=__doc__)
