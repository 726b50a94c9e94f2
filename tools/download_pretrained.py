"""Fetch weights and data of others: goes on where it broke off, checks what came, and works with mirrors."""

from torchreid_genext.cli import run, verb

main = verb("download-pretrained")

if __name__ == "__main__":
    run(main)
