"""Write a backbone as an ONNX file that gives the same features and the same table."""

from torchreid_genext.cli import run, verb

main = verb("export")

if __name__ == "__main__":
    run(main)
