"""Train the prior over identity codes; it reads the generator that train_gen.py has left in data.save_dir.

python tools/train_prior.py --config-file configs/synthreid_genid.yaml --root reid-data
"""

from train_gen import run

if __name__ == "__main__":
    run(stages=["prior"], description=__doc__)
