"""Fetch weights and data of others: goes on where it broke off, checks what came, and works with mirrors."""

from torchreid_genext.cli import run
from torchreid_genext.cli.download_pretrained import main

if __name__ == "__main__":
    run(main)
