"""Measure generators against the truth, of a renderer or of photographs, on people they were not trained on."""

from torchreid_genext.cli import run, verb

main = verb("evaluate-generators")

if __name__ == "__main__":
    run(main)
