"""``python -m torchreid_genext VERB``, as the console command."""

from torchreid_genext.cli import console

if __name__ == "__main__":
    console()
