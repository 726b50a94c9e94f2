"""Train IPG on any torchreid image data set that has joints: a person of one image in the pose of another.

python tools/train_ipg.py --config-file configs/synthreid_ipg.yaml --root reid-data
"""

from train_gen import run

from torchreid_genext.recipes.training import ipg

if __name__ == "__main__":
    run(recipe=ipg, stages=["ipg"], description=__doc__)
